"""A quarantined file goes back into the inbox, where it is a new delivery.

The old row stays as history, with no path any more; the new delivery gets a row of its own, whose
`duplicate_of` names the first one with the same bytes.

The file goes back as a copy with a time of its own, and only then leaves the quarantine. A watcher
that is faster than we are, and quarantines it again, then cannot take what lies there for its own.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from core.errors import PigeonholeError
from core.ids import uuid7
from core.names import original, written
from core.settings import Settings
from storage import files
from storage.rules import RESERVED
from storage.store import Store

_SPARE_NAMES = 100


class RetryError(PigeonholeError):
    """This file cannot be tried again; the message says why."""

    code = "cannot_retry"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file goes: the folder below the inbox, and the name it came with."""

    folder: Path
    name: str


def quarantined(home: Path) -> Iterator[Path]:
    """Every file in quarantine, without the reasons beside them."""
    for folder, folders, names in os.walk(home / "quarantine"):
        folders.sort()
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith(files.REASON_SUFFIX):
                yield Path(folder, name)


def retry(settings: Settings, store: Store, file: Path) -> Path:
    """Bring one file of HOME/quarantine back; returns where it is now.

    Raises `RetryError` for anything else, and `OSError`; the file is then still in quarantine.
    """
    quarantine = settings.home / "quarantine"
    if not _is_below(quarantine, file.parent):
        raise RetryError(f"{written(str(file))} is not in {quarantine}.")
    if file.is_symlink() or not file.is_file():
        raise RetryError(f"{written(str(file))}: there is no such file. `pigeonhole status` knows.")
    row = written(str(file.relative_to(settings.home)))
    came_as = store.filename_of(row)
    name = original(came_as) if came_as else file.name
    place = _Place(settings.inbox / file.parent.relative_to(quarantine), name)
    if not _is_below(settings.inbox, place.folder):
        raise RetryError(f"{written(str(place.folder))} leads out of the inbox: it is a link.")
    back = _give_back(settings, store, file, place)
    file.unlink()
    files.reason_path(file).unlink(missing_ok=True)
    files.sync_folders([file.parent])
    store.forget_path(row)
    return back


def _is_below(top: Path, folder: Path) -> bool:
    """Whether this is `top` or really below it: no link on the way from there, and no `..`."""
    if not folder.is_relative_to(top) or ".." in folder.parts:
        return False
    return folder.resolve() == top.resolve() / folder.relative_to(top)


def _give_back(settings: Settings, store: Store, file: Path, place: _Place) -> Path:
    """With policy `keep` the file never left the inbox; there it is only taken up again."""
    there = place.folder / place.name
    kept = str(there.relative_to(settings.inbox))
    if settings.after == "keep" and store.forget_kept(kept):
        return there
    files.make_folder(place.folder)
    part = place.folder / f"{RESERVED}retry-{uuid7()}.part"
    try:
        shutil.copyfile(file, part)
        with part.open("rb+") as copy:
            os.fsync(copy.fileno())
        back = _named(part, place)
    finally:
        part.unlink(missing_ok=True)
    files.sync_folders([place.folder])
    return back


def _named(part: Path, place: _Place) -> Path:
    """Give the copy its name, or one beside it: what lies in the inbox is never replaced."""
    stem, suffix = PurePath(place.name).stem, PurePath(place.name).suffix
    for number in range(1, _SPARE_NAMES):
        target = place.folder / (place.name if number == 1 else f"{stem}-{number}{suffix}")
        try:
            files.give_name(part, target)
        except FileExistsError:
            continue
        return target
    raise RetryError(f"{place.folder} has too many files called {written(place.name)}.")
