"""Stage 2: every image becomes the pixels that serving would make of it, by the same function.

    python -m pipeline.preprocess RECIPE

Decoding is spread over processes; the result does not depend on how many there are. An image whose
file was preprocessed in the last run is taken from there (`pipeline.shelf`). A file that is no
image is left out and named; `evaluate` decides how many of these are too many.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image
from rich.progress import track

from core import image as decoding
from core import recipe as recipes
from core.errors import ImageError
from core.image import FORMATS
from core.image import preprocess as to_pixels
from core.recipe import Recipe
from pipeline import similarity
from pipeline.archive import SPLITS
from pipeline.dataset import (
    Row,
    Triple,
    Unreadable,
    channel_figures,
    prepared,
    read_manifest,
    write_meta,
)
from pipeline.digests import digests_of
from pipeline.params import Preprocess, RecipeParams
from pipeline.pool import mapped
from pipeline.shelf import Cooked, Shelf, Writer
from pipeline.similarity import fingerprint
from pipeline.stage import console, counted, run, shown
from pipeline.unzip import IMAGES

SHELVES = Path("data/cache")

_LOOK = 200  # images whose size is looked at where params.yaml names none
_TOLD = 20  # unreadable files that are named on the terminal
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class Sample(NamedTuple):
    """One file in data/images: `path` is relative to that."""

    split: str
    path: str
    class_index: int


def preprocess(params: Preprocess, name: str, root: Path = Path()) -> None:
    """Write data/preprocessed/NAME (`pipeline.dataset`), NAME being that of a recipe."""
    images = root / IMAGES
    labels, samples = listed(images)
    wanted = params.recipes[name]
    size_px = wanted.size_px or _size_px(images, samples, wanted)
    recipe = _recipe(wanted, size_px, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    shelf = Shelf(root / SHELVES / name, _key(recipe, params.max_pixels))
    digests = digests_of(root, images, [sample.path for sample in samples])
    new = [images / s.path for s, d in zip(samples, digests, strict=True) if d not in shelf]
    folder = shelf.writing()
    cook = partial(_cook, recipe=recipe, max_pixels=params.max_pixels)
    with mapped(cook, new, params.workers) as cooked, Writer(folder, size_px) as writer:
        unreadable = _written(name, samples, digests, shelf, iter(cooked), writer)
    mean, std = channel_statistics(row for row in read_manifest(folder) if row.split == "train")
    write_meta(folder, labels, _recipe(wanted, size_px, wanted.mean or mean, wanted.std or std))
    shelf.publish(root / prepared(name))
    _tell(name, size_px, len(samples), len(new), unreadable)


def listed(images: Path) -> tuple[list[str], list[Sample]]:
    """The labels and every file of data/images, by split, class and name."""
    files = {
        split: sorted(path.relative_to(images).parts for path in (images / split).glob("*/*"))
        for split in SPLITS
    }
    labels = sorted({label for _, label, _ in files["train"]})
    index_of = {label: index for index, label in enumerate(labels)}
    samples = [
        Sample(split, "/".join(parts), index_of[parts[1]])
        for split in SPLITS
        for parts in files[split]
    ]
    return labels, samples


def channel_statistics(rows: Iterable[Row]) -> tuple[Triple, Triple]:
    """Mean and standard deviation per channel of images of one size, 0..1, from their own."""
    figures = np.array([(row.mean, row.std) for row in rows])  # (N, 2, 3)
    if not len(figures):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean = figures[:, 0].mean(axis=0)
    variance = (figures[:, 1] ** 2 + figures[:, 0] ** 2).mean(axis=0) - mean**2
    # A channel that never changes has none, and nothing can be divided by it.
    std = np.maximum(np.sqrt(np.maximum(variance, 0)), 1e-3)
    return _triple(mean), _triple(std)


def _triple(values: Iterable[float]) -> Triple:
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue


def _size_px(images: Path, samples: list[Sample], params: RecipeParams) -> int:
    """The median short side of at most `_LOOK` images, spread over all; no larger than allowed."""
    paths = [images / sample.path for sample in samples if sample.split == "train"]
    sides_px = []
    for path in paths[:: max(1, len(paths) // _LOOK)]:
        # A bad one is named when it is decoded.
        with suppress(OSError, *_BOMBS), Image.open(path, formats=FORMATS) as image:
            sides_px.append(min(image.size))
    median_px = int(np.median(sides_px)) if sides_px else 1
    return min(median_px, params.max_size_px or median_px)


def _recipe(params: RecipeParams, size_px: int, mean: Triple, std: Triple) -> Recipe:
    return Recipe(
        size_px=size_px,
        mean=mean,
        std=std,
        crop=params.crop,
        short_side_px=params.short_side_px,
        interpolation=params.interpolation,
        background=params.background,
    )


def _key(recipe: Recipe, max_pixels: int) -> str:
    """Everything that the pixels of an image depend on, but for its file."""
    modules = (decoding, recipes, similarity, sys.modules[__name__])
    code = [hashlib.sha256(Path(m.__file__ or "").read_bytes()).hexdigest() for m in modules]
    return json.dumps([recipe.to_dict(), max_pixels, PIL.__version__, np.__version__, code])


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _written(
    name: str,
    samples: list[Sample],
    digests: list[str],
    shelf: Shelf,
    cooked: Iterator[Cooked | Unreadable],
    writer: Writer,
) -> list[Unreadable]:
    """Write every image in order, from the shelf or from the processes; return what is none."""
    unreadable = []
    both = zip(samples, digests, strict=True)
    for sample, digest in track(both, name, total=len(samples), console=console):
        image = shelf.get(digest) if digest in shelf else next(cooked)
        if isinstance(image, Unreadable):
            unreadable.append(image._replace(path=sample.path))
            writer.add_unreadable(unreadable[-1])
        else:
            writer.add(*sample, image)
    return unreadable


def _cook(path: Path, recipe: Recipe, max_pixels: int) -> Cooked | Unreadable:
    data = path.read_bytes()
    try:
        pixels, info = to_pixels(data, recipe, max_pixels)
    except ImageError as error:
        return Unreadable(str(path), _sha256(data), str(error))
    one = fingerprint(pixels)
    size = (str(info.width_px), str(info.height_px))
    mean, std = channel_figures(pixels)
    figures = [f"{figure:.8f}" for figure in (*mean, *std)]
    facts = (_sha256(data), *size, info.format, _mode(path), *figures, f"{one.dhash:016x}")
    return Cooked(pixels, one.thumbnail, facts)


def _mode(path: Path) -> str:
    """Pillow's name for the kind of pixels in a file that has been decoded before."""
    with Image.open(path, formats=FORMATS) as image:
        return image.mode


def _tell(name: str, size_px: int, total: int, new: int, unreadable: list[Unreadable]) -> None:
    console.print(
        f"{name}: {counted(total - len(unreadable), 'image')} of {size_px} px; "
        f"{counted(total - new, 'image')} as in the last run"
    )
    for file in unreadable[:_TOLD]:
        console.print(f"left out: {shown(file.path)}: {file.reason}", markup=False)
    if len(unreadable) > _TOLD:
        console.print(f"left out: {counted(len(unreadable) - _TOLD, 'more file')}")


if __name__ == "__main__":
    run(lambda params: preprocess(params.preprocess, sys.argv[1]))
