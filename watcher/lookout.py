"""The waker in use: tried all the time, begun anew when it is broken, its mode told to all."""

from pathlib import Path

import structlog

from monitoring.metrics import Metrics
from watcher import waker as wakers
from watcher.waker import Mode, Waker

log = structlog.get_logger(__name__)


class Lookout:
    """Waits for files, by events or by the clock, whichever can be relied on now."""

    def __init__(self, inbox: Path, metrics: Metrics) -> None:
        self._inbox = inbox
        self._metrics = metrics
        self._overflows = 0
        self._told: tuple[Mode, str | None] | None = None
        self._waker: Waker = wakers.start(inbox)
        self._tell()

    @property
    def mode(self) -> Mode:
        """How files are found now."""
        return self._waker.mode

    def deafness(self) -> str | None:
        """Why we poll, if we do."""
        complaint = self._waker.complaint
        return f"looking every few seconds: {complaint}" if complaint else None

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something moved (True) or the time is over (False)."""
        return self._waker.wait(timeout_s)

    def wake(self) -> None:
        """End the current or the next wait."""
        self._waker.wake()

    def arrived(self) -> frozenset[str]:
        """Files renamed in since the last call."""
        return self._waker.arrived()

    def supervise(self) -> bool:
        """Called about once a second; True when a scan must follow: the way of hearing changed."""
        is_new = not self._waker.is_healthy()
        if is_new:
            self._begin_anew()
        self._waker.listen()
        return self._tell() or is_new

    def complaint(self) -> str | None:
        """What /readyz says: events have stopped, and nobody has begun anew yet."""
        if self._waker.mode == "polling" or self._waker.is_healthy():
            return None
        return "file events have stopped; watching anew"

    def close(self) -> None:
        """Stop watching."""
        self._waker.close()

    def _begin_anew(self) -> None:
        self._waker.close()
        self._waker = wakers.start(self._inbox)
        self._overflows = 0

    def _tell(self) -> bool:
        """Tell log and metrics what has changed; returns whether the mode or its reason has."""
        now = (self._waker.mode, self._waker.complaint)
        is_news = now != self._told
        if is_news:
            self._metrics.watcher_mode(self._waker.mode)
            if self._waker.mode == "polling":
                log.warning("looking every few seconds", reason=self._waker.complaint)
            elif self._told is not None:
                log.info("file events come again", inbox=str(self._inbox))
        self._told = now
        self._metrics.overflowed(self._waker.overflows - self._overflows)
        self._overflows = self._waker.overflows
        return is_news
