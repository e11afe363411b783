"""The loop: wake, scan, settle, then batch after batch, until it is told to stop."""

import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import structlog
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from core.bundle import Bundle, locate
from core.engine import Engine
from core.errors import SettingsError
from core.follow import Follower
from core.settings import Settings
from core.types import Stamp
from monitoring.exporter import Exporter
from monitoring.health import Check
from monitoring.metrics import InboxState, Metrics
from storage.store import Store
from watcher import waker as wakers
from watcher.batch import BATCH_BYTES, Batch, Tally, Worker
from watcher.rules import Rules
from watcher.scan import scan
from watcher.settle import Settled, Sighting, settle
from watcher.waker import Waker

log = structlog.get_logger(__name__)

_OURS = ("sorted", "archive", "quarantine", "models", "uploads", "thumbnails")
_STALLED_S = 120.0  # a loop that has not turned for so long is not alive
_POLL_S = 2.0  # without native events
_PUT_OFF_S = 1.0  # when somebody else holds a file, or it must wait for its retry
_SCAN_SHARE = 2.0  # rest this many times as long as an idle scan took
_PAUSES_S = (1, 2, 4, 8, 15, 30)
_LITTLE_BYTES = 16 * 1024**2


def run(settings: Settings, *, once: bool = False) -> int:
    """Watch until SIGTERM or SIGINT; with `once`, until the inbox is empty.

    Returns 0, or with `once` 1 if files were quarantined or had to be left.
    """
    prepare_folders(settings)
    with ExitStack() as opened:
        store = Store.open(settings.database_url)
        opened.callback(store.close)
        metrics = Metrics()
        bundle = Bundle.load(locate(settings.home), settings.provider)
        metrics.model_loaded(bundle.manifest)
        metrics.watch_disk(settings.home)
        metrics.watch_quality(store.database, settings.audit_share)
        engine = opened.enter_context(
            Engine(bundle, settings.workers, settings.max_pixels, observer=metrics)
        )
        follower = opened.enter_context(Follower(settings.home, engine, settings.provider, metrics))
        watcher = Watcher(settings, store, engine, metrics)
        opened.callback(watcher.close)
        _stop_on_signals(watcher.stop)
        if once:
            return watcher.empty_inbox()
        exporter = Exporter(
            "127.0.0.1" if settings.is_loopback else settings.host,
            settings.watcher_metrics_port,
            metrics,
            live={"loop": watcher.stalled},
            ready=watcher.checks(),
            notes={"model": follower.complaint},
        )
        opened.enter_context(exporter)
        log.info(
            "watching",
            inbox=str(settings.inbox),
            after=settings.after,
            model=bundle.ref.name,
            version=bundle.ref.version,
            metrics="http://{}:{}/metrics".format(*exporter.address),
        )
        return watcher.watch()


def prepare_folders(settings: Settings) -> None:
    """Make the inbox; raises `SettingsError` where our own folders would be watched."""
    settings.home.mkdir(parents=True, exist_ok=True)
    settings.inbox.mkdir(parents=True, exist_ok=True)
    inbox = settings.inbox.resolve()
    for folder in (settings.home.resolve() / name for name in _OURS):
        if folder.is_relative_to(inbox) or inbox.is_relative_to(folder):
            raise SettingsError(
                f"PIGEONHOLE_INBOX: {settings.inbox} and {folder} lie within each other, so what "
                "we file would be found again. Choose an inbox outside PIGEONHOLE_HOME, or below "
                "it with a name of its own."
            )
    _refuse_database_below(inbox, settings)


def _refuse_database_below(inbox: Path, settings: Settings) -> None:
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return
    if Path(url.database).resolve().is_relative_to(inbox):
        raise SettingsError(
            f"PIGEONHOLE_DATABASE_URL: {url.database} lies in the inbox, where it would be taken "
            "for an image. Keep the database elsewhere."
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """What one round of the loop did, and how long to sleep at most before the next."""

    tally: Tally
    is_settling: bool
    sleep_s: float


class Watcher:
    """The state of the loop: what was seen, what is left alone, and what is wrong now."""

    def __init__(self, settings: Settings, store: Store, engine: Engine, metrics: Metrics) -> None:
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._worker = Worker(settings, store, engine, metrics)
        self._rules = Rules.of(settings)
        self._seen: dict[str, Sighting] = {}
        self._kept: dict[str, Stamp] = dict(store.kept())
        self._stopping = threading.Event()
        self._complaint: str | None = None
        self._turned_s = time.monotonic()
        self._reconciled_s = -math.inf
        # First the events, then the first listing: nothing falls between.
        self._waker: Waker = wakers.start(settings.inbox)
        metrics.watcher_mode(self._waker.mode)
        metrics.watch_inbox(self.inbox_state)

    def watch(self) -> int:
        """Turn until stopped; troubles of disk and database are waited out."""
        sleep_s, failures = 0.0, 0
        while not self._stopping.is_set():
            woken = self._waker.wait(sleep_s)
            try:
                sleep_s = self._turn(woken=woken).sleep_s
                failures, self._complaint = 0, None
            except (DBAPIError, OSError) as error:
                sleep_s = self._pause(error, failures)
                failures += 1
        log.info("stopped")
        return 0

    def empty_inbox(self) -> int:
        """Turn until nothing is left but what others hold or what must wait."""
        total, idle_turns = Tally(), 0
        while not self._stopping.is_set() and idle_turns < 2:
            turn = self._turn(woken=False)
            total += turn.tally
            if not self._seen:
                break
            is_idle = turn.tally.done == 0 and not turn.is_settling
            idle_turns = idle_turns + 1 if is_idle else 0
            self._waker.wait(0.0 if turn.tally.done else turn.sleep_s)
        left = len(self._seen)
        log.info(
            "inbox done",
            classified=total.classified,
            quarantined=total.quarantined,
            left_for_later=left,
        )
        return 1 if total.quarantined or left else 0

    def stop(self) -> None:
        """End after the batch at hand."""
        self._stopping.set()
        self._waker.wake()

    def close(self) -> None:
        """Stop watching the folder."""
        self._waker.close()

    # --- state for scrapes and health --------------------------------------------------------

    def inbox_state(self) -> InboxState:
        """A fresh listing, with the first sighting of the oldest file as a Unix time."""
        try:
            waiting = self._news(scan(self._settings.inbox, self._rules))
        except OSError:
            return InboxState(len(self._seen), None)
        seen, now_s = self._seen, time.monotonic()
        ages_s = [now_s - seen[path].first_s if path in seen else 0.0 for path in waiting]
        return InboxState(len(waiting), time.time() - max(ages_s) if ages_s else None)

    def stalled(self) -> str | None:
        """A complaint when the loop has not turned for long."""
        idle_s = time.monotonic() - self._turned_s
        limit_s = _STALLED_S + self._settings.reconcile_s
        return f"the loop has stood still for {idle_s:.0f} s" if idle_s > limit_s else None

    def checks(self) -> Mapping[str, Check]:
        """What /readyz asks."""
        return {
            "loop": self.stalled,
            "work": lambda: self._complaint,
            "inbox": self._inbox_complaint,
            "disk": self._disk_complaint,
            "database": self._store.ping,
        }

    def _inbox_complaint(self) -> str | None:
        if not self._settings.inbox.is_dir():
            return f"{self._settings.inbox} is not there. Is its disk mounted?"
        return None

    def _disk_complaint(self) -> str | None:
        free = shutil.disk_usage(self._settings.home).free
        return f"{free} bytes free in PIGEONHOLE_HOME; make room" if free < _LITTLE_BYTES else None

    # --- one turn ----------------------------------------------------------------------------

    def _turn(self, *, woken: bool) -> Turn:
        """One listing, and the batches that are ready."""
        self._turned_s = started_s = time.monotonic()
        self._revive_waker()
        arrived = self._waker.arrived()
        present = scan(self._settings.inbox, self._rules)
        self._reconcile(present)
        listing = self._news(present)
        settled = self._settle(listing, arrived, woken=woken)
        scan_s = time.monotonic() - started_s
        tally = self._work_through(self._batches(settled.ready, listing))
        if tally.done and self._settings.after == "keep":
            self._kept = dict(self._store.kept())
        if not tally.done:
            self._stopping.wait(_SCAN_SHARE * scan_s)  # a burst of events is not a burst of scans
        return Turn(tally, settled.next_s is not None, self._sleep_s(settled.next_s, tally))

    def _reconcile(self, present: Mapping[str, Stamp]) -> None:
        """At the start and now and then: finish what the dead have left, forget what is gone."""
        if time.monotonic() - self._reconciled_s < self._settings.reconcile_s:
            return
        self._worker.recover()
        if self._store.drop_absent(present.items(), datetime.now(UTC)):
            self._kept = dict(self._store.kept())
        self._reconciled_s = time.monotonic()

    def _settle(
        self, listing: Mapping[str, Stamp], arrived: frozenset[str], *, woken: bool
    ) -> Settled:
        new = sum(path not in self._seen for path in listing)
        self._metrics.found("native" if woken or arrived else "rescan", new)
        settled = settle(self._seen, listing, time.monotonic(), self._settings.settle_s, arrived)
        self._seen = settled.seen
        return settled

    def _batches(
        self, ready: Sequence[str], listing: Mapping[str, Stamp]
    ) -> Iterator[dict[str, Stamp]]:
        """Batches bounded in files and in bytes; ends early when we are told to stop."""
        batch: dict[str, Stamp] = {}
        size_bytes = 0
        for path in ready:
            stamp = listing[path]
            is_full = len(batch) >= self._settings.batch_size
            if batch and (is_full or size_bytes + stamp.size_bytes > BATCH_BYTES):
                yield batch
                batch, size_bytes = {}, 0
            if self._stopping.is_set():
                return
            batch[path] = stamp
            size_bytes += stamp.size_bytes
        if batch:
            yield batch

    def _work_through(self, batches: Iterable[Mapping[str, Stamp]]) -> Tally:
        total = Tally()
        for tally in self._worker.work_through(map(self._seen_as, batches)):
            total += tally
            self._turned_s = time.monotonic()
        return total

    def _seen_as(self, batch: Mapping[str, Stamp]) -> Batch:
        """The batch, and when each of its files was first seen."""
        first_seen_s = {path: self._seen[path].first_s for path in batch}
        now_s = time.monotonic()
        for seen_s in first_seen_s.values():
            self._metrics.stage("settle", now_s - seen_s)
        return batch, first_seen_s

    def _news(self, present: Mapping[str, Stamp]) -> dict[str, Stamp]:
        """What is in the inbox, without what policy `keep` has left there."""
        return {path: stamp for path, stamp in present.items() if self._kept.get(path) != stamp}

    def _sleep_s(self, next_s: float | None, tally: Tally) -> float:
        limits_s = [self._reconciled_s + self._settings.reconcile_s - time.monotonic()]
        if next_s is not None:
            limits_s.append(next_s - time.monotonic())
        if tally.put_off:
            limits_s.append(_PUT_OFF_S)
        if self._waker.mode == "polling":
            limits_s.append(_POLL_S)
        return max(0.0, min(limits_s))

    def _revive_waker(self) -> None:
        if self._waker.is_healthy():
            return
        log.warning("file events have stopped; watching anew", inbox=str(self._settings.inbox))
        self._waker.close()
        self._waker = wakers.start(self._settings.inbox)
        self._metrics.watcher_mode(self._waker.mode)

    def _pause(self, error: Exception, failures: int) -> float:
        pause_s = float(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
        self._complaint = f"{type(error).__name__}: {error}"
        self._metrics.error("paused")
        log.error("paused; nothing is lost", reason=str(error), again_in_s=pause_s)
        self._stopping.wait(pause_s)
        return 0.0


def _stop_on_signals(stop: Callable[[], None]) -> None:
    def on_signal(number: int, _: FrameType | None) -> None:
        log.info("stopping after the batch at hand", signal=signal.Signals(number).name)
        # On a thread of its own: the main thread may hold the very lock that `stop` takes.
        threading.Thread(target=stop).start()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
