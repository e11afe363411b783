"""The sha256 of the files of data/images, noted so that no later run reads them just for that.

A file counts as the same while its size and time are, which is how DVC and git tell as well; and
`evaluate` reads every file and compares, so that a note that is wrong is found.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pipeline.stage import fresh_file

NOTES = Path("data/cache/digests.json")  # DVC does not know it: it may be deleted at any time


class Digest(NamedTuple):
    """`path` is relative to data/images; `stamp`, size and time, is that before it was read."""

    path: str
    stamp: str
    sha256: str


def stamp(path: Path) -> str:
    """Size and time of a file, by which it is known again."""
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def remember(root: Path, digests: Iterable[Digest]) -> None:
    """Note these, and no others."""
    part = fresh_file((root / NOTES).with_suffix(".part"))
    part.write_text(json.dumps(list(digests)), "utf-8")
    part.replace(root / NOTES)


def digests_of(root: Path, images: Path, paths: Sequence[str]) -> list[str]:
    """The sha256 of every file; those that are not noted are read, and noted."""
    known = {(path, stamp): sha256 for path, stamp, sha256 in _notes(root)}
    files = [(path, stamp(images / path)) for path in paths]
    new = [file for file in files if file not in known]
    # Reading and hashing leave Python's lock to other threads.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        known |= zip(new, pool.map(lambda file: _sha256(images / file[0]), new), strict=True)
    if new:
        remember(root, (Digest(*file, known[file]) for file in files))
    return [known[file] for file in files]


def _notes(root: Path) -> list[list[str]]:
    try:
        notes: list[list[str]] = json.loads((root / NOTES).read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return notes


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
