"""The preprocessed images on disk: what `preprocess` writes and what later stages read.

In one folder per recipe: `SPLIT.npy` (N, S, S, 3) uint8, `SPLIT.labels.npy` (N,) int64,
`SPLIT.thumbnails.npy` (N, 16, 16) uint8, `manifest.csv` with a row per image, `unreadable.csv` with
a row per file that is no image, `labels.txt` with a label per class index, and `recipe.json`.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.recipe import Recipe
from core.types import Batch, Pixels

PREPARED = Path("data/preprocessed")
MANIFEST = "manifest.csv"
UNREADABLE = "unreadable.csv"

_LABELS, _RECIPE = "labels.txt", "recipe.json"

Indices = NDArray[np.int64]  # (N,), the class index of every image
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Split:
    """`images` is mapped from disk: memory holds what is in use, at the speed of the page cache."""

    images: Batch
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)


class Row(NamedTuple):
    """One line of manifest.csv, as text; lines are in the order of the arrays.

    `path`: relative to data/images. Size, format and mode are those of the file; mean and standard
    deviation, 0..1, and the dHash, in hexadecimal, those of the pixels that the model sees.
    """

    split: str
    path: str
    class_index: str
    sha256: str
    width_px: str
    height_px: str
    format: str
    mode: str
    mean_red: str
    mean_green: str
    mean_blue: str
    std_red: str
    std_green: str
    std_blue: str
    dhash: str

    @property
    def mean(self) -> Triple:
        """Per channel."""
        return float(self.mean_red), float(self.mean_green), float(self.mean_blue)

    @property
    def std(self) -> Triple:
        """Per channel."""
        return float(self.std_red), float(self.std_green), float(self.std_blue)


class Unreadable(NamedTuple):
    """One line of unreadable.csv: a file of data/images, and why it could not be decoded."""

    path: str
    sha256: str
    reason: str


def channel_figures(pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation per channel of (H, W, 3) uint8, on the scale 0..1."""
    counts = np.array(Image.fromarray(pixels).histogram()).reshape(3, 256)
    values = np.arange(256) / 255
    mean = counts @ values / counts[0].sum()
    variance = counts @ values**2 / counts[0].sum() - mean**2
    return mean, np.sqrt(np.maximum(variance, 0))


def prepared(recipe: str) -> Path:
    """Where the images of one recipe of params.yaml are."""
    return PREPARED / recipe


def images_file(folder: Path, split: str) -> Path:
    """Where the pixels of a split are."""
    return folder / f"{split}.npy"


def indices_file(folder: Path, split: str) -> Path:
    """Where the class indices of a split are."""
    return folder / f"{split}.labels.npy"


def thumbnails_file(folder: Path, split: str) -> Path:
    """Where the thumbnails of a split are, by which near-duplicates are found."""
    return folder / f"{split}.thumbnails.npy"


def read_split(folder: Path, split: str) -> Split:
    """One of train, valid and test."""
    images = np.load(images_file(folder, split), mmap_mode="r")
    return Split(images, np.load(indices_file(folder, split)))


def read_manifest(folder: Path) -> list[Row]:
    """A row per image, in the order of the arrays."""
    return [Row(*line) for line in _lines(folder / MANIFEST)]


def read_unreadable(folder: Path) -> list[Unreadable]:
    """The files that `preprocess` had to leave out."""
    return [Unreadable(*line) for line in _lines(folder / UNREADABLE)]


def write_meta(folder: Path, labels: list[str], recipe: Recipe) -> None:
    """Note what the class indices mean and how the pixels were made."""
    (folder / _LABELS).write_text("".join(f"{label}\n" for label in labels), "utf-8")
    (folder / _RECIPE).write_text(json.dumps(recipe.to_dict(), indent=2) + "\n", "utf-8")


def read_labels(folder: Path) -> list[str]:
    """The labels in the order of the class indices."""
    return (folder / _LABELS).read_text("utf-8").splitlines()


def read_recipe(folder: Path) -> Recipe:
    """How the pixels were made: what serving must do as well."""
    return Recipe.from_dict(json.loads((folder / _RECIPE).read_text("utf-8")))


def _lines(path: Path) -> Iterator[list[str]]:
    """The lines of a CSV file after the first, which names the columns."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        next(lines)
        yield from lines
