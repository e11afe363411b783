"""New results as they are committed, by whichever process, for everybody who listens.

Two processes write results, so the database is asked, not the code that writes: one look every
quarter of a second while somebody listens serves all listeners.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from core.errors import PigeonholeError
from storage import feed
from storage.database import Database
from storage.feed import Entry

log = structlog.get_logger("api")

MAX_LISTENERS = 64
LOOK_S = 0.25
_ROWS = 200  # read at once, so that a listener who is far behind costs little memory


class AllSeatsTakenError(PigeonholeError):
    """As many listen as we can serve."""

    code = "busy"


class Events:
    """The listeners of one application. Close it before the server waits for its connections."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._news = asyncio.Event()  # set once, then replaced by the next
        self._newest = 0
        self._listeners = 0
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        """A place among the listeners; raises `AllSeatsTakenError`."""
        if self._listeners >= MAX_LISTENERS:
            raise AllSeatsTakenError(f"{MAX_LISTENERS} listen already. Try again later.")
        self._listeners += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners:
                self._looking.cancel()
                self._looking = None

    async def start(self, last_seen: int | None) -> int:
        """The position to go on from: the one given, if there is such a row already, else now."""
        newest = await run_in_threadpool(feed.newest, self._database)
        return newest if last_seen is None else min(last_seen, newest)

    async def entries(self, seq: int) -> AsyncIterator[Entry]:
        """Every result after this position, each once and in order, until `close`."""
        while not self._is_closed:
            news = self._news  # before we read: what is committed after that will set it
            found = await run_in_threadpool(feed.after, self._database, seq, _ROWS)
            for entry in found:
                yield entry
                seq = entry.seq
            if not found:
                await news.wait()

    def close(self) -> None:
        """End every stream; uvicorn would wait for them."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _look(self) -> None:
        while True:
            try:
                newest = await run_in_threadpool(feed.newest, self._database)
            except OperationalError as error:
                log.warning("database_unavailable", error=str(error))
                newest = self._newest
            if newest != self._newest:
                self._newest = newest
                self._wake()
            await asyncio.sleep(LOOK_S)
