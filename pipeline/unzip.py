"""Stage 1: the zip becomes data/images/SPLIT/CLASS/. Runs again only when the zip changes."""

import hashlib
import json
import shutil
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import track

from core.errors import ImageError
from core.image import preprocess as to_pixels
from core.recipe import Recipe
from pipeline import archive, split
from pipeline.archive import SPLITS, DamagedMemberError, Entry, Layout
from pipeline.digests import Digest, remember, stamp
from pipeline.params import Unzip
from pipeline.pool import mapped
from pipeline.similarity import Fingerprint, fingerprint, grouped, near_pairs, stacked
from pipeline.stage import StageError, console, counted, fresh_file, fresh_folder, run, shown

IMAGES = Path("data/images")
REPORT = Path("data/unzip.json")

_MAX_PIXELS = 100_000_000
_SMALL = Recipe(size_px=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def unzip(params: Unzip, root: Path = Path()) -> None:
    """Unpack the images of a zip that may come from anybody; raises `StageError`.

    What was left out and what a user should know goes to data/unzip.json.
    """
    report = fresh_file(root / REPORT)
    with archive.opened(root / params.archive) as zip_file:
        archive.check_limits(zip_file, params)
        layout = archive.layout(zip_file)
        _check_disk(zip_file, root)
        folder = fresh_folder(root / IMAGES)
        try:
            layout.entries, digests = _unpacked(zip_file, layout, folder)
        except OSError as error:
            raise StageError(f"{params.archive} cannot be unpacked: {error}") from error
    _cut(layout, digests, folder, params)
    _note(root, layout.entries, digests)
    summary = _summary(layout)
    report.write_text(json.dumps(summary, indent=2, ensure_ascii=True) + "\n", "utf-8")
    _tell(params, layout, summary["images"])


def _check_disk(zip_file: zipfile.ZipFile, root: Path) -> None:
    needed = sum(info.file_size for info in zip_file.infolist())
    free = shutil.disk_usage(root).free
    if needed > free:
        raise StageError(f"the zip unpacks to {needed:,} bytes, and the disk has {free:,} free.")


def _unpacked(
    zip_file: zipfile.ZipFile, layout: Layout, folder: Path
) -> tuple[list[Entry], list[str]]:
    """The entries whose files could be written, and their sha256; a damaged one is left out."""
    whole, digests = [], []
    for entry in track(layout.entries, "unzip", console=console):
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        try:
            with target.open("xb") as file:
                for chunk in archive.chunks(zip_file, entry.info):
                    digest.update(chunk)
                    file.write(chunk)
        except DamagedMemberError as error:
            target.unlink()
            layout.leave_out(entry.info, str(error))
        else:
            whole.append(entry)
            digests.append(digest.hexdigest())
    if not whole:
        raise StageError("every image in the zip is damaged. Pack it again.")
    return whole, digests


def _cut(layout: Layout, digests: list[str], folder: Path, params: Unzip) -> None:
    """Move images of train to the splits that the zip does not have."""
    quotas = split.wanted([entry[:2] for entry in layout.entries], params)
    if not quotas:
        return
    items = [split.Item(*e[:2], sha256) for e, sha256 in zip(layout.entries, digests, strict=True)]
    prints = _looked_at(layout.entries, folder, params.workers)
    readable = [number for number, one in enumerate(prints) if one]
    pairs = near_pairs(*stacked([one for one in prints if one]), params.near_duplicate_levels)
    groups = [[readable[n] for n in group] for group in grouped(len(readable), pairs)]
    moved = split.cut(items, groups, quotas, params.split_seed)
    for number, target in moved.items():
        entry = layout.entries[number]
        layout.entries[number] = entry._replace(split=target)
        (folder / layout.entries[number].path).parent.mkdir(parents=True, exist_ok=True)
        (folder / entry.path).rename(folder / layout.entries[number].path)
    layout.notes += _said(Counter((moved[n], items[n].label) for n in moved), quotas)


def _looked_at(entries: list[Entry], folder: Path, workers: int) -> list[Fingerprint | None]:
    paths = [folder / entry.path for entry in entries]
    with mapped(_look, paths, workers) as looks:
        return list(track(looks, "compare", total=len(paths), console=console))


def _look(path: Path) -> Fingerprint | None:
    """The fingerprint of a file, if it is an image."""
    try:
        pixels, _ = to_pixels(path.read_bytes(), _SMALL, _MAX_PIXELS)
    except ImageError:
        return None
    return fingerprint(pixels)


def _note(root: Path, entries: list[Entry], digests: list[str]) -> None:
    both = zip((entry.path for entry in entries), digests, strict=True)
    remember(root, (Digest(path, stamp(root / IMAGES / path), sha256) for path, sha256 in both))


def _said(given: Counter[tuple[str, str]], quotas: split.Quotas) -> list[str]:
    notes = []
    for name in ("valid", "test"):
        labels = [label for of_split, label in quotas if of_split == name]
        if labels:
            count = sum(given[name, label] for label in labels)
            whose = "" if len(labels) > 8 else f" ({', '.join(map(shown, labels))})"
            notes.append(
                f"{name} has no images of its own for {len(labels)} of the classes{whose}: "
                f"{counted(count, 'image')} of train went there, near-duplicates together."
            )
    return notes


def _summary(layout: Layout) -> dict[str, Any]:
    """What later stages and the report of the data need to know; no name of the zip, no time."""
    counts = Counter(entry[:2] for entry in layout.entries)
    labels = sorted({label for _, label in counts})
    return {
        "images": {name: {label: counts[name, label] for label in labels} for name in SPLITS},
        "left_out": [one._asdict() for one in sorted(layout.left_out)],
        "notes": sorted(layout.notes),
    }


def _tell(params: Unzip, layout: Layout, images: dict[str, dict[str, int]]) -> None:
    splits = ", ".join(f"{name} {sum(images[name].values()):,}" for name in SPLITS)
    console.print(
        f"{params.archive}: {counted(len(layout.entries), 'image')} ({splits})", markup=False
    )
    say = partial(console.print, markup=False)
    for note in sorted(layout.notes):
        say(f"note: {note}")
    for one in sorted(layout.left_out)[:20]:
        say(f"left out: {shown(one.member)}: {one.reason}")
    if len(layout.left_out) > 20:
        say(f"left out: {len(layout.left_out) - 20:,} more, see {REPORT}")


if __name__ == "__main__":
    run(lambda params: unzip(params.unzip))
