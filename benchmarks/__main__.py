"""`make bench`: ours and the peers in one run. `--quick`: our own parts only, in three minutes.

Absolute figures are of one machine on one day; what counts are the ratios of one run.
"""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks import report
from benchmarks.folder import folder
from benchmarks.latency import latency
from benchmarks.models import prepare
from benchmarks.photos import Photos, large, photographs
from benchmarks.preparing import preparing
from benchmarks.scale import scale
from benchmarks.serving import serving
from benchmarks.startup import startup

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PARTS = "acdebf"  # in this order: what needs a machine at rest comes before the long one

console = Console(stderr=True)


def main() -> None:
    """Measure, write a file per part, print the table."""
    given = _arguments()
    cache = given.cache
    cache.mkdir(parents=True, exist_ok=True)
    models = prepare(cache)
    photos = photographs(200 if given.quick else 1000)
    big = large(8) if "f" in given.parts else Photos([], "")
    fp32 = [model for model in models if not model.is_int8]
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "a": lambda: folder(models, photos.files, quick=given.quick),
        "b": lambda: serving(models, photos.files, cache, quick=given.quick),
        "c": lambda: startup(quick=given.quick),
        "d": lambda: latency(fp32, photos.files, cache, quick=given.quick),
        "e": lambda: scale(models[0], quick=given.quick),
        "f": lambda: preparing(photos.files, big.files, quick=given.quick),
    }
    for part in PARTS:
        if part in given.parts:
            _measure(part, runs[part], photos, given)
    console.print(report.text(given.results))


def _measure(
    part: str, run: Callable[[], dict[str, Any]], photos: Photos, given: argparse.Namespace
) -> None:
    """One part to its file. What fails is said there; the other parts are measured all the same."""
    console.print(f"part {part} ...")
    started_s, busy = time.perf_counter(), os.getloadavg()[0]
    try:
        found = run()
    except (OSError, RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
        console.print(f"part {part} failed: {error}")
        return
    seconds = round(time.perf_counter() - started_s, 1)
    data = {"machine": _machine(busy), "photos": photos.what, "quick": given.quick}
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / f"{part}.json").write_text(
        json.dumps({**data, "took_s": seconds, "found": found}, indent=2) + "\n", "utf-8"
    )
    console.print(f"part {part}: {seconds} s")


def _machine(load_before: float) -> dict[str, Any]:
    return {
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "load_before": round(load_before, 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("onnxruntime", "pillow", "torch")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="our own parts only")
    parser.add_argument(
        "--parts",
        type=lambda text: text.replace(",", ""),
        default="",
        help="some of a,b,c,d,e,f; all of them otherwise",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "pigeonhole-bench",
        help="models and the environments of peers",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    given = parser.parse_args()
    if set(given.parts) - set(PARTS):
        parser.error(f"parts are some of {', '.join(sorted(PARTS))}")
    given.parts = given.parts or PARTS
    return given


if __name__ == "__main__":
    main()
