"""Who holds a claim, and whether they are still alive."""

import functools
import os
import socket
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def this_process() -> str:
    """`host|boot|pid|start`: never the same for two processes, not even after a reboot."""
    return "|".join((socket.gethostname(), _boot(), str(os.getpid()), _started(os.getpid())))


def is_dead(owner: str) -> bool:
    """Whether this owner is certainly gone. Of other hosts we cannot know: their lease decides."""
    try:
        host, boot, pid, started = owner.split("|")
    except ValueError:
        return True
    if host != socket.gethostname():
        return False
    return boot != _boot() or started != _started(int(pid))


def is_foreign(owner: str) -> bool:
    """Whether this owner runs, or ran, on a host that we cannot ask."""
    return owner.split("|", maxsplit=1)[0] != socket.gethostname()


def _started(pid: int) -> str:
    """When a process started, in the kernel's own ticks where there are any; empty when it is gone.

    A wall-clock time would shift when the clock is set. A zombie is dead.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        pass
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def _boot() -> str:
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"
