"""The loop: wake, scan, settle, then batch after batch, until it is told to stop."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType

import structlog
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from core.bundle import Bundle, locate
from core.engine import Engine
from core.errors import ModelError, SettingsError, StoreError
from core.follow import Follower
from core.heap import keep_what_is_loaded
from core.settings import Settings
from core.types import Stamp
from monitoring.exporter import Exporter
from monitoring.health import Check
from monitoring.metrics import InboxState, Metrics
from monitoring.webhooks import telling
from storage.inbox import Backlog, Found, Walk, backlog, is_gone
from storage.pause import paused_since
from storage.rules import Rules
from storage.store import Store
from watcher import faults
from watcher.batch import BATCH_BYTES, Batch, Tally, Worker
from watcher.faults import PausedError
from watcher.gate import Gate
from watcher.heartbeat import Heartbeat
from watcher.lookout import Lookout
from watcher.reporter import Reporter
from watcher.settle import Settled, Sighting, settle

log = structlog.get_logger(__name__)

_OURS = ("sorted", "archive", "quarantine", "models", "uploads", "thumbnails")
_STALLED_S = 120.0  # a loop that has not turned for so long is not alive
_POLL_S = 2.0  # without native events
_PUT_OFF_S = 1.0  # when somebody else holds a file, or it must wait for its retry
_REST_SHARE = 2.0  # rest this many times as long as an idle scan took
_SUPERVISE_S = 1.0  # between looks at what wakes us, at the heartbeat and at the pause
_WINDOW_FILES = 10_000  # of all that wait, so many are kept in mind
_TURN_S = 5.0  # after so long with one listing, a new one is due
_SCAN_SHARE = 10.0  # but listing must not take more than one part in ten
_FAULTS = (DBAPIError, OSError, StoreError, ModelError, PausedError)


def run(settings: Settings, *, once: bool = False) -> int:
    """Watch until SIGTERM or SIGINT; with `once`, until the inbox is empty.

    Returns 0, or with `once` 1 if files were quarantined or had to be left.
    """
    prepare_folders(settings)
    with ExitStack() as opened:
        store = Store.open(settings.database_url, with_outbox=bool(settings.webhook_url))
        opened.callback(store.close)
        metrics = Metrics()
        metrics.watch_disk(settings.home)
        metrics.watch_quality(store.database, settings.audit_share)
        opened.enter_context(telling(settings, store.database, metrics, until_told=once))
        engine = opened.enter_context(_engine(settings, metrics))
        metrics.model_loaded(engine.bundle.manifest)
        follower = opened.enter_context(Follower(settings.home, engine, settings.provider, metrics))
        watcher = Watcher(settings, store, engine, metrics)
        opened.callback(watcher.close)
        _stop_on_signals(watcher.stop)
        keep_what_is_loaded()
        if once:
            return watcher.empty_inbox()
        exporter = Exporter(
            "127.0.0.1" if settings.is_loopback else settings.host,
            settings.watcher_metrics_port,
            metrics,
            live={"loop": watcher.stalled},
            ready=watcher.checks(),
            notes={"model": follower.complaint, "events": watcher.deafness},
        )
        opened.enter_context(exporter)
        log.info(
            "watching",
            inbox=str(settings.inbox),
            after=settings.after,
            model=engine.bundle.ref.name,
            version=engine.bundle.ref.version,
            metrics="http://{}:{}/metrics".format(*exporter.address),
        )
        return watcher.watch()


def _engine(settings: Settings, metrics: Metrics) -> Engine:
    bundle = Bundle.load(locate(settings.home), settings.provider, cores=settings.workers)
    return Engine(bundle, settings.workers, settings.max_pixels, observer=metrics)


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
    """The loop, and what it has seen; what may stop it is in `gate`, what wakes it in `lookout`."""

    def __init__(self, settings: Settings, store: Store, engine: Engine, metrics: Metrics) -> None:
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._heartbeat = Heartbeat(settings.inbox, settings.heartbeat_s, metrics)
        self._worker = Worker(settings, store, engine, metrics, self._heartbeat)
        self._gate = Gate(settings, _disks(settings, store), metrics)
        self._rules = Rules.of(settings)
        self._seen: dict[str, Sighting] = {}
        self._backlog = Backlog({}, 0, None)
        self._stopping = threading.Event()
        self._turned_s = time.monotonic()
        self._reconciled_s = -math.inf
        self._broke_off = False  # a fault ended the last turn in the middle
        # First the events, then the first listing: nothing falls between.
        self._lookout = Lookout(settings.inbox, metrics)
        self._reporter = Reporter(store, self._gate, self._lookout, self._heartbeat)
        metrics.watch_inbox(self.inbox_state)

    def watch(self) -> int:
        """Turn until stopped; troubles of disks, folders and database are waited out."""
        sleep_s, woken = 0.0, True
        while not self._stopping.is_set():
            sleep_s = self._attempt(woken=woken)
            woken = self._rest(sleep_s)
        self._heartbeat.skip()
        self._reporter.end()
        log.info("stopped")
        return 0

    def empty_inbox(self) -> int:
        """Turn until nothing is left but what others hold or what must wait."""
        total, idle_turns = Tally(), 0
        while not self._stopping.is_set() and idle_turns < 2:
            try:
                turn = self._turn(woken=False)
            except _FAULTS as error:
                self._gate.shut(faults.of(error, self._settings.inbox))
                return 1
            total += turn.tally
            if not self._backlog.files:
                break
            is_idle = turn.tally.done == 0 and not turn.is_settling
            idle_turns = idle_turns + 1 if is_idle else 0
            self._lookout.wait(0.0 if turn.tally.done else turn.sleep_s)
        left = self._backlog.files
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
        self._lookout.wake()

    def close(self) -> None:
        """Stop watching the folder."""
        self._lookout.close()

    # --- state for scrapes and health --------------------------------------------------------

    def inbox_state(self) -> InboxState:
        """Counted now, so that it is right at every scrape and after a restart."""
        try:
            now = backlog(self._news(), 0)
        except (OSError, DBAPIError):
            return InboxState(self._backlog.files, self._backlog.oldest_s)
        return InboxState(now.files, now.oldest_s)

    def stalled(self) -> str | None:
        """A complaint when the loop has not turned for long."""
        idle_s = time.monotonic() - self._turned_s
        limit_s = _STALLED_S + self._settings.reconcile_s
        return f"the loop has stood still for {idle_s:.0f} s" if idle_s > limit_s else None

    def checks(self) -> Mapping[str, Check]:
        """What /readyz asks."""
        return {
            "loop": self.stalled,
            "work": self._gate.complaint,
            "events": self._lookout.complaint,
            "inbox": self._inbox_complaint,
            "disk": self._gate.room_complaint,
            "database": self._store.ping,
        }

    def deafness(self) -> str | None:
        """Why the inbox is looked at every few seconds, if it is; a note of /readyz."""
        return self._lookout.deafness()

    def _inbox_complaint(self) -> str | None:
        if not self._settings.inbox.is_dir():
            return f"{self._settings.inbox} is not there. Is its disk mounted?"
        return None

    # --- resting -----------------------------------------------------------------------------

    def _attempt(self, *, woken: bool) -> float:
        """One turn, or the reason why there can be none; returns how long to rest."""
        try:
            sleep_s = self._turn(woken=woken).sleep_s
        except _FAULTS as error:
            sleep_s = self._gate.shut(faults.of(error, self._settings.inbox))
            self._broke_off, self._reconciled_s = True, -math.inf
            self._supervise()
            return sleep_s
        self._gate.open()
        return 0.0 if self._supervise() else sleep_s  # also where events come all the time

    def _rest(self, sleep_s: float) -> bool:
        """Wait until something moved (True) or the time is over; meanwhile, see that we can hear.

        What moves while the gate is shut must wait until it is tried again.
        """
        end_s = time.monotonic() + sleep_s
        while not self._stopping.is_set():
            left_s = max(0.0, end_s - time.monotonic())
            slice_s = min(left_s, _SUPERVISE_S)
            if self._gate.fault:
                self._stopping.wait(slice_s)
            elif self._lookout.wait(slice_s):
                return True
            if self._supervise() or left_s <= _SUPERVISE_S:
                return False
        return False

    def _supervise(self) -> bool:
        """About once a second; True when a scan must follow."""
        self._turned_s = time.monotonic()
        must_scan = self._lookout.supervise()
        if self._gate.fault is None:
            self._heartbeat.drop_if_due()
            must_scan |= paused_since(self._settings.home) is not None
        self._reporter.report(self._backlog)
        return must_scan

    # --- one turn ----------------------------------------------------------------------------

    def _turn(self, *, woken: bool) -> Turn:
        """One listing, and the batches that are ready."""
        self._turned_s = started_s = time.monotonic()
        self._gate.check()
        self._gate.check_inbox()
        arrived = self._lookout.arrived()
        self._reconcile()
        self._backlog = self._look()
        self._metrics.scanned(time.time())
        listing = self._backlog.first | self._heartbeat.look()
        settled = self._settle(listing, arrived, woken=woken)
        scan_s = time.monotonic() - started_s
        batches = self._timely(
            self._batches(settled.ready, listing), started_s + max(_TURN_S, _SCAN_SHARE * scan_s)
        )
        tally = self._work_through(batches)
        if not tally.done:
            self._stopping.wait(_REST_SHARE * scan_s)  # a burst of events is not a burst of scans
        return Turn(tally, settled.next_s is not None, self._sleep_s(settled.next_s, tally, scan_s))

    def _look(self) -> Backlog:
        """What is in the inbox and new; of very many files, those that go next."""
        held: set[str] = set()
        if self._backlog.files > _WINDOW_FILES:  # then what must wait would take places of others
            held = self._store.held(datetime.now(UTC))
        newest_first = self._settings.order == "newest"
        return backlog(self._news(), _WINDOW_FILES, held=held, newest_first=newest_first)

    def _news(self) -> Iterator[Found]:
        """Everything in the inbox that policy `keep` has not left there."""
        return self._store.without_kept(Walk(self._settings.inbox, self._rules))

    def _reconcile(self) -> None:
        """At the start and now and then: finish what the dead have left, forget what is gone."""
        if time.monotonic() - self._reconciled_s < self._settings.reconcile_s:
            return
        self._heartbeat.clear_leftovers()
        self._worker.recover(after_fault=self._broke_off)
        self._broke_off = False
        self._reporter.clear_up()
        self._drop_absent()
        self._reconciled_s = time.monotonic()

    def _drop_absent(self) -> None:
        now = datetime.now(UTC)
        if absent := self._store.absent(partial(is_gone, self._settings.inbox), now):
            self._gate.check_inbox()  # the files went, and not the mount that they are on
            self._store.drop(absent, now)

    def _settle(
        self, listing: Mapping[str, Stamp], arrived: frozenset[str], *, woken: bool
    ) -> Settled:
        new = sum(path not in self._seen for path in listing if path != self._heartbeat.name)
        self._metrics.found("native" if woken or arrived else "rescan", new)
        settled = settle(
            self._seen,
            listing,
            time.monotonic(),
            self._settings.settle_s,
            arrived,
            newest_first=self._settings.order == "newest",
        )
        self._seen = settled.seen
        return settled

    def _batches(
        self, ready: Sequence[str], listing: Mapping[str, Stamp]
    ) -> Iterator[dict[str, Stamp]]:
        """Batches bounded in files and in bytes; ends early when we are told to stop."""
        batch: dict[str, Stamp] = {}
        size_bytes = 0
        for path in sorted(ready, key=lambda path: path != self._heartbeat.name):  # ours first
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

    def _timely(
        self, batches: Iterable[dict[str, Stamp]], end_s: float
    ) -> Iterator[dict[str, Stamp]]:
        """These batches while the gate is open and the listing is not too old."""
        for batch in batches:
            self._gate.check()
            yield batch
            if time.monotonic() > end_s:
                return

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
        for path, seen_s in first_seen_s.items():
            if path != self._heartbeat.name:
                self._metrics.stage("settle", now_s - seen_s)
        return batch, first_seen_s

    def _sleep_s(self, next_s: float | None, tally: Tally, scan_s: float) -> float:
        if tally.done:
            return 0.0  # there may be more than one listing shows, or than one turn has time for
        limits_s = [self._reconciled_s + self._settings.reconcile_s - time.monotonic()]
        if next_s is not None:
            limits_s.append(next_s - time.monotonic())
        if tally.put_off:
            limits_s.append(_PUT_OFF_S)
        if self._lookout.mode == "polling":
            limits_s.append(max(_POLL_S, _SCAN_SHARE * scan_s))
        return max(0.0, min(limits_s))


def _disks(settings: Settings, store: Store) -> list[Path]:
    """Where we need room: HOME, and the folder of a SQLite file."""
    file = store.database.url.database if store.database.is_sqlite else None
    return [settings.home, *([Path(file).parent] if file else [])]


def _stop_on_signals(stop: Callable[[], None]) -> None:
    def on_signal(number: int, _: FrameType | None) -> None:
        log.info("stopping after the batch at hand", signal=signal.Signals(number).name)
        # On a thread of its own: the main thread may hold the very lock that `stop` takes.
        threading.Thread(target=stop).start()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
