"""An alarm clock and nothing more: watchdog wakes us, the listing decides.

Events can be lost (a full queue, a network mount, a moved folder), so nothing depends on them but
how soon we look. What is kept of an event is one fact: a file that was renamed into the inbox was
complete before it got its name. Whether events come at all is tried all the time (see `canary`);
while they do not, `mode` is `polling` and `complaint` says why.
"""

import logging
import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Literal, Protocol

import structlog
from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from watcher import canary, mounts, reserved
from watcher.canary import Canary

Mode = Literal["native", "polling"]

log = structlog.get_logger(__name__)

# A narrow mask: the default one spends four kernel events per file and two more when we read it.
_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]


_ARRIVED = 10_000  # renames to remember; the rest must settle like any other file
_MOUNTS_S = 5.0  # between looks at the mount table
_WATCHES_S = 60.0  # between counts of the watches
_RETRY_S = 30.0  # until a clock asks to be replaced by native events again
_HEARING_LOG = (
    "watchdog.observers.inotify_c"  # says when the kernel's queue was full, and nobody else
)


class Waker(Protocol):
    """What the daemon waits on."""

    overflows: int  # how often the kernel has thrown events away

    @property
    def mode(self) -> Mode:
        """`native`, or `polling` while events cannot be relied on."""

    @property
    def complaint(self) -> str | None:
        """Why we poll."""

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something moved (True) or the time is over (False)."""

    def arrived(self) -> frozenset[str]:
        """Files renamed in since the last call, relative to the inbox."""

    def wake(self) -> None:
        """End the current or the next wait at once."""

    def listen(self) -> None:
        """Try whether events come; called about once a second."""

    def is_healthy(self) -> bool:
        """Whether this waker is still of use; if not, the daemon starts a new one."""

    def close(self) -> None:
        """Stop watching."""


class Clock:
    """No events at all: the daemon looks when the time is over."""

    overflows = 0

    def __init__(self, complaint: str = "", retry_s: float = _RETRY_S) -> None:
        self._moved = threading.Event()
        self._why = complaint or "there are no file events here"
        self._until_s = time.monotonic() + retry_s

    @property
    def mode(self) -> Mode:
        """A clock has nothing else."""
        return "polling"

    @property
    def complaint(self) -> str | None:
        """Why there are no events."""
        return self._why

    def wait(self, timeout_s: float) -> bool:
        """Sleep until `wake` or the time is over."""
        moved = self._moved.wait(timeout_s)
        self._moved.clear()
        return moved

    def arrived(self) -> frozenset[str]:
        """Nothing is known."""
        return frozenset()

    def wake(self) -> None:
        """End the current or the next wait."""
        self._moved.set()

    def listen(self) -> None:
        """There is nothing to hear."""

    def is_healthy(self) -> bool:
        """Until it is time to try native events again."""
        return time.monotonic() < self._until_s

    def close(self) -> None:
        """Nothing to stop."""


class Watchdog(Clock):
    """Native events of one folder and everything below it."""

    def __init__(self, inbox: Path) -> None:
        super().__init__(retry_s=math.inf)
        self.overflows = 0
        self._inbox = os.fspath(inbox)
        self._arrived: set[str] = set()
        self._lock = threading.Lock()
        self._identity = mounts.identity(inbox)
        self._mounts = mounts.below(inbox)
        self._canaries = [Canary(folder) for folder in (inbox, *_local(inbox, self._mounts))]
        self._remote = _remote(inbox, self._mounts)
        self._unwatched = self._suspected = 0
        self._mounts_s = self._watches_s = -math.inf
        self._overflow = _Overflow(self)
        self._observer = _observer()
        self._observer.schedule(_Handler(self), self._inbox, recursive=True, event_filter=_EVENTS)
        try:
            self._observer.start()
        except OSError:
            self._observer.stop()  # its threads began before it failed
            raise
        logging.getLogger(_HEARING_LOG).addHandler(self._overflow)

    @property
    def mode(self) -> Mode:
        """`polling` from the first doubt until it is gone."""
        return "polling" if self.complaint else "native"

    @property
    def complaint(self) -> str | None:
        """Why events cannot be relied on."""
        if self._remote:
            return self._remote
        if self._unwatched:
            return (
                f"{self._unwatched} folders of the inbox cannot be watched; "
                "raise fs.inotify.max_user_watches"
            )
        return next((each.complaint for each in self._canaries if each.complaint), None)

    def arrived(self) -> frozenset[str]:
        """Files renamed in since the last call."""
        with self._lock:
            arrived, self._arrived = frozenset(self._arrived), set()
        return arrived

    def note(self, event: FileSystemEvent) -> None:
        """Called on watchdog's thread: no disk, no database, no exception."""
        source = os.fsdecode(event.dest_path or event.src_path)
        if reserved.is_ours(source) and not reserved.is_heartbeat(source):
            for each in self._canaries:
                each.heard(source)
            return
        if isinstance(event, FileMovedEvent) and event.dest_path:
            with self._lock:
                if len(self._arrived) < _ARRIVED:
                    self._arrived.add(os.path.relpath(source, self._inbox))
        self.wake()

    def overflowed(self) -> None:
        """The kernel's queue was full: look at once, something was lost."""
        self.overflows += 1
        self.wake()

    def listen(self) -> None:
        """Let the canaries sing, look for unwatched folders."""
        now_s = time.monotonic()
        for each in self._canaries:
            each.step(now_s)
        if now_s - self._watches_s >= _WATCHES_S:
            found = canary.unwatched(Path(self._inbox))
            # A folder that was made this very moment gets its watch in the next.
            self._unwatched, self._suspected = min(found, self._suspected), found
            self._watches_s = now_s - (_WATCHES_S - 2.0 if found else 0.0)

    def is_healthy(self) -> bool:
        """Observer and emitters live, and folder and mounts are still those that they watch."""
        return (
            self._observer.is_alive()
            and all(emitter.is_alive() for emitter in self._observer.emitters)
            and mounts.identity(Path(self._inbox)) == self._identity
            and self._has_same_mounts()
        )

    def close(self) -> None:
        """Stop watchdog's threads."""
        logging.getLogger(_HEARING_LOG).removeHandler(self._overflow)
        self._observer.stop()
        self._observer.join()

    def _has_same_mounts(self) -> bool:
        """What was mounted over a folder since is not watched: then we must begin anew."""
        now_s = time.monotonic()
        if now_s - self._mounts_s < _MOUNTS_S:
            return True
        self._mounts_s = now_s
        return mounts.below(Path(self._inbox)) == self._mounts


class _Overflow(logging.Handler):
    def __init__(self, waker: Watchdog) -> None:
        super().__init__(logging.WARNING)
        self._waker = waker

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            self._waker.overflowed()


class _Handler(FileSystemEventHandler):
    def __init__(self, waker: Watchdog) -> None:
        self._waker = waker

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._waker.note(event)


def start(inbox: Path) -> Waker:
    """Watch natively where that works, else by the clock; raises nothing."""
    try:
        return Watchdog(inbox)
    except OSError as error:
        return Clock(
            f"{error.strerror or error}; raise fs.inotify.max_user_watches and "
            "fs.inotify.max_user_instances"
        )


def _observer() -> BaseObserver:
    if sys.platform != "linux":
        return Observer()
    from watchdog.observers.inotify import InotifyObserver  # noqa: PLC0415 - Linux only

    # Full events: a rename from outside arrives as a move, not disguised as a creation.
    return InotifyObserver(generate_full_events=True)


def _local(inbox: Path, inside: list[mounts.Mount]) -> list[Path]:
    """Local mounts inside the inbox, named as events name them."""
    points = [mount.point for mount in inside if not mount.is_network and mount.point.is_dir()]
    return [inbox / point.relative_to(inbox.resolve()) for point in points]


def _remote(inbox: Path, inside: list[mounts.Mount]) -> str | None:
    """A complaint where others can write without any event here."""
    top = mounts.holding(inbox)
    for mount in ([top] if top else []) + inside:
        if mount.is_network:
            return f"{mount.point} is {mount.kind}, where other machines write without file events"
    return None
