"""The preprocessed images on disk: what `preprocess` writes and what `train` and `export` read.

In one folder per recipe: `SPLIT.npy` (N, S, S, 3) uint8, `SPLIT.labels.npy` (N,) int64,
`manifest.csv` with a row per image, `labels.txt` with a label per class index, and `recipe.json`.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.recipe import Recipe
from core.types import Batch, ImageInfo

PREPARED = Path("data/preprocessed")
MANIFEST = "manifest.csv"

_LABELS, _RECIPE = "labels.txt", "recipe.json"

Indices = NDArray[np.int64]  # (N,), the class index of every image


@dataclass(frozen=True, slots=True)
class Split:
    """`images` is mapped from disk: memory holds what is in use, at the speed of the page cache."""

    images: Batch
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)


def prepared(recipe: str) -> Path:
    """Where the images of one recipe of params.yaml are."""
    return PREPARED / recipe


def images_file(folder: Path, split: str) -> Path:
    """Where the pixels of a split are."""
    return folder / f"{split}.npy"


def indices_file(folder: Path, split: str) -> Path:
    """Where the class indices of a split are."""
    return folder / f"{split}.labels.npy"


def read_split(folder: Path, split: str) -> Split:
    """One of train, valid and test."""
    images = np.load(images_file(folder, split), mmap_mode="r")
    return Split(images, np.load(indices_file(folder, split)))


def read_images_info(folder: Path, split: str) -> list[ImageInfo]:
    """Size and format of the original of every image of a split, in order."""
    with (folder / MANIFEST).open(newline="", encoding="utf-8") as file:
        return [
            ImageInfo(int(row["width_px"]), int(row["height_px"]), row["format"])
            for row in csv.DictReader(file)
            if row["split"] == split
        ]


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
