"""One batch: claim, read once, classify, commit, put away. It may be stopped after any step.

Batches overlap: while the engine classifies one, the one before is committed and put away on a
thread of its own, and the next is claimed and read.
"""

import errno
import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from core.engine import Engine, answered
from core.names import written
from core.settings import Settings
from core.types import Delivery, Failure, ImageRef, ModelRef, Outcome, Stamp
from monitoring.metrics import Metrics
from storage import files
from storage.inbox import is_gone
from storage.results import Result
from storage.store import Filing, Finished, Store
from watcher import faults, mounts, owner
from watcher.faults import Fault, PausedError
from watcher.heartbeat import Heartbeat

log = structlog.get_logger(__name__)

LEASE_S = 60.0
SHARED_ATTEMPTS = 3  # from then on a file is worked on alone: it may be the one that kills us
MAX_ATTEMPTS = 6  # and then it is given up
BATCH_BYTES = 32 * 1024**2  # of one batch, unless a single file is larger
TOLD_EACH = 8  # more images at once share a line of the log: it costs as much as their commit
AHEAD = 2  # batches that are read or classified while one is committed and put away
_BYTES_PER_PIXEL = 8  # a file larger than its pixels at 16 bit and four channels is no image
_RETRY_S = (1, 2, 4, 8, 15, 30, 60)


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a batch."""

    classified: int = 0
    quarantined: int = 0
    put_off: int = 0

    @property
    def done(self) -> int:
        """How many have their row."""
        return self.classified + self.quarantined

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.classified + other.classified,
            self.quarantined + other.quarantined,
            self.put_off + other.put_off,
        )


@dataclass(frozen=True, slots=True)
class _Image:
    """A delivery that was read: its bytes, or why there are none."""

    delivery: Delivery
    ref: ImageRef
    content: bytes | Failure
    started_s: float


@dataclass(frozen=True, slots=True)
class _Asked:
    """A batch that is claimed and read; its outcomes, by sha256, are on their way."""

    images: Sequence[_Image]
    outcomes: Mapping[str, Future[Outcome]]
    model: ModelRef
    first_seen_s: Mapping[str, float]
    put_off: int
    inbox: mounts.Identity | None


_Placed = tuple[Filing, str | None]  # and where it has a second name, if policy gives it one
Batch = tuple[Mapping[str, Stamp], Mapping[str, float]]  # by path: the file, and when it was seen


class Worker:
    """Takes batches of settled files from the inbox to their rows and their folders."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine: Engine,
        metrics: Metrics,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine
        self._metrics = metrics
        self._heartbeat = heartbeat
        self._me = owner.this_process()
        # As text: a Path for each of a thousand files a second costs as much as their commit.
        self._inbox, self._home = os.fspath(settings.inbox), os.fspath(settings.home)

    def work(self, files: Mapping[str, Stamp], first_seen_s: Mapping[str, float]) -> Tally:
        """One batch and nothing beside it, see `work_through`."""
        return sum(self.work_through([(files, first_seen_s)]), Tally())

    def work_through(self, batches: Iterable[Batch]) -> Iterator[Tally]:
        """A row for each file that can be claimed; times are on the monotonic clock.

        Files that somebody else holds or that must wait for a retry are put off. A file that was
        claimed often, and so was there when the process died, is worked on alone. Whatever ends
        this early, `batches` too, what is on its way is finished first.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="filing") as filing:
            under_way: deque[tuple[_Asked, Future[Tally]]] = deque()
            for files, first_seen_s in batches:
                claimed, suspects = self._claim(files, is_alone=not under_way)
                put_off = len(files) - len(claimed) - len(suspects)
                asked = self._ask(
                    claimed, first_seen_s, put_off, [before for before, _ in under_way]
                )
                under_way.append((asked, filing.submit(self._finish, asked)))
                may_overlap = not suspects and not any(map(_is_suspect, claimed))
                while len(under_way) > (AHEAD if may_overlap else 0):
                    yield under_way.popleft()[1].result()
                for suspect in suspects:
                    yield self.work({suspect.path: suspect.stamp}, first_seen_s)
            while under_way:
                yield under_way.popleft()[1].result()

    def recover(self, *, after_fault: bool = False) -> int:
        """Put away what somebody who died has left: rows that stand, files still in the inbox.

        `after_fault`: what we held ourselves is free again, for its work broke off in the middle.
        """
        if after_fault:
            self._store.release_all(self._me)
        dead = [name for name in self._store.owners() if owner.is_dead(name)]
        if dead:
            self._store.end_leases(dead)
        inbox = mounts.identity(self._settings.inbox)
        filings = self._store.take_unfinished(self._me, _now(), LEASE_S)
        if filings:
            log.info("putting away files of an earlier run", files=len(filings))
            self._put_away([filing for filing in filings if self._is_the_same(filing)], inbox)
            lost = [filing for filing in filings if not self._is_the_same(filing)]
            self._store.finish([(filing.delivery.id, None) for filing in lost])
        return len(filings)

    # --- the steps ---------------------------------------------------------------------------

    def _claim(
        self, files: Mapping[str, Stamp], *, is_alone: bool
    ) -> tuple[list[Delivery], list[Delivery]]:
        """What is ours now, and the suspects: those were given back, to be worked on alone."""
        claimed = self._store.claim(list(files.items()), self._me, _now(), LEASE_S)
        suspects = [item for item in claimed if _is_suspect(item)]
        if not suspects or (is_alone and len(claimed) == 1):
            return claimed, []
        self._store.release(suspects)
        rest = [item for item in claimed if item not in suspects]
        return rest, sorted(suspects, key=lambda item: item.broken_off)

    def _ask(
        self,
        claimed: Sequence[Delivery],
        first_seen_s: Mapping[str, float],
        put_off: int,
        before: Iterable[_Asked],
    ) -> _Asked:
        """Read, and hand to the engine what is new to it: the same bytes are inferred once.

        They may be known from this batch, from one `before` that is still on its way, or from any
        row of this very model.
        """
        inbox = mounts.identity(self._settings.inbox)
        images = [image for image in map(self._read, claimed) if image is not None]
        model = self._engine.bundle.ref
        contents = {
            image.ref.sha256: image.content
            for image in images
            if not isinstance(image.content, Failure)
        }
        outcomes = {
            digest: future
            for asked in before
            for digest, future in asked.outcomes.items()
            if digest in contents
        }
        known = self._store.known([each for each in contents if each not in outcomes], model)
        outcomes |= {digest: answered(outcome) for digest, outcome in known.items()}
        fresh = [digest for digest in contents if digest not in outcomes]
        futures = self._engine.submit_all(contents[digest] for digest in fresh)
        outcomes |= zip(fresh, futures, strict=True)
        put_off += len(claimed) - len(images)
        return _Asked(images, outcomes, model, first_seen_s, put_off, inbox)

    def _finish(self, asked: _Asked) -> Tally:
        """Wait for the outcomes, commit them, put the files away."""
        finished = self._without_heartbeat(self._finished(asked))
        filings = self._record(finished, asked.model)
        now_s = time.monotonic()
        for filing, outcome in filings:
            seen_s = asked.first_seen_s.get(filing.delivery.path)
            age_s = None if seen_s is None else now_s - seen_s
            self._metrics.finished(outcome, "watcher", age_s)
        _tell([filing for filing, _ in filings])
        self._put_away([filing for filing, _ in filings], asked.inbox)
        bad = sum(isinstance(outcome, Failure) for _, outcome in filings)
        put_off = asked.put_off + len(finished) - len(filings)
        return Tally(len(filings) - bad, bad, put_off)

    def _read(self, delivery: Delivery) -> _Image | None:
        started_s = time.monotonic()
        path = f"{self._inbox}/{delivery.path}"
        try:
            content = self._refused(delivery) or files.read_once(path, delivery.stamp)
            digest = (
                files.hash_file(path, delivery.stamp)
                if isinstance(content, Failure)
                else hashlib.sha256(content).hexdigest()
            )
        except files.ChangedError:
            self._store.forget([delivery])
            return None
        except OSError as error:
            self._postpone(delivery, error)
            return None
        name = written(delivery.path.rpartition("/")[2])
        return _Image(
            delivery, ImageRef(digest, name, delivery.stamp.size_bytes), content, started_s
        )

    def _refused(self, delivery: Delivery) -> Failure | None:
        if delivery.broken_off >= MAX_ATTEMPTS:
            return Failure(
                "gave_up",
                f"The watcher died {MAX_ATTEMPTS} times while it worked on this file. "
                "Open it in an image program and save it anew, or leave it out.",
            )
        limit = self._settings.max_pixels * _BYTES_PER_PIXEL
        if delivery.stamp.size_bytes > limit:
            return Failure(
                "too_large",
                f"{delivery.stamp.size_bytes} bytes are more than an image of "
                f"{self._settings.max_pixels} pixels can have. Raise PIGEONHOLE_MAX_PIXELS.",
            )
        return None

    def _postpone(self, delivery: Delivery, error: OSError) -> None:
        delay_s = _RETRY_S[min(delivery.postponed, len(_RETRY_S) - 1)]
        reason = Failure("cannot_read", f"{error.strerror}. Check the permissions of the file.")
        self._store.postpone(delivery, _now() + timedelta(seconds=delay_s), reason)
        self._metrics.error(reason.code)
        log.warning("cannot read", file=delivery.path, reason=reason.detail, again_in_s=delay_s)

    def _finished(self, asked: _Asked) -> list[Finished]:
        outcomes = {digest: future.result() for digest, future in asked.outcomes.items()}
        done_s = time.monotonic()
        return [
            Finished(
                image=image.ref,
                outcome=(
                    image.content
                    if isinstance(image.content, Failure)
                    else outcomes[image.ref.sha256]
                ),
                received_at=image.delivery.received_at,
                latency_ms=(done_s - image.started_s) * 1000,
                delivery=image.delivery,
            )
            for image in asked.images
        ]

    def _without_heartbeat(self, finished: Sequence[Finished]) -> list[Finished]:
        """Our own picture has passed the model: it leaves no row, only the time."""
        rest = []
        for item in finished:
            if self._heartbeat and item.delivery and self._heartbeat.is_of(item.delivery):
                self._store.forget([item.delivery])
                self._heartbeat.arrive(item.delivery, item.outcome, self._top_folder())
            else:
                rest.append(item)
        return rest

    def _top_folder(self) -> Path | None:
        """Below which classified files are kept; None where policy keeps no second name."""
        name = {"sort": "sorted", "archive": "archive"}.get(self._settings.after)
        return self._settings.home / name if name else None

    def _record(
        self, finished: Sequence[Finished], model: ModelRef
    ) -> list[tuple[Filing, Outcome]]:
        """Commit; what somebody else has taken over meanwhile is left to them."""
        if not finished:
            return []
        started = time.perf_counter()
        results = self._store.record(
            finished,
            source="watcher",
            model=model,
            min_confidence=self._settings.min_confidence,
            audit_share=self._settings.audit_share,
            now=_now(),
        )
        self._metrics.stage("store", time.perf_counter() - started)
        return [
            (Filing(item.delivery, result), item.outcome)
            for item, result in zip(finished, results, strict=True)
            if result is not None and item.delivery is not None
        ]

    # --- putting away ------------------------------------------------------------------------

    def _put_away(self, filings: Sequence[Filing], inbox: mounts.Identity | None) -> None:
        """Link all, sync, unlink all, sync, close; the next start finishes what a crash left.

        `inbox` is where the files were read. Raises `PausedError` when something else is there now.
        """
        if not filings:
            return
        started = time.perf_counter()
        placed: list[_Placed] = []
        hindrance: OSError | None = None
        for filing in filings:
            try:
                placed.append((filing, self._place(filing)))
            except OSError as error:
                self._leave_for_later(filing, error)
                hindrance = error if faults.blocks_all(error) else hindrance
        files.sync_folders(_folder_of(target) for _, target in placed if target)
        keep = self._settings.after == "keep"
        if not keep:
            placed = self._take_out(placed, inbox)  # raises: all is tried again
        self._store.finish(
            [(filing.delivery.id, self._shown(filing, target)) for filing, target in placed],
            keep=keep,
        )
        if placed:
            self._metrics.stage("file", time.perf_counter() - started)
        if hindrance:
            raise hindrance  # the next file would meet it too

    def _place(self, filing: Filing) -> str | None:
        """Where the file is kept from now on; None where policy keeps no second name."""
        folder = self._folder(filing.result)
        if folder is None:
            return None
        delivery, result = filing.delivery, filing.result
        source, target = f"{self._inbox}/{delivery.path}", f"{folder}/{delivery.path}"
        if result.error is None and files.put_at_once(source, delivery.stamp, target):
            return target
        put = files.put(
            Path(source),
            delivery.stamp,
            Path(_folder_of(target)),
            delivery.id[-8:],
            result.sha256,
        )
        if put is not None and result.error is not None:
            files.put_reason(put, _reason(delivery, result))
        return None if put is None else os.fspath(put)

    def _folder(self, result: Result) -> str | None:
        after = self._settings.after
        if result.status == "quarantined":
            return f"{self._home}/quarantine"
        if after == "sort":
            return f"{self._home}/sorted/{files.label_folder(result.label or '')}"
        if after == "archive":
            return f"{self._home}/archive/{result.classified_at:%Y/%m/%d}"
        return None

    def _take_out(self, placed: Sequence[_Placed], inbox: mounts.Identity | None) -> list[_Placed]:
        """Remove these files from the inbox; returns those that are gone from there for good.

        What was not there to be removed may come back, when its disk was lost in between.
        """
        gone: list[_Placed] = []
        missing: list[_Placed] = []
        for item in placed:
            delivery = item[0].delivery
            source = f"{self._inbox}/{delivery.path}"
            is_out = files.remove(source, delivery.stamp, self._settings.done_suffix)
            (gone if is_out else missing).append(item)
        files.sync_folders(_folder_of(f"{self._inbox}/{each.delivery.path}") for each, _ in placed)
        if missing and mounts.identity(self._settings.inbox) != inbox:
            text = f"{self._inbox} is not the folder that it was. Is its disk mounted?"
            raise PausedError(Fault("inbox", text))
        for item in missing:
            delivery = item[0].delivery
            if is_gone(self._settings.inbox, delivery.path, delivery.stamp):
                gone.append(item)
            else:
                away = FileNotFoundError(errno.ENOENT, "its disk was away", delivery.path)
                self._leave_for_later(item[0], away)
        return gone

    def _leave_for_later(self, filing: Filing, error: OSError) -> None:
        self._store.postpone_filing([filing.delivery], _now() + timedelta(seconds=_RETRY_S[-3]))
        self._metrics.error("cannot_file")
        log.error(
            "cannot put away; the row stands and the file stays in the inbox for now",
            file=filing.delivery.path,
            reason=str(error),
            remedy="make room or give access; it is tried again by itself",
        )

    def _shown(self, filing: Filing, target: str | None) -> str | None:
        """The path of a row: relative to HOME where it lies below it."""
        if target is None and self._settings.after == "keep":
            target = f"{self._inbox}/{filing.delivery.path}"
        return None if target is None else written(target.removeprefix(f"{self._home}/"))

    def _is_the_same(self, filing: Filing) -> bool:
        """Whether the inbox holds what the row speaks of: a stamp can be imitated, not a hash."""
        source = self._settings.inbox / filing.delivery.path
        try:
            return files.hash_file(source, filing.delivery.stamp) == filing.result.sha256
        except files.ChangedError:
            return True  # gone: `put` finds the link that was made, or nothing
        except OSError:
            return True


def _is_suspect(delivery: Delivery) -> bool:
    """Whether it was there so often when the process died that it may be the cause."""
    return delivery.broken_off >= SHARED_ATTEMPTS


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _tell(filings: Sequence[Filing]) -> None:
    """A line for each image; when many come at once, for each bad one, and one for the others."""
    good = [filing for filing in filings if filing.result.error is None]
    for delivery, error in ((filing.delivery, filing.result.error) for filing in filings):
        if error:
            log.warning("quarantined", file=delivery.path, code=error.code, detail=error.detail)
    if len(good) > TOLD_EACH:
        labels = Counter(filing.result.label for filing in good).most_common(TOLD_EACH)
        shown = ", ".join(f"{label} {count}" for label, count in labels)
        log.info("classified", files=len(good), labels=shown)
        return
    for filing in good:
        log.info(
            "classified",
            file=filing.delivery.path,
            label=filing.result.label,
            confidence=round(filing.result.confidence or 0.0, 4),
        )


def _reason(delivery: Delivery, result: Result) -> dict[str, Any]:
    return {
        "code": result.error.code if result.error else None,
        "detail": result.error.detail if result.error else None,
        "file": written(delivery.path),
        "id": result.id,
        "sha256": result.sha256,
        "bytes": result.size_bytes,
        "attempts": delivery.attempts,
        "received_at": result.received_at.isoformat(),
        "quarantined_at": result.classified_at.isoformat(),
        "model": {"name": result.model.name, "version": result.model.version},
    }


def _now() -> datetime:
    return datetime.now(UTC)
