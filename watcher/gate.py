"""Whether files may be taken now. A person or a fault shuts the gate; it opens again by itself."""

import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from core.settings import Settings
from monitoring.metrics import Metrics
from storage.pause import paused_since
from watcher import mounts
from watcher.faults import REASONS, Fault, PausedError, little_room

log = structlog.get_logger(__name__)
_PAUSES_S = (1.0, 2.0, 4.0, 5.0)
_BY_HAND_S = 1.0


class Gate:
    """Checks before each turn and each batch; tells the log, the metrics and /readyz."""

    def __init__(self, settings: Settings, disks: Sequence[Path], metrics: Metrics) -> None:
        self._settings = settings
        self._disks = disks
        self._metrics = metrics
        self._is_mount = mounts.is_mount_point(settings.inbox)
        self._failures = 0
        self._shut_s = 0.0
        self.fault: Fault | None = None
        metrics.watcher_paused(None, REASONS)

    def check_inbox(self) -> None:
        """Raise when the inbox was a mount and is none any more: an empty folder lies there now."""
        is_mount = mounts.is_mount_point(self._settings.inbox)
        if self._is_mount and not is_mount:
            text = f"{self._settings.inbox} is no longer mounted. Mount it again."
            raise PausedError(Fault("inbox", text))
        self._is_mount = is_mount

    def check(self) -> None:
        """Raise when somebody said `pigeonhole pause`, or a disk is nearly full."""
        if since := paused_since(self._settings.home):
            text = f"since {since:%Y-%m-%d %H:%M:%SZ}. `pigeonhole resume` goes on."
            raise PausedError(Fault("user", text))
        if fault := little_room(self._disks, self._settings.min_free_bytes):
            raise PausedError(fault)

    def shut(self, fault: Fault) -> float:
        """Nothing is taken from now on; returns in how many seconds to try again."""
        if self.fault is None:
            self._shut_s, self._failures = time.monotonic(), 0
        if self.fault is None or self.fault.reason != fault.reason:
            self._announce(fault)
        self.fault = fault
        if fault.reason == "user":
            return _BY_HAND_S
        self._failures += 1
        return _PAUSES_S[min(self._failures, len(_PAUSES_S)) - 1]

    def open(self) -> None:
        """Work goes on."""
        if self.fault is None:
            return
        log.info("resumed", paused_s=round(time.monotonic() - self._shut_s, 1))
        self.fault = None
        self._metrics.watcher_paused(None, REASONS)

    def complaint(self) -> str | None:
        """What /readyz says."""
        return str(self.fault) if self.fault else None

    def room_complaint(self) -> str | None:
        """What /readyz says of the disks, asked now."""
        fault = little_room(self._disks, self._settings.min_free_bytes)
        return fault.detail if fault else None

    def _announce(self, fault: Fault) -> None:
        self._metrics.watcher_paused(fault.reason, REASONS)
        if fault.reason == "user":
            log.info("paused by hand", detail=fault.detail)
            return
        self._metrics.error("paused")
        log.error("paused; nothing is lost", reason=fault.reason, detail=fault.detail)
