"""Uploads that are there at the same time are kept and committed together, by one thread.

The bytes are written and synced while the engine is at work on them. A commit waits for the disk;
while it does, others finish, and the next commit takes all of them. One upload alone is committed
at once.
"""

import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Self

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from core.settings import Settings
from core.types import Failure, ImageRef, ModelRef, Outcome, Prediction
from monitoring.metrics import Metrics
from storage import uploads
from storage.results import Result
from storage.store import Finished, Store

MAX_TOGETHER = 64


@dataclass(frozen=True)
class Upload:
    """One file of a form. `started_s` is the monotonic clock when the last byte was here."""

    data: bytes
    filename: str
    is_called_image: bool
    received_at: datetime
    started_s: float

    @cached_property
    def image(self) -> ImageRef:
        """The name of these bytes; the first who asks has to hash them."""
        digest = hashlib.sha256(self.data).hexdigest()
        return ImageRef(digest, self.filename, len(self.data))


Recorded = Result | Failure
Within = Callable[[Connection, list[Recorded]], None]


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
        self,
        sent: Sequence[Upload],
        outcomes: Sequence[Future[Outcome]],
        within: Within | None = None,
    ) -> Future[list[Recorded]]:
        """Keep these uploads and commit their rows, when their outcomes are there.

        The future has one row for each, in order, or why there is none: what cannot be classified
        is not kept. `within` is called with the same in the transaction that commits the rows, if
        there are any. The future raises `CannotStoreError`, what the database or an outcome raises
        or what `within` does; then neither file nor row is left.
        """
        job = _Job(sent, outcomes, within)
        self._jobs.put(job)  # to be written now, ...
        job.when_answered(lambda: self._jobs.put(job))  # ... and to be committed then
        return job.future

    def close(self) -> None:
        """Commit what is answered, then end; what is not leaves its bytes to the next start."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """What waits now; False at the end. Nothing is held while it waits for more."""
        taken = [self._jobs.get()]
        with contextlib.suppress(queue.Empty):
            while len(taken) < MAX_TOGETHER:
                taken.append(self._jobs.get_nowait())
        answered = []
        for job in taken:
            if job and job.parts is None:
                self._receive(job)
            elif job and self._is_wanted(job):
                answered.append(job)
        self._commit(answered)
        return None not in taken

    def _receive(self, job: "_Job") -> None:
        job.parts = []
        try:
            for upload in job.sent:
                job.parts.append(uploads.receive(self._settings.home, upload.data))
        except BaseException as error:  # noqa: BLE001 - the caller gets it; this thread lives on
            job.fail(error)

    def _is_wanted(self, job: "_Job") -> bool:
        """Whether it can be committed; from here on the caller can no longer cancel."""
        if job.is_done:
            return False
        if not job.future.set_running_or_notify_cancel():
            job.discard()
            job.let_go()
            return False
        try:
            job.classified = [outcome.result() for outcome in job.outcomes]
        except BaseException as error:  # noqa: BLE001 - see above; a cancelled one is no Exception
            job.fail(error)
            return False
        return True

    def _commit(self, jobs: Sequence["_Job"]) -> None:
        if not jobs:
            return
        try:
            recorded = self._recorded(jobs)
        except BaseException as error:  # noqa: BLE001 - see above
            if len(jobs) == 1:
                self._settle(jobs[0])
                jobs[0].fail(error)
                return
            for job in jobs:  # nobody suffers for a neighbour
                self._commit([job])
            return
        for job, its_own in zip(jobs, recorded, strict=True):
            job.discard()
            job.let_go()
            job.future.set_result(its_own)

    def _recorded(self, jobs: Sequence["_Job"]) -> list[list[Recorded]]:
        """Files first, then the rows that name them, in one transaction."""
        kept = [each for job in jobs for each in job.kept()]
        if not kept:
            return [job.recorded([]) for job in jobs]
        started = time.perf_counter()
        paths = uploads.keep(self._settings.home, kept)
        remaining = iter(paths)
        finished = [each for job in jobs for each in job.finished(remaining)]

        def each_with_its_own(rows: Sequence[Result | None]) -> list[list[Recorded]]:
            left = [row for row in rows if row is not None]  # None is for deliveries
            left.reverse()
            return [job.recorded(left) for job in jobs]

        def within(connection: Connection, rows: Sequence[Result | None]) -> None:
            for job, its_own in zip(jobs, each_with_its_own(rows), strict=True):
                if job.within and job.has_rows:
                    job.within(connection, its_own)

        rows = self._store.record(
            finished,
            source="upload",
            model=self._model(),
            min_confidence=self._settings.min_confidence,
            audit_share=self._settings.audit_share,
            now=datetime.now(UTC),
            within=within,
        )
        self._metrics.stage("store", time.perf_counter() - started)
        return each_with_its_own(rows)

    def _settle(self, job: "_Job") -> None:
        with contextlib.suppress(SQLAlchemyError, OSError):  # then the next start looks at them
            for part in job.parts or ():
                uploads.settle(self._store.database, self._settings.home, part)


class _Job:
    """The uploads of one request on their way to files and rows.

    `parts`: the first names of the bytes, None until the recorder has had its first look.
    """

    def __init__(
        self, sent: Sequence[Upload], outcomes: Sequence[Future[Outcome]], within: Within | None
    ) -> None:
        self.sent = sent
        self.outcomes = outcomes
        self.within = within
        self.future: Future[list[Recorded]] = Future()
        self.is_done = False
        self.parts: list[Path] | None = None
        self.classified: list[Outcome] = []
        self._answered_s = 0.0
        self._left = len(outcomes)
        self._lock = threading.Lock()

    def when_answered(self, do: Callable[[], None]) -> None:
        """Call `do` once, when every outcome is there."""

        def one_more(_: Future[Outcome]) -> None:
            with self._lock:
                self._left -= 1
                is_last = self._left == 0
            if is_last:
                self._answered_s = time.monotonic()
                do()

        for outcome in self.outcomes:
            outcome.add_done_callback(one_more)

    @property
    def has_rows(self) -> bool:
        """Whether anything of it was classified."""
        return any(isinstance(outcome, Prediction) for outcome in self.classified)

    def kept(self) -> list[tuple[Path, str]]:
        """First name and format of what was classified."""
        return [
            (part, outcome.image.format)
            for part, outcome in zip(self.parts or (), self.classified, strict=True)
            if isinstance(outcome, Prediction)
        ]

    def finished(self, paths: Iterator[str]) -> list[Finished]:
        """What was classified, each with the next of `paths`."""
        return [
            Finished(
                upload.image,
                outcome,
                upload.received_at,
                (self._answered_s - upload.started_s) * 1e3,
                path=next(paths),
            )
            for upload, outcome in zip(self.sent, self.classified, strict=True)
            if isinstance(outcome, Prediction)
        ]

    def recorded(self, rows: list[Result]) -> list[Recorded]:
        """Takes its own from the end of `rows`; beside them, why there is none."""
        return [
            outcome if isinstance(outcome, Failure) else rows.pop() for outcome in self.classified
        ]

    def fail(self, error: BaseException) -> None:
        """Nothing of it is left, and the caller hears why."""
        self.discard()
        self.let_go()
        self.is_done = True
        if not self.future.running() and not self.future.set_running_or_notify_cancel():
            return
        self.future.set_exception(error)

    def discard(self) -> None:
        """Take the first names away."""
        for part in self.parts or ():
            part.unlink(missing_ok=True)

    def let_go(self) -> None:
        """Of the bytes: outcomes know who waits for them, so the two would hold each other."""
        self.sent, self.outcomes = (), ()
