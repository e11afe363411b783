"""What keeps the watcher from working, in words: disk, folder, database, inbox, model.

None of these loses anything. Work stops before the next claim, says why, and goes on by itself.
"""

import errno
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sqlalchemy.exc import DBAPIError

from core.errors import ModelError, StoreError

Reason = Literal["user", "disk", "folder", "database", "inbox", "model"]
REASONS: tuple[Reason, ...] = get_args(Reason)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Fault:
    """Why nothing is done now, and what would end it."""

    reason: Reason
    detail: str

    def __str__(self) -> str:
        return f"paused: {self.reason}: {self.detail}"


class PausedError(Exception):
    """Work cannot go on now; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def of(error: Exception, inbox: Path) -> Fault:
    """The fault behind an exception."""
    if isinstance(error, PausedError):
        return error.fault
    if isinstance(error, DBAPIError):
        return _of_database(str(error.orig))
    if isinstance(error, StoreError):
        return Fault("database", str(error))
    if isinstance(error, ModelError):
        return Fault("model", str(error))
    if isinstance(error, OSError):
        return _of_system(error, inbox)
    raise error


def _of_database(text: str) -> Fault:
    if "disk is full" in text:
        return Fault("disk", f"the database has no room ({text}). Make room on its disk.")
    if "locked" in text:
        return Fault("database", f"{text}: another program holds it. End that program.")
    return Fault("database", f"{text}. Try `pigeonhole doctor`.")


def _of_system(error: OSError, inbox: Path) -> Fault:
    place = str(error.filename2 or error.filename or "")  # of a link, where it should have led
    text = f"{place}: {error.strerror or error}" if place else str(error.strerror or error)
    if error.errno in _FULL:
        return Fault("disk", f"{text}. Make room there.")
    if _is_inside(place, inbox):
        return Fault("inbox", f"{text}. Is its disk mounted, and may we read and write there?")
    if error.errno in _REFUSED:
        return Fault("folder", f"{text}. Give this user write access.")
    return Fault("folder", f"{text}. Is the disk of PIGEONHOLE_HOME mounted and well?")


def blocks_all(error: OSError) -> bool:
    """Whether other files would meet the same error: a full disk, a folder that refuses."""
    return error.errno in (*_FULL, *_REFUSED, errno.EIO, errno.ESTALE, errno.ENOTCONN)


def _is_inside(place: str, inbox: Path) -> bool:
    return bool(place) and Path(place).is_relative_to(inbox)


def little_room(folders: Iterable[Path], floor_bytes: int) -> Fault | None:
    """A fault when one of these disks has less room than the floor; raises `OSError`."""
    for folder in folders:
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < floor_bytes:
            return Fault(
                "disk",
                f"{free_bytes // _MIB} MiB free in {folder}, less than PIGEONHOLE_MIN_FREE_BYTES "
                f"({floor_bytes // _MIB} MiB). Make room there.",
            )
    return None
