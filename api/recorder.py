"""Uploads that are there at the same time are kept and committed together, by one thread.

A commit waits for the disk. While it does, others finish; the next commit takes all of them. One
upload alone is committed at once.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from core.settings import Settings
from core.types import ModelRef
from monitoring.metrics import Metrics
from storage import uploads
from storage.results import Result
from storage.store import Finished, Store

MAX_TOGETHER = 64


class Received(NamedTuple):
    """An upload that was classified: its outcome, the first name of its bytes, their format."""

    finished: Finished
    part: Path
    file_format: str


Within = Callable[[Connection, list[Result]], None]


class _Job(NamedTuple):
    received: Sequence[Received]
    within: Within | None
    future: Future[list[Result]]


class Recorder:
    """Close it, or use it as a context manager."""

    def __init__(
        self, settings: Settings, store: Store, model: Callable[[], ModelRef], metrics: Metrics
    ) -> None:
        self._settings = settings
        self._store = store
        self._model = model
        self._metrics = metrics
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(
        self, received: Sequence[Received], within: Within | None = None
    ) -> Future[list[Result]]:
        """Keep these files and commit their rows; the future has one row for each, in order.

        `within` is called with these rows in the transaction that commits them. The future raises
        `CannotStoreError`, what the database raises or what `within` does; then neither file nor
        row is left.
        """
        job = _Job(received, within, Future())
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Commit what waits, then end."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        is_open = True
        while is_open:
            taken = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while len(taken) < MAX_TOGETHER:
                    taken.append(self._jobs.get_nowait())
            is_open = None not in taken
            # From here on the caller can no longer cancel.
            self._commit([job for job in taken if job and self._is_wanted(job)])

    def _is_wanted(self, job: _Job) -> bool:
        if job.future.set_running_or_notify_cancel():
            return True
        _discard(job.received)
        return False

    def _commit(self, jobs: Sequence[_Job]) -> None:
        try:
            rows = iter(self._rows(jobs))
        except BaseException as error:  # noqa: BLE001 - the caller gets it; this thread lives on
            if len(jobs) == 1:
                self._settle(jobs[0].received)
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # nobody suffers for a neighbour
                self._commit([job])
            return
        for job in jobs:
            _discard(job.received)
            job.future.set_result([next(rows) for _ in job.received])

    def _rows(self, jobs: Sequence[_Job]) -> list[Result]:
        """Files first, then the rows that name them, in one transaction."""
        received = [each for job in jobs for each in job.received]
        if not received:
            return []
        started = time.perf_counter()
        paths = uploads.keep(
            self._settings.home, [(each.part, each.file_format) for each in received]
        )

        def within(connection: Connection, rows: Sequence[Result | None]) -> None:
            remaining = iter(_only(rows))
            for job in jobs:
                its_rows = [next(remaining) for _ in job.received]
                if job.within:
                    job.within(connection, its_rows)

        rows = self._store.record(
            [replace(each.finished, path=path) for each, path in zip(received, paths, strict=True)],
            source="upload",
            model=self._model(),
            min_confidence=self._settings.min_confidence,
            audit_share=self._settings.audit_share,
            now=datetime.now(UTC),
            within=within,
        )
        self._metrics.stage("store", time.perf_counter() - started)
        return _only(rows)

    def _settle(self, received: Sequence[Received]) -> None:
        with contextlib.suppress(SQLAlchemyError, OSError):  # then the next start looks at them
            for each in received:
                uploads.settle(self._store.database, self._settings.home, each.part)


def _only(rows: Sequence[Result | None]) -> list[Result]:
    return [row for row in rows if row is not None]  # None is for deliveries


def _discard(received: Sequence[Received]) -> None:
    for each in received:
        each.part.unlink(missing_ok=True)
