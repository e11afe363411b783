"""The nouns of the house. Every record is frozen; arrays are aliases that say their shape once."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB, 0..255, EXIF orientation applied
Batch = NDArray[np.uint8]  # (N, S, S, 3); normalisation is inside the model graph
Scores = NDArray[np.float32]  # (N, C), softmax: each row sums to 1

Provider = Literal["cpu", "cuda"]  # what a model runs on, see core/bundle.py


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which bundle answered."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label and the softmax score that it got, 0..1."""

    label: str
    score: float


class InputStatistics(NamedTuple):
    """One image as four numbers; the first three are of the pixels that the model sees, 0..1."""

    brightness: float
    contrast: float
    sharpness: float
    megapixels: float


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image is: its size as seen upright, and its file format as Pillow names it.

    `statistics` are there when its pixels have been looked at; not for answers out of the database
    that are older than the columns which keep them.
    """

    width_px: int
    height_px: int
    format: str
    statistics: InputStatistics | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one image; `scores` are sorted, best first."""

    label: str
    confidence: float
    scores: tuple[LabelScore, ...]
    model: ModelRef
    image: ImageInfo


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one image could not be classified: a stable code, and a sentence that says what to do."""

    code: str
    detail: str


Outcome = Prediction | Failure


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a listing says of one file; equal stamps of one path are the same, unchanged file."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    def is_same_file(self, other: "Stamp") -> bool:
        """Whether these are one unchanged file, also after its file system was mounted anew.

        Network mounts and some others get another device number each time.
        """
        mine, theirs = (self.inode, self.size_bytes), (other.inode, other.size_bytes)
        return mine == theirs and self.mtime_ns == other.mtime_ns


@dataclass(frozen=True, slots=True)
class Delivery:
    """One file that arrived; every delivery ends as exactly one row.

    `path` is relative to the inbox; bytes that are not UTF-8 are surrogates (`os.fsdecode`).
    `attempts` counts this one; so many of them were `postponed`: the file could not be read.
    """

    id: str
    path: str
    stamp: Stamp
    attempts: int
    received_at: datetime
    postponed: int = 0

    @property
    def broken_off(self) -> int:
        """How many attempts came to no end, so that the file may be what ended the process."""
        return self.attempts - 1 - self.postponed


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The bytes of one image: their hash, the name they came under, and their number.

    `filename` is text; what the file system knows it by is `core.names.original(filename)`.
    """

    sha256: str
    filename: str
    size_bytes: int
