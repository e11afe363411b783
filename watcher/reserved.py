"""Our own files in the inbox: hidden, named after the process that wrote them, and short-lived.

No scan takes them for a delivery, since names with a leading dot are nobody's business; the one
exception is a process's own heartbeat. What a killed process left is cleared away by the next.
"""

import contextlib
import os
import time
from pathlib import Path

from storage.rules import RESERVED
from watcher import owner

_ABANDONED_S = 24 * 3600.0  # of a host that we cannot ask, such as a container that is gone


def name(purpose: str, suffix: str = "") -> str:
    """`.pigeonhole-PURPOSE,HOST,BOOT,PID,START` of this process."""
    return f"{RESERVED}{purpose},{owner.this_process().replace('|', ',')}{suffix}"


def is_ours(path: str) -> bool:
    """Whether some Pigeonhole process wrote a file of this name."""
    return path.rpartition("/")[2].startswith(RESERVED)


def is_heartbeat(path: str) -> bool:
    """Whether this is the present heartbeat of this very process."""
    return path.rpartition("/")[2] == name("heartbeat", ".png")


def clear_leftovers(inbox: Path) -> int:
    """Remove what dead processes have left; returns how many."""
    with os.scandir(inbox) as entries:
        left = [entry.path for entry in entries if is_ours(entry.name) and _is_left(entry)]
    for path in left:
        with contextlib.suppress(OSError):  # another watcher was faster, or we may not
            Path(path).unlink()
    return len(left)


def _is_left(entry: os.DirEntry[str]) -> bool:
    _, comma, rest = entry.name.partition(",")
    if not comma:
        return False  # of `pigeonhole doctor`, which cleans up after itself
    writer = rest.removesuffix(".part").removesuffix(".png").replace(",", "|")
    return owner.is_dead(writer) or (owner.is_foreign(writer) and _age_s(entry) > _ABANDONED_S)


def _age_s(entry: os.DirEntry[str]) -> float:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return 0.0
