"""What lies in the inbox: one listing, which alone decides."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from core.types import Stamp
from storage.files import stamp_of
from storage.rules import Rules

_EVERYBODYS = Rules()


@dataclass(slots=True)
class Survey:
    """Everything below the inbox, by its path there: what may be taken, and why not the rest."""

    files: dict[str, Stamp] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)  # pattern; a folder stands for all in it
    unmarked: list[str] = field(default_factory=list)  # they wait for their done-file
    orphans: list[str] = field(default_factory=list)  # done-files of files that are not there
    special: list[str] = field(default_factory=list)  # links, pipes, sockets, devices


def scan(inbox: Path, rules: Rules = _EVERYBODYS) -> dict[str, Stamp]:
    """Every regular file that may be taken; raises as `survey`."""
    return survey(inbox, rules).files


def survey(inbox: Path, rules: Rules = _EVERYBODYS) -> Survey:
    """One walk through the inbox. Links are not followed.

    Raises `OSError` when the inbox or a folder in it cannot be listed: a folder that we cannot see
    into is not an empty one.
    """
    found = Survey()
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
            path = f"{folder}/{entry.name}" if folder else entry.name
            if pattern := rules.ignored_by(path):
                found.ignored[path] = pattern
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_file(follow_symlinks=False):
                _add(found.files, path, entry)
            else:
                found.special.append(path)
    if rules.done_suffix:
        _ask_for_marks(found, rules.done_suffix)
    return found


def _add(found: dict[str, Stamp], path: str, entry: os.DirEntry[str]) -> None:
    try:
        found[path] = stamp_of(entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        return  # removed while we looked


def _ask_for_marks(found: Survey, suffix: str) -> None:
    """Only files whose done-file is there may be taken, and never a done-file itself."""
    marks = {path for path in found.files if path.endswith(suffix)}
    marked = {mark.removesuffix(suffix) for mark in marks}
    found.orphans = sorted(mark for mark in marks if mark.removesuffix(suffix) not in found.files)
    found.unmarked = sorted(found.files.keys() - marks - marked)
    found.files = {path: found.files[path] for path in found.files.keys() & marked - marks}
