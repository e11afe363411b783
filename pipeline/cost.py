"""What one image costs: `python -m pipeline.cost BUNDLE`, in a process that does nothing else."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from core.bundle import Bundle
from pipeline.stage import StageError
from pipeline.verdict import Cost

_WARM_UP, _RUNS = 3, 40


def measured(folder: Path) -> Cost:
    """Latency and peak memory of a bundle, on one thread, in a process of its own."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "pipeline.cost", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parent.parent,
    )
    if done.returncode:
        raise StageError(f"{folder} cannot be measured: {done.stderr.strip()}")
    return Cost(**json.loads(done.stdout))


def _cost(folder: Path) -> Cost:
    bundle = Bundle.load(folder)
    size = bundle.recipe.size_px
    noise = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    spent_ms = []
    for _ in range(_WARM_UP + _RUNS):
        started = time.perf_counter()
        bundle.scores(noise)
        spent_ms.append(1000 * (time.perf_counter() - started))
    p95_ms = round(float(np.percentile(spent_ms[_WARM_UP:], 95)), 3)
    return Cost(p95_ms, _peak_memory_bytes())


def _peak_memory_bytes() -> int:
    """The most memory that this process has had.

    Not `ru_maxrss` where Linux can say better: that begins with what our parent had when it
    started us, and who trains has much.
    """
    try:
        status = Path("/proc/self/status").read_text("ascii", "replace")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    print(json.dumps(_cost(Path(sys.argv[1]))._asdict()))  # noqa: T201 - data
