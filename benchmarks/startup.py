"""(c) our two processes on the starter model: seconds from the command to ready, memory at rest."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import PIGEONHOLE, free_port, memory_mb, process, until_ready

_REST_S = 2.0


def startup(*, quick: bool) -> dict[str, Any]:
    """Medians of fresh starts; the peers' figures are those of part (b)."""
    rounds = 2 if quick else 5
    return {
        command: {
            name: statistics.median(values)
            for name, values in zip(
                ("ready_s", "rest_mb"),
                zip(*[_start(command) for _ in range(rounds)], strict=True),
                strict=True,
            )
        }
        for command in ("watch", "serve")
    }


def _start(command: str) -> tuple[float, float]:
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            "PIGEONHOLE_HOME": str(Path(scratch) / "home"),
            "PIGEONHOLE_PORT": str(port),
            "PIGEONHOLE_WATCHER_METRICS_PORT": str(port),
        }
        log = Path(scratch) / "log"
        with process([*PIGEONHOLE, command], log, **environment) as running:
            ready_s = until_ready(f"http://127.0.0.1:{port}/readyz", running)
            time.sleep(_REST_S)
            return ready_s, memory_mb(running)
