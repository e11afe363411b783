"""Our own files in the inbox: hidden, named after the process that wrote them, and short-lived.

No scan takes them for a delivery, since names with a leading dot are nobody's business; the one
exception is a process's own heartbeat. What a killed process left is cleared away by the next.
"""

import contextlib
import os
from pathlib import Path

from watcher import owner

PREFIX = ".pigeonhole-"
_ABANDONED_S = 3600.0  # of a host that we cannot ask, by the clock of the inbox's own file system


def name(purpose: str, suffix: str = "") -> str:
    """`.pigeonhole-PURPOSE,HOST,BOOT,PID,START` of this process."""
    return f"{PREFIX}{purpose},{owner.this_process().replace('|', ',')}{suffix}"


def is_ours(path: str) -> bool:
    """Whether some Pigeonhole process wrote a file of this name."""
    return path.rpartition("/")[2].startswith(PREFIX)


def is_heartbeat(path: str) -> bool:
    """Whether this is the present heartbeat of this very process."""
    return path.rpartition("/")[2] == name("heartbeat", ".png")


def clear_leftovers(inbox: Path, now_s: float) -> int:
    """Remove what dead processes have left; returns how many. `now_s` is the inbox's own time."""
    cleared = 0
    with os.scandir(inbox) as entries:
        left = [entry for entry in entries if is_ours(entry.name) and _is_left(entry, now_s)]
    for entry in left:
        with contextlib.suppress(OSError):  # another watcher was faster, or we may not
            Path(entry.path).unlink()
            cleared += 1
    return cleared


def _is_left(entry: os.DirEntry[str], now_s: float) -> bool:
    _, comma, rest = entry.name.partition(",")
    if not comma:
        return False  # of another program of ours, which cleans up after itself
    writer = _writer(rest)
    if owner.is_dead(writer):
        return True
    try:
        age_s = now_s - entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return False
    return writer.split("|")[0] != owner.this_process().split("|")[0] and age_s > _ABANDONED_S


def _writer(rest: str) -> str:
    """The owner that a name speaks of."""
    return rest.removesuffix(".part").removesuffix(".png").replace(",", "|")
