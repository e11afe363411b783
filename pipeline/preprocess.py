"""Stage 2: every image becomes the pixels that serving would make of it, by the same function.

Decoding is spread over processes; the result does not depend on how many there are.
"""

import csv
import hashlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from core.errors import ImageError
from core.image import preprocess as to_pixels
from core.recipe import Recipe
from core.types import Batch, ImageInfo, Pixels
from pipeline.archive import SPLITS
from pipeline.dataset import MANIFEST, images_file, indices_file, prepared, write_meta
from pipeline.params import Preprocess, RecipeParams, Triple
from pipeline.stage import StageError, console, fresh_folder, run
from pipeline.unzip import IMAGES

_COLUMNS = ("split", "label", "path", "sha256", "width_px", "height_px", "format")
_CHUNK = 32  # images handed to a process at once
_LOOK = 200  # images whose size is looked at where params.yaml names none
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_AS_IS: Triple = (1.0, 1.0, 1.0)

Sample = tuple[str, int]  # path and class index, as torchvision lists them


class Prepared(NamedTuple):
    """One image as the model sees it, and what its file was."""

    pixels: Pixels
    sha256: str
    info: ImageInfo


Prepare = Callable[[list[str]], Iterator[Prepared]]


def preprocess(params: Preprocess, name: str, root: Path = Path()) -> None:
    """Write data/preprocessed/NAME (`pipeline.dataset`), NAME being that of a recipe.

    A `StageError` names an unreadable image.
    """
    labels, samples = _listed(root / IMAGES)
    wanted = params.recipes[name]
    size_px = wanted.size_px or _size_px(samples["train"], wanted)
    recipe = _recipe(wanted, size_px, wanted.mean or (0.0, 0.0, 0.0), wanted.std or _AS_IS)
    folder = fresh_folder(root / prepared(name))
    with _processes(params, recipe) as prepare, (folder / MANIFEST).open("w", newline="") as file:
        manifest = csv.writer(file, lineterminator="\n")
        manifest.writerow(_COLUMNS)
        for split in SPLITS:
            files = _write_split(folder, split, samples[split], prepare, size_px)
            for (path, index), described in zip(samples[split], files, strict=True):
                where = Path(path).relative_to(root / IMAGES).as_posix()
                manifest.writerow((split, labels[index], where, *described))
    mean, std = channel_statistics(np.load(images_file(folder, "train"), mmap_mode="r"))
    write_meta(folder, labels, _recipe(wanted, size_px, wanted.mean or mean, wanted.std or std))


def channel_statistics(images: Batch) -> tuple[Triple, Triple]:
    """Mean and standard deviation per channel of (N, S, S, 3), on the scale 0..1."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for image in images:
        counts += [np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(3)]
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    return _triple(mean), _triple(np.sqrt(np.maximum(variance, 0)))


def _triple(values: NDArray[np.float64]) -> Triple:
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue


def _size_px(samples: list[Sample], params: RecipeParams) -> int:
    """The median short side of at most `_LOOK` images, spread over all; no larger than allowed."""
    sides_px = []
    for path, _ in samples[:: max(1, len(samples) // _LOOK)]:
        with (
            suppress(OSError, *_BOMBS),
            Image.open(path) as image,
        ):  # a bad one is named when it is decoded
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


def _listed(images: Path) -> tuple[list[str], dict[str, list[Sample]]]:
    """The labels and, per split, every sample in torchvision's order (sorted)."""
    # Here and not above: the processes import this module, and need no torch.
    from torchvision.datasets import ImageFolder  # noqa: PLC0415

    folders = {
        split: ImageFolder(str(images / split), is_valid_file=lambda _: True) for split in SPLITS
    }
    samples = {split: list(folder.samples) for split, folder in folders.items()}
    return list(folders["train"].classes), samples


@contextmanager
def _processes(params: Preprocess, recipe: Recipe) -> Iterator[Prepare]:
    """A function from paths to prepared images, in order: over this process alone, or over many."""
    one = partial(_prepare, recipe=recipe, max_pixels=params.max_pixels)
    workers = params.workers or os.cpu_count() or 1
    if workers == 1:
        yield partial(map, one)
        return
    # Spawned, not forked: the parent has threads (torch's, the progress bar's).
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield partial(pool.map, one, chunksize=_CHUNK)


def _prepare(path: str, recipe: Recipe, max_pixels: int) -> Prepared:
    data = Path(path).read_bytes()
    try:
        pixels, info = to_pixels(data, recipe, max_pixels)
    except ImageError as error:
        raise StageError(f"{path}: {error}") from None
    return Prepared(pixels, hashlib.sha256(data).hexdigest(), info)


def _write_split(
    folder: Path, split: str, samples: list[Sample], prepare: Prepare, size_px: int
) -> list[tuple[str, int, int, str]]:
    """Write the pixels and class indices of a split; return what the manifest says of each file."""
    shape = (len(samples), size_px, size_px, 3)
    images = np.lib.format.open_memmap(
        images_file(folder, split), mode="w+", dtype=np.uint8, shape=shape
    )
    np.save(indices_file(folder, split), np.array([index for _, index in samples], dtype=np.int64))
    files: list[tuple[str, int, int, str]] = []
    all_prepared = prepare([path for path, _ in samples])
    for image in track(all_prepared, split, total=len(samples), console=console):
        images[len(files)] = image.pixels
        files.append((image.sha256, image.info.width_px, image.info.height_px, image.info.format))
    images.flush()
    return files


if __name__ == "__main__":
    run(lambda params: preprocess(params.preprocess, sys.argv[1]))
