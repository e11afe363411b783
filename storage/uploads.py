"""Uploads that are kept: HOME/uploads/YYYY-MM-DD/<uuid7>.<suffix>, and no row without its file.

The bytes are written and synced under HOME/uploads/.incoming first. When the answer is known, they
get their second name; then the row is committed, and only then the first name is taken away. So a
first name that stands for long is a sign of somebody who died in between, and says what to look at.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from sqlalchemy import select

from core.errors import PigeonholeError
from core.ids import uuid7
from storage.database import Database
from storage.files import give_name, make_folder, sync_folders
from storage.schema import results

FOLDER = "uploads"
STALE_S = 3600.0  # another process may be at work on what is younger
_INCOMING = ".incoming"
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}


class CannotStoreError(PigeonholeError):
    """There is no room, or no access, below PIGEONHOLE_HOME."""

    code = "cannot_store"


def receive(home: Path, data: bytes) -> Path:
    """Write the bytes of an upload, durably; returns their first name.

    Raises `CannotStoreError`, and then leaves nothing behind.
    """
    part = home / FOLDER / _INCOMING / str(uuid7())
    try:
        make_folder(part.parent)
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _cannot_store(error) from error
    return part


def keep(home: Path, parts: Sequence[tuple[Path, str]]) -> list[str]:
    """Give the bytes, each with its format, their lasting names; returns those as rows have them.

    Raises `CannotStoreError`. May be repeated.
    """
    targets = [_folder(home, part) / f"{part.name}.{_suffix(form)}" for part, form in parts]
    try:
        for (part, _), target in zip(parts, targets, strict=True):
            make_folder(target.parent)
            with contextlib.suppress(FileExistsError):  # no two have the name of one UUID
                give_name(part, target)
        sync_folders(target.parent for target in targets)
    except OSError as error:
        raise _cannot_store(error) from error
    return [str(target.relative_to(home)) for target in targets]


def _suffix(file_format: str) -> str:
    return _SUFFIXES.get(file_format, file_format.lower())


def settle(database: Database, home: Path, part: Path) -> None:
    """Take the first name away, and the file too when no row names it."""
    for target in _folder(home, part).glob(f"{part.name}.*"):
        if not _has_row(database, target, home):
            target.unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def settle_stale(database: Database, home: Path, older_than_s: float = STALE_S) -> int:
    """Clear up after those who died between file and row; returns how many uploads they left."""
    limit = time.time() - older_than_s
    stale = [part for part in (home / FOLDER / _INCOMING).glob("*") if _mtime(part) < limit]
    for part in stale:
        settle(database, home, part)
    return len(stale)


def _folder(home: Path, part: Path) -> Path:
    """By the day that the name itself tells: the first 48 bits of a UUID 7 are milliseconds."""
    try:
        seconds = (UUID(part.name).int >> 80) / 1000
    except ValueError:
        return home / FOLDER / "unknown"
    return home / FOLDER / f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _has_row(database: Database, target: Path, home: Path) -> bool:
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    query = select(results.c.id).where(
        results.c.sha256 == sha256, results.c.path == str(target.relative_to(home))
    )
    with database.read() as connection:
        return connection.execute(query.limit(1)).first() is not None


def _mtime(part: Path) -> float:
    with contextlib.suppress(OSError):
        return part.stat().st_mtime
    return time.time()  # somebody has just finished with it


def _cannot_store(error: OSError) -> CannotStoreError:
    return CannotStoreError(
        f"The image cannot be kept: {error.strerror or error}. Make room below PIGEONHOLE_HOME or "
        "give access to it; ?store=false keeps nothing."
    )
