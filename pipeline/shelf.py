"""Preprocessed images that the next run may take as they are, found by the sha256 of their file.

DVC deletes the outputs of a stage before it runs the stage again. So they are written here first,
beside the outputs, and linked to their place at the end, which costs no space. What a killed run
has left is used as well. In one folder: `last` is a whole run, `next` one that is being written.
"""

import csv
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from core.types import Batch, Pixels
from pipeline.archive import SPLITS
from pipeline.dataset import (
    MANIFEST,
    UNREADABLE,
    Row,
    Unreadable,
    images_file,
    indices_file,
    thumbnails_file,
)
from pipeline.similarity import THUMBNAIL_PX, Thumbnails
from pipeline.stage import fresh_folder

_KEY, _STAMP = "key", "stamp"
_FLUSH = 64  # images after which a killed run finds them again

Facts = tuple[str, ...]  # the columns of `Row` from sha256 on


class Cooked(NamedTuple):
    """One image as the model sees it, with its thumbnail and what the manifest says of it."""

    pixels: Pixels
    thumbnail: NDArray[np.uint8]
    facts: Facts


class _Place(NamedTuple):
    images: Batch
    thumbnails: Thumbnails
    number: int
    facts: Facts


class Shelf:
    """`key` names everything that the pixels depend on, but for the file itself."""

    def __init__(self, folder: Path, key: str) -> None:
        self._last, self._next, self._key = folder / "last", folder / "next", key
        self._known: dict[str, _Place] = {}
        # Files stay readable through their mapping when they are unlinked.
        for run in (self._last, self._next):
            if _text(run / _KEY) == key and _text(run / _STAMP) in ("", _stamp(run)):
                self._known |= {place.facts[0]: place for place in _places(run)}

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._known

    def get(self, sha256: str) -> Cooked:
        """The image whose file has this sha256; raises `KeyError`."""
        images, thumbnails, number, facts = self._known[sha256]
        return Cooked(images[number], thumbnails[number], facts)

    def writing(self) -> Path:
        """The folder to write the next run into."""
        folder = fresh_folder(self._next)
        (folder / _KEY).write_text(self._key, "utf-8")
        return folder

    def publish(self, outputs: Path) -> None:
        """Link the run that has been written to its place, and keep it for the next."""
        fresh_folder(outputs)
        for path in sorted(self._next.iterdir()):
            if path.name != _KEY:
                _link(path, outputs / path.name)
        # A file that is altered in its place is altered here too, and its time tells.
        (self._next / _STAMP).write_text(_stamp(self._next), "utf-8")
        shutil.rmtree(self._last, ignore_errors=True)
        self._next.rename(self._last)


class Writer:
    """Appends images to the arrays and the manifest of a folder."""

    def __init__(self, folder: Path, size_px: int) -> None:
        self._folder, self._size_px = folder, size_px
        self._manifest_file = (folder / MANIFEST).open("w", newline="", encoding="utf-8")
        self._unreadable_file = (folder / UNREADABLE).open("w", newline="", encoding="utf-8")
        self._manifest = csv.writer(self._manifest_file, lineterminator="\n")
        self._unreadable = csv.writer(self._unreadable_file, lineterminator="\n")
        self._manifest.writerow(Row._fields)
        self._unreadable.writerow(Unreadable._fields)
        shapes = ((images_file, (size_px, size_px, 3)), (thumbnails_file, (THUMBNAIL_PX,) * 2))
        self._arrays = {
            split: [_Array(where(folder, split), shape) for where, shape in shapes]
            for split in SPLITS
        }
        self._indices: dict[str, list[int]] = {split: [] for split in SPLITS}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manifest_file.close()
        self._unreadable_file.close()
        for split, arrays in self._arrays.items():
            for array in arrays:
                array.close()
            indices = np.array(self._indices[split], dtype=np.int64)
            np.save(indices_file(self._folder, split), indices)

    def add(self, split: str, path: str, class_index: int, image: Cooked) -> None:
        """Append one image."""
        arrays, indices = self._arrays[split], self._indices[split]
        for array, values in zip(arrays, (image.pixels, image.thumbnail), strict=True):
            array.append(values)
        indices.append(class_index)
        self._manifest.writerow((split, path, class_index, *image.facts))
        if len(indices) % _FLUSH == 0:
            for array in arrays:
                array.flush()
            self._manifest_file.flush()

    def add_unreadable(self, file: Unreadable) -> None:
        """Note a file that is no image."""
        self._unreadable.writerow(file)


class _Array:
    """A .npy file of uint8 that grows: its header is written again when the length is known."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._file, self._shape, self._length = path.open("wb"), shape, 0
        self._write_header()

    def append(self, values: NDArray[np.uint8]) -> None:
        self._file.write(np.ascontiguousarray(values).data)
        self._length += 1

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # NumPy leaves room in the header, so that a length of any digits fits.
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._length, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)


def _places(run: Path) -> Iterator[_Place]:
    """Every image of a run, also of one that was killed in the middle."""
    text = _text(run / MANIFEST)
    whole = text[: text.rfind("\n") + 1]  # the last line may be cut
    rows = [
        Row(*line) for line in csv.reader(whole.splitlines(True)) if len(line) == len(Row._fields)
    ]
    for split in SPLITS:
        images, thumbnails = (_grown(where(run, split)) for where in (images_file, thumbnails_file))
        of_split = (row for row in rows if row.split == split)
        for number, row in enumerate(islice(of_split, min(len(images), len(thumbnails)))):
            yield _Place(images, thumbnails, number, tuple(row[3:]))


def _grown(path: Path) -> NDArray[np.uint8]:
    """The whole rows of a .npy file, whatever number its header says; mapped."""
    empty = np.zeros((0, 0), dtype=np.uint8)
    if not path.exists():
        return empty
    with path.open("rb") as file:
        try:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError:
            return empty
        start = file.tell()
    row_bytes = int(np.prod(shape[1:]))
    length = (path.stat().st_size - start) // row_bytes
    if not length:
        return empty
    return np.memmap(path, dtype, "r", start, (length, *shape[1:]))


def _stamp(run: Path) -> str:
    """Sizes and times of the files of a run."""
    stats = [path.stat() for path in sorted(run.glob("*.*"))]
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        shutil.copyfile(source, target)
