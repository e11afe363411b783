"""Bytes in, one `Outcome` per image out, in order: the engine of watcher, API and command line.

Every worker thread decodes its images and runs its own single-threaded forward pass; both release
the GIL. Images that wait together are classified together, with no wait for a batch to fill; one
that is alone gets all cores. A bad image fails alone, before the forward pass.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import NamedTuple, Protocol, Self

import numpy as np

from core.bundle import Bundle
from core.classify import predict
from core.errors import EngineBusyError, ImageError
from core.image import preprocess
from core.statistics import measure_all
from core.types import Failure, ImageInfo, ModelRef, Outcome, Pixels

Recall = Callable[[ModelRef], Outcome | None]

MAX_FORWARD = 16  # images per forward pass and worker: more gain nothing
FEW = 4  # the same where images gain nothing from each other: more would only outgrow the caches


class Observer(Protocol):
    """Who wants to know how long things took. Must not raise."""

    def stage(self, name: str, seconds: float) -> None:
        """`decode` and `queue` took this long for one image, `infer` for one forward pass."""

    def batch(self, images: int) -> None:
        """A forward pass ran over this many images."""


class _Silent:
    def stage(self, name: str, seconds: float) -> None:
        """Nobody asked."""

    def batch(self, images: int) -> None:
        """Nobody asked."""


SILENT: Observer = _Silent()


def answered(outcome: Outcome) -> Future[Outcome]:
    """An outcome that is known already, in the form in which the engine gives others."""
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


class _Job(NamedTuple):
    data: bytes
    future: Future[Outcome]
    queued_s: float
    recall: Recall | None


class _Share(NamedTuple):
    """What a worker takes: images, who answers, and whether nobody else has any."""

    jobs: list[_Job]
    bundle: Bundle
    is_alone: bool


class Engine:
    """A pool of `workers` threads around one bundle. Close it, or use it as a context manager."""

    def __init__(
        self,
        bundle: Bundle,
        workers: int,
        max_pixels: int,
        max_waiting: int = 256,
        observer: Observer = SILENT,
    ) -> None:
        self._bundle = bundle
        self._max_pixels = max_pixels
        self._max_waiting = max_waiting
        self._observer = observer
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._busy = 0  # workers that have images
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bundle(self) -> Bundle:
        """The bundle that answers images taken from now on."""
        return self._bundle

    @property
    def workers(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    def replace(self, bundle: Bundle) -> None:
        """Answer with `bundle` from the next image that a worker takes.

        Images that are being worked on finish on the bundle that they began with; those that wait
        get the new one. Nothing is dropped, and each prediction names the bundle that made it.
        """
        with self._changed:
            self._bundle = bundle

    def submit(self, data: bytes, recall: Recall | None = None) -> Future[Outcome]:
        """Queue one image. Raises `EngineBusyError` when `max_waiting` images wait already.

        `recall` is asked first, on the worker's thread, what the model that is about to answer has
        said of it before; None means nothing. What it raises, the future raises.
        """
        with self._changed:
            if len(self._jobs) >= self._max_waiting:
                raise EngineBusyError(
                    f"{self._max_waiting} images wait already. Try again in a moment."
                )
            (future,) = self._enqueue([data], recall)
        return future

    def submit_all(self, images: Iterable[bytes]) -> list[Future[Outcome]]:
        """Queue images that belong together. The caller bounds how many come at once."""
        data = list(images)  # may read files; never while the workers wait for the lock
        with self._changed:
            return self._enqueue(data)

    def classify(self, images: Iterable[bytes]) -> list[Outcome]:
        """One outcome per image, in order. The caller bounds how many come at once."""
        return [future.result() for future in self.submit_all(images)]

    def close(self) -> None:
        """Finish what waits, then end the workers. Later calls raise `RuntimeError`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _enqueue(
        self, images: Sequence[bytes], recall: Recall | None = None
    ) -> list[Future[Outcome]]:
        if self._closing:
            raise RuntimeError("the engine is closed")
        now = time.monotonic()
        jobs = [_Job(data, Future(), now, recall) for data in images]
        self._jobs.extend(jobs)
        self._changed.notify(len(jobs))
        return [job.future for job in jobs]

    def _work(self) -> None:
        while True:
            share = self._take()
            if not share.jobs:
                return
            self._answer(share)
            del share  # let go of the bytes before the next wait
            with self._changed:
                self._busy -= 1

    def _take(self) -> _Share:
        """This worker's fair share of what waits; no images at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            most = MAX_FORWARD if self._bundle.is_faster_together else FEW
            count = min(most, math.ceil(len(self._jobs) / len(self._threads)))
            taken = [self._jobs.popleft() for _ in range(count)]
            self._busy += 1
            is_alone = self._busy == 1 and len(taken) == 1 and not self._jobs
            return _Share(taken, self._bundle, is_alone)

    def _answer(self, share: _Share) -> None:
        # From here on the caller can no longer cancel.
        wanted = [job for job in share.jobs if job.future.set_running_or_notify_cancel()]
        jobs = [job for job in wanted if not _recalled(job, share.bundle.ref)]
        try:
            outcomes = self._outcomes(jobs, share.bundle, is_alone=share.is_alone)
        except BaseException as error:  # noqa: BLE001 - the caller gets it; this thread lives on
            for job in jobs:
                job.future.set_exception(error)
        else:
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.future.set_result(outcome)

    def _outcomes(self, jobs: Sequence[_Job], bundle: Bundle, *, is_alone: bool) -> list[Outcome]:
        now = time.monotonic()
        for job in jobs:
            self._observer.stage("queue", now - job.queued_s)
        prepared = [self._prepare(job.data, bundle) for job in jobs]
        good = [item for item in prepared if not isinstance(item, Failure)]
        predictions = iter(self._forward(good, bundle, is_alone=is_alone))
        return [item if isinstance(item, Failure) else next(predictions) for item in prepared]

    def _prepare(self, data: bytes, bundle: Bundle) -> tuple[Pixels, ImageInfo] | Failure:
        started = time.perf_counter()
        try:
            return preprocess(data, bundle.recipe, self._max_pixels)
        except ImageError as error:
            return Failure(error.code, str(error))
        finally:
            self._observer.stage("decode", time.perf_counter() - started)

    def _forward(
        self, prepared: Sequence[tuple[Pixels, ImageInfo]], bundle: Bundle, *, is_alone: bool
    ) -> list[Outcome]:
        if not prepared:
            return []
        batch = np.stack([pixels for pixels, _ in prepared])
        started = time.perf_counter()
        scores = bundle.scores(batch, on_all_cores=is_alone)
        self._observer.stage("infer", time.perf_counter() - started)
        self._observer.batch(len(prepared))
        infos = [info for _, info in prepared]
        measured = measure_all(batch, infos)
        return [
            predict(row, bundle.labels, bundle.ref, replace(info, statistics=statistics))
            for row, info, statistics in zip(scores, infos, measured, strict=True)
        ]


def _recalled(job: _Job, model: ModelRef) -> bool:
    """Whether the job is done already, with an answer that was given before or with an error."""
    if job.recall is None:
        return False
    try:
        outcome = job.recall(model)
    except Exception as error:  # noqa: BLE001 - the caller gets it; no neighbour suffers
        job.future.set_exception(error)
        return True
    if outcome is None:
        return False
    job.future.set_result(outcome)
    return True
