"""One database, two ways in: `write` is one transaction at a time, `read` never waits for a writer.

SQLite: WAL, synchronous=FULL and BEGIN IMMEDIATE for every write. A deferred transaction that reads
first and then writes fails at once with SQLITE_BUSY_SNAPSHOT, whatever the timeout says.
PostgreSQL: an advisory lock gives the same order, so that rows are numbered as they are committed.
"""

import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from core.errors import StoreError

BUSY_TIMEOUT_S = 30
_POSTGRES_LOCK = 7_164_332  # any number, the same in every Pigeonhole process
_PASSWORD = re.compile(":.*@")
_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg", "postgresql+psycopg2")


class Database:
    """The connections of one process. Nothing is opened before the first use."""

    def __init__(self, url: str) -> None:
        self.url = _parsed(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._turn = threading.Lock()  # SQLite has one writer; threads of one process queue here
        if self.is_sqlite:
            _make_room(self.url)
            self._writer = self._sqlite_engine("BEGIN IMMEDIATE", query_only=False)
            self._reader = self._sqlite_engine("BEGIN", query_only=True)
        else:
            self._writer = self._postgres_engine()
            self._reader = self._writer.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction: committed at the end of the block, rolled back by an exception."""
        if self.is_sqlite:
            with self._turn, self._writer.begin() as connection:
                yield connection
        else:
            with self._writer.begin() as connection:
                connection.execute(text(f"SET LOCAL lock_timeout = '{BUSY_TIMEOUT_S}s'"))
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})"))
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view; a write through it is an error."""
        with self._reader.begin() as connection:
            yield connection

    def use_wal(self) -> None:
        """Switch SQLite to WAL, which the file remembers; waits while others hold it."""
        if not self.is_sqlite:
            return
        file = str(self.url.database)
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                with closing(sqlite3.connect(file, timeout=BUSY_TIMEOUT_S)) as connection:
                    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                break
            except sqlite3.DatabaseError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise StoreError(f"{file}: {error}. Try `pigeonhole doctor`.") from error
                time.sleep(0.05)
        if mode != "wal":
            raise StoreError(
                f"{file}: SQLite cannot use a write-ahead log here. Point "
                "PIGEONHOLE_DATABASE_URL at a local disk, not at a network mount."
            )

    def close(self) -> None:
        """Give every connection back."""
        self._writer.dispose()
        self._reader.dispose()

    def _sqlite_engine(self, begin: str, *, query_only: bool) -> Engine:
        engine = create_engine(
            self.url,
            connect_args={
                "timeout": BUSY_TIMEOUT_S,
                "check_same_thread": False,
                "isolation_level": None,  # the driver must not begin transactions of its own
            },
        )

        @event.listens_for(engine, "connect")
        def _pragmas(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(f"PRAGMA query_only={'ON' if query_only else 'OFF'}")
            # SQLite's own lower() knows only A to Z; a search for `ärger` must find ÄRGER.jpg.
            connection.create_function("lower", 1, _lower, deterministic=True)

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def _postgres_engine(self) -> Engine:
        try:
            return create_engine(self.url, pool_pre_ping=True)
        except ImportError as error:
            raise StoreError(
                f"PIGEONHOLE_DATABASE_URL: {error}. Install the driver beside Pigeonhole: "
                "pip install 'psycopg[binary]', and write postgresql+psycopg://..."
            ) from None


def _parsed(url: str) -> URL:
    """A URL of a database that we know how to use; raises `StoreError`."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a port that is no number is a ValueError
        parsed = None
    if parsed is None or parsed.drivername not in _DRIVERS:
        raise StoreError(
            f"PIGEONHOLE_DATABASE_URL: {_PASSWORD.sub(':***@', url)!r} is not the URL of a "
            "database that Pigeonhole can use. "
            "Use sqlite:////folder/file.db or postgresql+psycopg://user@host/name."
        )
    return parsed


def _make_room(url: URL) -> None:
    """The folder of a SQLite file; raises `StoreError` for what is no file."""
    file = url.database or ":memory:"
    if file.startswith((":", "file:")):
        raise StoreError(
            f"PIGEONHOLE_DATABASE_URL: {file!r} is not a file. SQLite needs one, for :memory: has "
            "no write-ahead log. Use sqlite:////folder/file.db."
        )
    try:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"PIGEONHOLE_DATABASE_URL: {error}. Choose a folder that can be made and written."
        ) from error


def _lower(word: str | None) -> str | None:
    return None if word is None else word.lower()
