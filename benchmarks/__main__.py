"""`make bench`: the engine beside its own parts, the inbox beside the engine, and one file's way.

The machine is never quiet, so the ratios of one run count, not the absolute figures.
"""

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from core.bundle import STARTER, Bundle
from core.engine import MAX_FORWARD, Engine
from core.image import preprocess

PHOTOS = 400
ROUNDS = 5
SINGLE_FILES = 100
SEED = 7


def main() -> None:
    """Measure and print."""
    photos = painted_photos(PHOTOS)
    bundle = Bundle.load(STARTER)
    workers = os.cpu_count() or 1
    parts_ms = parts_cpu_ms(bundle, photos)
    table = Table("what", "images/s", "CPU-ms per image", "beside")
    table.add_row("decode + infer, one thread", f"{1000 / parts_ms:.0f}", f"{parts_ms:.2f}", "1.00")
    rate, cpu_ms = measured(lambda: engine_run(bundle, photos, workers))
    limit = workers * 1000 / parts_ms
    table.add_row(
        f"engine, {workers} workers", f"{rate:.0f}", f"{cpu_ms:.2f}", f"{rate / limit:.2f} of limit"
    )
    with tempfile.TemporaryDirectory() as folder:
        rate, cpu_ms = inbox_run(Path(folder), photos)
        table.add_row(
            "inbox to row and folder",
            f"{rate:.0f}",
            f"{cpu_ms:.2f}",
            f"{cpu_ms / parts_ms:.2f} of CPU",
        )
    with tempfile.TemporaryDirectory() as folder:
        latencies_ms = single_files(Path(folder), photos[:SINGLE_FILES])
    cuts = statistics.quantiles(latencies_ms, n=100)
    console = Console()
    console.print(f"{PHOTOS} painted JPEGs of 500 x 375, starter model, median of {ROUNDS} rounds")
    console.print(table)
    console.print(
        f"one file renamed in until it is filed: p50 {cuts[49]:.1f} ms, p95 {cuts[94]:.1f} ms"
    )


def painted_photos(count: int) -> list[bytes]:
    """Different JPEGs with detail at every scale, about 70 kB each."""
    chance = np.random.default_rng(SEED)
    return [_photo(chance) for _ in range(count)]


def parts_cpu_ms(bundle: Bundle, photos: Sequence[bytes]) -> float:
    """CPU per image of the bare functions on one thread, in milliseconds; median of rounds."""

    def one_round() -> float:
        started = time.process_time()
        for first in range(0, len(photos), MAX_FORWARD):
            chunk = photos[first : first + MAX_FORWARD]
            bundle.scores(np.stack([preprocess(data, bundle.recipe, 10**8)[0] for data in chunk]))
        return (time.process_time() - started) * 1000 / len(photos)

    return statistics.median(one_round() for _ in range(ROUNDS))


def measured(run: Callable[[], int]) -> tuple[float, float]:
    """Images per second and CPU-ms per image, medians of rounds; `run` returns its images."""
    rates, costs = [], []
    for _ in range(ROUNDS):
        started, cpu = time.perf_counter(), time.process_time()
        images = run()
        rates.append(images / (time.perf_counter() - started))
        costs.append((time.process_time() - cpu) * 1000 / images)
    return statistics.median(rates), statistics.median(costs)


def engine_run(bundle: Bundle, photos: Sequence[bytes], workers: int) -> int:
    """All photos through an engine of its own."""
    with Engine(bundle, workers, 10**8) as engine:
        return len(engine.classify(photos))


def inbox_run(home: Path, photos: Sequence[bytes]) -> tuple[float, float]:
    """A backlog that a real watcher finds at its start: images/s and CPU-ms, the start left out."""
    with watcher(home) as process:
        before = sum(process.cpu_times()[:2])
        drop_all(home, photos)
        started = time.perf_counter()
        wait_until_empty(home / "inbox")
        seconds = time.perf_counter() - started
        cpu_s = sum(process.cpu_times()[:2]) - before
    return len(photos) / seconds, cpu_s * 1000 / len(photos)


def single_files(home: Path, photos: Sequence[bytes]) -> list[float]:
    """Milliseconds from a rename into the inbox until the file has left it, one at a time."""
    latencies_ms = []
    with watcher(home):
        for number, data in enumerate(photos):
            part = home / f"{number}.part"
            part.write_bytes(data)
            target = home / "inbox" / f"{number}.jpg"
            started = time.perf_counter()
            part.rename(target)
            wait_until_empty(home / "inbox")
            latencies_ms.append((time.perf_counter() - started) * 1000)
    return latencies_ms


@contextmanager
def watcher(home: Path) -> Iterator[psutil.Process]:
    """A real watcher process, ready to work; ended afterwards."""
    environment = {
        **os.environ,
        "PIGEONHOLE_HOME": str(home),
        "PIGEONHOLE_WATCHER_METRICS_PORT": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "pigeonhole", "watch"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        _warm_up(home)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def drop_all(home: Path, photos: Sequence[bytes]) -> None:
    """Write beside the inbox, then rename the whole folder in: the files arrive at one moment."""
    part = home / "part"
    part.mkdir()
    for number, data in enumerate(photos):
        (part / f"{number}.jpg").write_bytes(data)
    part.rename(home / "inbox" / "all")


def wait_until_empty(inbox: Path) -> None:
    """Until no file is left below the inbox; gives up after two minutes."""
    deadline = time.monotonic() + 120
    while any(path.is_file() for path in inbox.rglob("*")):
        if time.monotonic() > deadline:
            sys.exit("the watcher did not finish; see `pigeonhole status`")
        time.sleep(0.0005)


def _warm_up(home: Path) -> None:
    inbox = home / "inbox"
    while not (home / "pigeonhole.db").exists() or not inbox.exists():
        time.sleep(0.05)
    (home / "warm.part").write_bytes(_photo(np.random.default_rng(SEED + 1)))
    (home / "warm.part").rename(inbox / "warm.jpg")
    wait_until_empty(inbox)


def _photo(chance: np.random.Generator) -> bytes:
    pixels = np.zeros((375, 500, 3))
    for scale in (4, 16, 64, 256):
        noise = chance.normal(0, 40, (scale * 3 // 4, scale, 3))
        layer = Image.fromarray(np.clip(noise + 128, 0, 255).astype(np.uint8))
        pixels += np.asarray(layer.resize((500, 375), Image.Resampling.BICUBIC)) / 4.0
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


if __name__ == "__main__":
    main()
