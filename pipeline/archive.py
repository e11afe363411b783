"""A stranger's zip, read with suspicion: what is safe to unpack, and where it belongs.

Understood are the folders train, valid and test (also Training, val, validation, testing) with one
folder per class, at the top or inside other folders. Left out: what systems and tools leave behind,
and outside of the class folders whatever is not an image.
"""

import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.params import Unzip
from pipeline.stage import StageError

SPLITS = ("train", "valid", "test")

_SPELLINGS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}
_JUNK = ("__macosx", "thumbs.db", "desktop.ini")
_IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
_ENCRYPTED = 0x1
_ABSOLUTE = re.compile(r"/|[A-Za-z]:")
_LAYOUT = "Expected are the folders train, valid and test, each with a folder of images per class."

Parts = tuple[str, ...]


class Entry(NamedTuple):
    """One image: `name` is its path inside the class folder, `info` is where the zip keeps it."""

    split: str
    label: str
    name: str
    info: zipfile.ZipInfo


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip; what is wrong with the file itself becomes a `StageError`."""
    if not path.is_file():
        raise StageError(f"{path} is not here. Name your zip in params.yaml, unzip.archive.")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
        raise StageError(f"{path} is damaged or not a zip ({error}). Pack it again.") from error


def images(archive: zipfile.ZipFile) -> list[Entry]:
    """Every image, sorted; raises `StageError` if a member is unsafe or a folder not understood."""
    files = [
        (parts, info)
        for info in archive.infolist()
        if not info.is_dir() and not _is_junk(parts := _safe_parts(info))
    ]
    files = _without_outer_folders(files)
    entries, strays = [], []
    for parts, info in files:
        if len(parts) >= 3 and (split := _SPELLINGS.get(parts[0].casefold())):
            entries.append(Entry(split, parts[1], "/".join(parts[2:]), info))
        elif PurePosixPath(parts[-1]).suffix.lower() in _IMAGE_SUFFIXES:
            strays.append(parts)
    seen = _described([parts for parts, _ in files])
    _check_layout(entries, strays, seen)
    return sorted(entries, key=lambda entry: entry[:3])


def check_limits(archive: zipfile.ZipFile, limits: Unzip) -> None:
    """Refuse a bomb by the sizes that it declares: `zipfile` never unpacks more than declared."""
    count = len(archive.infolist())
    total = sum(info.file_size for info in archive.infolist())
    packed = max(1, sum(info.compress_size for info in archive.infolist()))
    for key, value, limit in (
        ("max_files", count, limits.max_files),
        ("max_total_bytes", total, limits.max_total_bytes),
        ("max_ratio", total // packed, limits.max_ratio),
    ):
        if value > limit:
            raise StageError(
                f"{archive.filename}: {value:,} is above the limit unzip.{key} = {limit:,}. "
                "Raise it in params.yaml if you trust this zip."
            )


def _safe_parts(info: zipfile.ZipInfo) -> Parts:
    """The path of a member; raises `StageError` if it leaves the folder or is no plain file."""
    name = info.filename.replace("\\", "/")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if _ABSOLUTE.match(name) or ".." in parts or not parts:
        raise StageError(f"the zip is unsafe: {info.filename!r} points outside its folder.")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise StageError(f"the zip is unsafe: {info.filename!r} is a link or a device, not a file.")
    if info.flag_bits & _ENCRYPTED:
        raise StageError(f"{info.filename!r} is locked by a password. Pack the zip without one.")
    return parts


def _is_junk(parts: Parts) -> bool:
    return any(part.startswith(".") or part.casefold() in _JUNK for part in parts)


def _without_outer_folders(
    files: list[tuple[Parts, zipfile.ZipInfo]],
) -> list[tuple[Parts, zipfile.ZipInfo]]:
    """Strip folders that merely hold everything, as `dataset/` in `dataset/train/cat/1.png`."""
    tops = {parts[0] for parts, _ in files if len(parts) > 1}
    if len(tops) != 1 or tops.pop().casefold() in _SPELLINGS:
        return files
    inner = [(parts[1:], info) for parts, info in files if len(parts) > 1]
    return _without_outer_folders(inner)


def _check_layout(entries: list[Entry], strays: list[Parts], seen: str) -> None:
    if not entries and any(len(parts) == 2 for parts in strays):
        raise StageError(
            f"the zip holds class folders alone: {seen}. Splitting them is not done yet: move the "
            "images into train/CLASS, valid/CLASS and test/CLASS."
        )
    if not entries or strays:
        raise StageError(f"the zip has images in other places: {seen}. {_LAYOUT}")
    classes = {split: {e.label for e in entries if e.split == split} for split in SPLITS}
    if any(classes[split] != classes["train"] for split in SPLITS) or len(classes["train"]) < 2:
        raise StageError(
            f"the splits need the same two or more classes, the zip holds: {seen}. {_LAYOUT}"
        )
    ((target, count),) = Counter(entry[:3] for entry in entries).most_common(1)
    if count > 1:
        raise StageError(f"the zip holds {'/'.join(target)} {count} times. Keep one of them.")


def _described(paths: list[Parts]) -> str:
    """What a zip holds, two levels deep and short: `train/ (cat, dog), readme.txt`."""
    tops: dict[str, set[str]] = {}
    for parts in paths:
        tops.setdefault(parts[0] + "/" * (len(parts) > 1), set()).update(parts[1:2])
    return _shortened(
        [f"{top} ({_shortened(sorted(tops[top]))})" if tops[top] else top for top in sorted(tops)]
    )


def _shortened(names: list[str], most: int = 8) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more) or "nothing"
