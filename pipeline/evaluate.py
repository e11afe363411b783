"""Stage 3: is what will be learned what the zip held, and is it fit to learn from?

Originals are compared with the preprocessed images of every recipe. Metrics and a report with
pictures are written in any case; a breach of a limit in params.yaml then stops the pipeline.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track

from core.recipe import Recipe
from core.types import Batch
from pipeline import checks, data_report
from pipeline.archive import SPLITS
from pipeline.checks import Check, Offender
from pipeline.dataset import (
    Row,
    Split,
    Unreadable,
    channel_figures,
    images_file,
    prepared,
    read_labels,
    read_manifest,
    read_recipe,
    read_split,
    read_unreadable,
    thumbnails_file,
)
from pipeline.independent import Comparison, compare
from pipeline.params import Evaluate, Params
from pipeline.pool import mapped
from pipeline.similarity import near_pairs
from pipeline.stage import StageError, console, counted, fresh_file, run
from pipeline.unzip import IMAGES
from pipeline.unzip import REPORT as ABOUT_THE_ZIP

METRICS = Path("metrics/evaluate.json")
REPORT = Path("reports/data.html")
PASSED = Path("data/evaluated.txt")

_STATISTICS_DIFFER = 1e-6  # between pixels and manifest, which has eight digits


class Prepared(NamedTuple):
    """Everything that `preprocess` wrote for one recipe."""

    name: str
    folder: Path
    recipe: Recipe
    labels: list[str]
    rows: list[Row]
    unreadable: list[Unreadable]
    splits: dict[str, Split]


def evaluate(params: Params, root: Path = Path()) -> None:
    """Write metrics and report; raises `StageError` with a sentence for every breach."""
    passed, metrics, report = (fresh_file(root / p) for p in (PASSED, METRICS, REPORT))
    about_zip = json.loads((root / ABOUT_THE_ZIP).read_text("utf-8"))
    data = [_read(root / prepared(name), name) for name in params.preprocess.recipes]
    # What is asked of the pictures themselves is asked of a recipe that shows all of them.
    data.sort(key=lambda one: (one.recipe.crop != "none", one.name))
    done = list(_checked(data, about_zip, params.evaluate, root / IMAGES))
    figures = _metrics(done, data[0])
    metrics.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    page = data_report.page(done, data[0].rows, data[0].labels, about_zip, root)
    report.write_text(page, "utf-8")
    for check in done:
        if check.is_noteworthy and not check.is_breach:
            console.print(f"note: {check.sentence}", markup=False)
    breaches = [check.sentence for check in done if check.is_breach]
    if breaches:
        raise StageError(
            f"the data has {counted(len(breaches), 'fault')}, shown in {REPORT}. Mend the zip, or "
            "raise the limit in params.yaml if it is meant to be so.\n- " + "\n- ".join(breaches)
        )
    # The same text each time: what hangs on it runs again when a fault is mended, not otherwise.
    passed.write_text("The data passed pipeline.evaluate.\n", "utf-8")
    console.print(f"the data passed {counted(len(done), 'check')}; see {REPORT}", markup=False)


def _read(folder: Path, name: str) -> Prepared:
    splits = {split: read_split(folder, split) for split in SPLITS}
    rows, unreadable = read_manifest(folder), read_unreadable(folder)
    return Prepared(
        name, folder, read_recipe(folder), read_labels(folder), rows, unreadable, splits
    )


def _checked(
    data: list[Prepared], about_zip: dict[str, Any], params: Evaluate, images: Path
) -> Iterator[Check]:
    files = _files(images)
    yield from _counts(files, about_zip)
    for one in data:
        yield from checks.mapping(files, one.rows, one.unreadable, one.name)
        indices = {name: split.indices.tolist() for name, split in one.splits.items()}
        yield from checks.labels(one.rows, indices, one.labels, one.name)
        yield from _arrays(one)
        yield from checks.comparisons(_compared(one, params, images), params, one.name)
    first = data[0]
    yield from checks.duplicates(first.rows, _near(first, params), params)
    yield from checks.classes(first.rows, first.labels, params)
    yield from checks.files(first.rows, first.unreadable, about_zip["left_out"], params)


def _files(images: Path) -> dict[str, str]:
    """Every file of data/images with its sha256."""
    paths = sorted(path for path in images.glob("*/*/*") if path.is_file())
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda p: hashlib.sha256(p.read_bytes()).hexdigest(), paths))
    names = [path.relative_to(images).as_posix() for path in paths]
    return dict(zip(names, digests, strict=True))


def _counts(files: dict[str, str], about_zip: dict[str, Any]) -> list[Check]:
    """As many images per split and class as were unpacked."""
    have: dict[tuple[str, str], int] = {}
    for path in files:
        split, label, _ = path.split("/")
        have[split, label] = have.get((split, label), 0) + 1
    unpacked = {
        (split, label): count
        for split, of_split in about_zip["images"].items()
        for label, count in of_split.items()
        if count
    }
    offenders = [
        Offender(("/".join(key),), f"{have.get(key, 0)} images, {unpacked.get(key, 0)} unpacked")
        for key in sorted(have.keys() | unpacked.keys())
        if have.get(key) != unpacked.get(key)
    ]
    what = "classes whose number of images is not that of the zip"
    return [Check("counts", what, len(offenders), offenders=tuple(offenders))]


def _arrays(one: Prepared) -> list[Check]:
    """Shape, type and range of the arrays, and whether the pixels are those of the manifest."""
    offenders, altered = [], []
    side = one.recipe.size_px
    for name, split in one.splits.items():
        rows = [row for row in one.rows if row.split == name]
        images = split.images
        if images.shape != (len(rows), side, side, 3) or len(split) != len(rows):
            detail = f"shape {images.shape}, {len(split)} labels, {len(rows)} rows of {side} px"
            offenders.append(Offender((name,), detail, one.name))
        if images.dtype != np.uint8:
            offenders.append(Offender((name,), f"{images.dtype}, not uint8", one.name))
        elif len(images) and max(image.max() for image in images) <= 1:
            offenders.append(Offender((name,), "no value above 1: scaled to 0..1?", one.name))
        else:
            altered += [
                Offender((row.path,), "mean or deviation is not that of the manifest", one.name)
                for row, image in zip(rows, images, strict=False)
                if not _agrees(row, image)
            ]
    return [
        Check("arrays", f"{one.name}: arrays of a wrong shape, type or range", len(offenders),
              offenders=tuple(offenders)),
        Check("manifest", f"{one.name}: images whose pixels have changed", len(altered),
              offenders=tuple(altered)),
    ]  # fmt: skip


def _agrees(row: Row, image: Batch) -> bool:
    if image.ndim != 3 or image.shape[2] != 3:
        return False
    noted = np.array((row.mean, row.std))
    return bool(np.allclose(channel_figures(image), noted, rtol=0, atol=_STATISTICS_DIFFER))


class _Job(NamedTuple):
    path: str
    array: str
    number: int


def _compared(one: Prepared, params: Evaluate, images: Path) -> list[tuple[str, Comparison | str]]:
    """At most `compared_images`, in the order of their sha256: at random, but always the same."""
    numbers = dict.fromkeys(SPLITS, 0)
    jobs = []
    for row in one.rows:
        number = numbers[row.split]
        numbers[row.split] += 1
        array = str(images_file(one.folder, row.split))
        if number < len(one.splits[row.split].images):
            jobs.append((row.sha256, _Job(row.path, array, number)))
    chosen = [job for _, job in sorted(jobs)[: params.compared_images]]
    look = partial(_compare, images=images, recipe=one.recipe)
    with mapped(look, chosen, params.workers) as looks:
        tracked = track(looks, f"compare {one.name}", total=len(chosen), console=console)
        pairs = [(job.path, found) for job, found in zip(chosen, tracked, strict=True)]
    return sorted((path, found) for path, found in pairs if found is not None)


def _compare(job: _Job, images: Path, recipe: Recipe) -> Comparison | str | None:
    try:
        data = (images / job.path).read_bytes()
        return compare(data, _mapped_array(job.array)[job.number], recipe)
    except Exception as error:  # noqa: BLE001 - strangers' bytes: decoders raise nearly anything
        return str(error) or type(error).__name__


@lru_cache(maxsize=8)
def _mapped_array(path: str) -> Batch:
    array: Batch = np.load(path, mmap_mode="r")
    return array


def _near(one: Prepared, params: Evaluate) -> list[tuple[int, int]]:
    """Pairs of near-duplicates by the number of their rows; blank images are all alike."""
    thumbnails = np.concatenate([np.load(thumbnails_file(one.folder, split)) for split in SPLITS])
    ordered = [n for split in SPLITS for n, row in enumerate(one.rows) if row.split == split]
    kept = [
        (place, number)
        for place, number in enumerate(ordered[: len(thumbnails)])
        if not checks.is_blank(one.rows[number], params)
    ]
    hashes = np.array([int(one.rows[number].dhash, 16) for _, number in kept], dtype=np.uint64)
    pairs = near_pairs(hashes, thumbnails[[p for p, _ in kept]], params.near_duplicate_levels)
    numbers = [number for _, number in kept]
    return [(min(p), max(p)) for p in ((numbers[i], numbers[j]) for i, j in pairs)]


def _metrics(done: list[Check], first: Prepared) -> dict[str, Any]:
    """Numbers alone, for `dvc metrics`: the worst of each check over the recipes."""
    values: dict[str, float] = {}
    for check in done:
        pick = min if check.is_floor else max
        values[check.name] = pick(check.value, values.get(check.name, check.value))
    splits = {split: sum(row.split == split for row in first.rows) for split in SPLITS}
    breaches = sum(check.is_breach for check in done)
    return {"images": splits, "classes": len(first.labels), "breaches": breaches, **values}


if __name__ == "__main__":
    run(evaluate)
