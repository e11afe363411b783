"""One database, two ways in: `write` is one transaction at a time, `read` never waits for a writer.

SQLite: WAL, synchronous=FULL and BEGIN IMMEDIATE for every write. A deferred transaction that reads
first and then writes fails at once with SQLITE_BUSY_SNAPSHOT, whatever the timeout says.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from core.errors import StoreError

BUSY_TIMEOUT_S = 30


class Database:
    """The connections of one process. Nothing is opened before the first use."""

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except ArgumentError:
            raise StoreError(
                f"PIGEONHOLE_DATABASE_URL: {url!r} is not a database URL. "
                "Use sqlite:////folder/file.db or postgresql+psycopg://user@host/name."
            ) from None
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._turn = threading.Lock()  # SQLite has one writer; threads of one process queue here
        if self.is_sqlite:
            if not self.url.database or self.url.database == ":memory:":
                raise StoreError(
                    "PIGEONHOLE_DATABASE_URL: SQLite needs a file; :memory: has no WAL."
                )
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._sqlite_engine("BEGIN IMMEDIATE", query_only=False)
            self._reader = self._sqlite_engine("BEGIN", query_only=True)
        else:
            self._writer = self._reader = create_engine(self.url, pool_pre_ping=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One write transaction: committed at the end of the block, rolled back by an exception."""
        if self.is_sqlite:
            with self._turn, self._writer.begin() as connection:
                yield connection
        else:
            with self._writer.begin() as connection:
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view; a write through it is an error on SQLite."""
        with self._reader.begin() as connection:
            yield connection

    def use_wal(self) -> None:
        """Switch SQLite to WAL, which the file remembers; waits while others hold it."""
        if not self.is_sqlite:
            return
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                with sqlite3.connect(str(self.url.database), timeout=BUSY_TIMEOUT_S) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
                connection.close()
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise StoreError(
                        f"{self.url.database}: {error}. Try `pigeonhole doctor`."
                    ) from error
                time.sleep(0.05)

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

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine


def is_busy(error: Exception) -> bool:
    """Whether a database error passes by itself: locked, out of space, connection lost."""
    return isinstance(error, OperationalError)
