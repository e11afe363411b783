"""An alarm clock and nothing more: watchdog wakes us, the listing decides.

Events can be lost (a full queue, a network mount, a moved folder), so nothing depends on them but
how soon we look. What is kept of an event is one fact: a file that was renamed into the inbox was
complete before it got its name.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Protocol

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

log = structlog.get_logger(__name__)

# A narrow mask: the default one spends four kernel events per file and two more when we read it.
_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]


class Waker(Protocol):
    """What the daemon waits on."""

    mode: str  # `native` or `polling`

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something moved (True) or the time is over (False)."""

    def arrived(self) -> frozenset[str]:
        """Files renamed in since the last call, relative to the inbox."""

    def wake(self) -> None:
        """End the current or the next wait at once."""

    def is_healthy(self) -> bool:
        """Whether events still come; if not, the daemon starts a new waker."""

    def close(self) -> None:
        """Stop watching."""


class Clock:
    """No events at all: the daemon looks when the time is over. For mounts that send none."""

    mode = "polling"

    def __init__(self) -> None:
        self._moved = threading.Event()

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

    def is_healthy(self) -> bool:
        """A clock has nothing that could break."""
        return True

    def close(self) -> None:
        """Nothing to stop."""


class Watchdog(Clock):
    """Native events of one folder and everything below it."""

    mode = "native"

    def __init__(self, inbox: Path) -> None:
        super().__init__()
        self._inbox = os.fspath(inbox)
        self._arrived: set[str] = set()
        self._lock = threading.Lock()
        self._identity = _identity(inbox)
        self._observer = _observer()
        self._observer.schedule(_Handler(self), self._inbox, recursive=True, event_filter=_EVENTS)
        self._observer.start()

    def arrived(self) -> frozenset[str]:
        """Files renamed in since the last call."""
        with self._lock:
            arrived, self._arrived = frozenset(self._arrived), set()
        return arrived

    def note(self, event: FileSystemEvent) -> None:
        """Called on watchdog's thread: no disk, no database, no exception."""
        if isinstance(event, FileMovedEvent) and event.dest_path:
            path = os.path.relpath(os.fsdecode(event.dest_path), self._inbox)
            with self._lock:
                self._arrived.add(path)
        self.wake()

    def is_healthy(self) -> bool:
        """The observer and its emitters live, and the folder is still the one that they watch."""
        return (
            self._observer.is_alive()
            and all(emitter.is_alive() for emitter in self._observer.emitters)
            and _identity(Path(self._inbox)) == self._identity
        )

    def close(self) -> None:
        """Stop watchdog's threads."""
        self._observer.stop()
        self._observer.join()


class _Handler(FileSystemEventHandler):
    def __init__(self, waker: Watchdog) -> None:
        self._waker = waker

    def on_any_event(self, event: FileSystemEvent) -> None:
        self._waker.note(event)


def start(inbox: Path) -> Waker:
    """Watch natively where that works, else by the clock; says why in the log."""
    try:
        return Watchdog(inbox)
    except OSError as error:
        log.warning(
            "no native file events, looking every few seconds instead",
            reason=str(error),
            remedy="raise fs.inotify.max_user_watches and fs.inotify.max_user_instances",
        )
        return Clock()


def _observer() -> BaseObserver:
    if sys.platform != "linux":
        return Observer()
    from watchdog.observers.inotify import InotifyObserver  # noqa: PLC0415 - Linux only

    # Full events: a rename from outside arrives as a move, not disguised as a creation.
    return InotifyObserver(generate_full_events=True)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
