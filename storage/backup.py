"""A copy of the SQLite database while it is in use, and the way back.

SQLite's online backup copies one consistent state; whoever writes meanwhile is not stopped.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from core.errors import StoreError
from storage.database import BUSY_TIMEOUT_S

_COMPANIONS = ("-wal", "-shm")  # of a database that was not closed


def copy(source: Path, target: Path) -> int:
    """Copy a database that may be in use; returns the number of results in the copy.

    The copy is whole, checked and synced when it gets its name. Raises `StoreError`.
    """
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        with (
            closing(_opened(source)) as from_,
            closing(sqlite3.connect(part, timeout=BUSY_TIMEOUT_S)) as to,
        ):
            from_.backup(to)
            # One file, so that nothing beside it can be forgotten.
            to.execute("PRAGMA journal_mode=DELETE")
        rows = check(part)
        _sync(part)
        part.rename(target)
        _sync(target.parent)
    except sqlite3.Error as error:
        raise StoreError(f"{source}: {error}. Nothing was written.") from error
    finally:
        part.unlink(missing_ok=True)
    return rows


def check(file: Path) -> int:
    """The number of results in a database that is not in use; raises `StoreError` if damaged."""
    try:
        with closing(_opened(file)) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != "ok":
                raise StoreError(f"{file} is damaged ({verdict}). Take another backup.")
            (rows,) = connection.execute("SELECT count(*) FROM results").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"{file} is no database of ours ({error}).") from error
    return int(rows)


def replace(target: Path, source: Path, aside: Path) -> None:
    """Put a checked database in the place of another, which is kept as `aside`.

    Nobody may have `target` open. A stale journal of the old one must not be applied to the new
    one, so it is folded in first.
    """
    part = target.with_name(f".{target.name}.restored")
    try:
        copy(source, part)
        if target.exists():
            _fold(target)
            target.rename(aside)
        part.rename(target)
        _sync(target.parent)
    finally:
        part.unlink(missing_ok=True)


def _fold(database: Path) -> None:
    """Fold the write-ahead log in; a database too damaged for that is put aside as it is."""
    with suppress(sqlite3.Error), closing(_opened(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    for companion in _COMPANIONS:
        database.with_name(database.name + companion).unlink(missing_ok=True)


def _opened(file: Path) -> sqlite3.Connection:
    uri = f"{file.absolute().as_uri()}?mode=rw"  # never make a new one
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
