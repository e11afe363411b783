"""What lies in the inbox: one listing, which alone decides."""

import os
from fnmatch import fnmatchcase
from pathlib import Path

from core.types import Stamp
from storage.files import stamp_of

# Somebody's half-written files, and what systems leave in folders.
IGNORED = (
    ".*",
    "~*",
    "*~",
    "*.part",
    "*.partial",
    "*.tmp",
    "*.crdownload",
    "*.download",
    "*.filepart",
    "*.swp",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eaDir",
    "__MACOSX",
)


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is none of our business."""
    return any(fnmatchcase(name, pattern) for pattern in IGNORED)


def scan(inbox: Path) -> dict[str, Stamp]:
    """Every regular file below the inbox, by its path relative to it.

    Links are not followed. Raises `OSError` when the inbox or a folder in it cannot be listed: a
    folder that we cannot see into is not an empty one.
    """
    found: dict[str, Stamp] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(inbox / folder))
        except FileNotFoundError:
            if not folder:
                raise
            continue  # removed while we looked
        for entry in entries:
            if is_ignored(entry.name):
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_file(follow_symlinks=False):
                _add(found, path, entry)
    return found


def _add(found: dict[str, Stamp], path: str, entry: os.DirEntry[str]) -> None:
    try:
        found[path] = stamp_of(entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        return  # removed while we looked
