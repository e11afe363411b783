"""(c) our two processes on the starter model: seconds from the command to ready, memory at rest.

The first start makes the database; it is told apart from all others.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import PIGEONHOLE, free_port, memory_mb, process, until_ready

_REST_S = 2.0


def startup(*, quick: bool) -> dict[str, Any]:
    """Medians over several homes; the peers' figures are those of part (b)."""
    return {command: _of(command, 2 if quick else 5) for command in ("watch", "serve")}


def _of(command: str, rounds: int) -> dict[str, float]:
    _pair(command)  # from then on Python has its modules compiled
    pairs = [_pair(command) for _ in range(rounds)]
    return {
        "first_s": statistics.median(first_s for first_s, _, _ in pairs),
        "ready_s": statistics.median(ready_s for _, ready_s, _ in pairs),
        "rest_mb": statistics.median(rest_mb for _, _, rest_mb in pairs),
    }


def _pair(command: str) -> tuple[float, float, float]:
    """Seconds of the first start of a home and of its second; memory at rest of the second."""
    with tempfile.TemporaryDirectory() as scratch:
        first_s, _ = _start(command, Path(scratch))
        return first_s, *_start(command, Path(scratch))


def _start(command: str, scratch: Path) -> tuple[float, float]:
    port = free_port()
    environment = {
        "PIGEONHOLE_HOME": str(scratch / "home"),
        "PIGEONHOLE_PORT": str(port),
        "PIGEONHOLE_WATCHER_METRICS_PORT": str(port),
    }
    with process([*PIGEONHOLE, command], scratch / "log", **environment) as running:
        ready_s = until_ready(f"http://127.0.0.1:{port}/readyz", running)
        time.sleep(_REST_S)
        return ready_s, memory_mb(running)
