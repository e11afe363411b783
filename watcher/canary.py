"""Do file events come at all? We touch a file of our own and listen for it.

A watch can be deaf without any error: mounts that send no events, watches that the kernel refused
for sub-folders, a folder that something else was mounted over.
"""

import os
import threading
from pathlib import Path

from watcher import reserved

PATIENCE_S = 5.0  # an event takes milliseconds; a machine under load deserves some more
_EVERY_S = 60.0
_AGAIN_S = 10.0  # while it is not heard
_DESCRIPTORS = Path("/proc/self/fdinfo")


class Canary:
    """One hidden file in one folder. `step` is called about every second, `heard` by the events."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / reserved.name("canary")
        self._heard = threading.Event()
        self._sung_s: float | None = None
        self._next_s = 0.0
        self.complaint: str | None = None

    def heard(self, file: str) -> None:
        """An event came for this path; called on watchdog's thread."""
        if file == os.fspath(self._file):
            self._heard.set()

    def step(self, now_s: float) -> None:
        """Sing when it is time, and judge the silence. Where we may not write, nothing is known."""
        if self._sung_s is not None:
            if self._heard.is_set():
                self._sung_s, self.complaint, self._next_s = None, None, now_s + _EVERY_S
            elif now_s - self._sung_s >= PATIENCE_S:
                self.complaint = f"{self._file.parent} sends no file events"
                self._sung_s, self._next_s = None, now_s + _AGAIN_S
        elif now_s >= self._next_s:
            self._sing(now_s)

    def _sing(self, now_s: float) -> None:
        self._heard.clear()
        try:
            self._file.write_bytes(b"")
            self._file.unlink(missing_ok=True)
        except OSError:
            self._next_s = now_s + _EVERY_S
        else:
            self._sung_s = now_s


def unwatched(inbox: Path) -> int:
    """How many folders of the inbox have no watch; 0 where the kernel does not tell."""
    watches = _watches()
    if watches is None:
        return 0
    folders = 1 + sum(len(names) for _, names, _ in os.walk(inbox))
    return max(0, folders - watches)


def _watches() -> int | None:
    """How many inotify watches this process has, by the kernel's own account."""
    try:
        files = list(_DESCRIPTORS.iterdir())
    except OSError:
        return None
    count = 0
    for file in files:
        try:
            lines = file.read_text("ascii", "replace").splitlines()
        except OSError:
            continue  # closed meanwhile
        count += sum(line.startswith("inotify ") for line in lines)
    return count
