"""(a) a folder of photographs, from dropped files to rows committed and files put away.

Beside it, in the same rounds: the limit (the best of our decode and forward pass on every core,
with no database and no files), and what people write with torch and torchvision.
"""

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import PIGEONHOLE, free_port, interleaved, process, until_ready, wait_for
from benchmarks.models import Model
from core.bundle import Bundle
from core.image import preprocess

MAX_PIXELS = 10**8
_FORWARDS = (2, 4, 16, 32)  # images per forward pass; the limit is the best of them
_PLAIN = {
    "PIL + torch, one by one": "one-by-one",
    "ImageFolder + DataLoader + torch": "loader",
}


def folder(models: Sequence[Model], photos: Sequence[bytes], *, quick: bool) -> dict[str, Any]:
    """Images per second, medians of interleaved rounds, by model."""
    few = photos[: 50 if quick else 200]
    return {
        "images": len(photos),
        "images_plain": len(few),
        "images_per_s": {model.name: _of(model, photos, few, quick=quick) for model in models},
    }


def _of(
    model: Model, photos: Sequence[bytes], few: Sequence[bytes], *, quick: bool
) -> dict[str, float]:
    bundle = Bundle.load(model.bundle)
    limits: dict[str, Callable[[], float]] = {
        f"{size} a pass": lambda size=size: limit(bundle, photos, size)  # type: ignore[misc]
        for size in (_FORWARDS[1:3] if quick else _FORWARDS)
    }
    others: dict[str, Callable[[], float]] = {
        name: lambda how=how: plain(model, few, how)  # type: ignore[misc]
        for name, how in ({} if quick else _PLAIN).items()
    }
    ours = {"Pigeonhole": lambda: dropped(model.bundle, photos)}
    figures = interleaved(1 if quick else 3, {**limits, **ours, **others})
    best = max(figures.pop(name) for name in limits)
    return {"limit": best, **figures}


def limit(bundle: Bundle, photos: Sequence[bytes], size: int) -> float:
    """Images per second of decode and forward pass alone, a thread per core."""
    firsts = iter(range(0, len(photos), size))
    turn = threading.Lock()

    def work() -> None:
        while True:
            with turn:
                first = next(firsts, None)
            if first is None:
                return
            taken = photos[first : first + size]
            bundle.scores(
                np.stack([preprocess(data, bundle.recipe, MAX_PIXELS)[0] for data in taken])
            )

    threads = [threading.Thread(target=work) for _ in range(os.cpu_count() or 1)]
    started_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(photos) / (time.perf_counter() - started_s)


def dropped(bundle: Path, photos: Sequence[bytes]) -> float:
    """Images per second of a real watcher, from the drop of a folder until the inbox is empty."""
    with tempfile.TemporaryDirectory() as scratch, watcher(Path(scratch), bundle) as home:
        part = home / "part"
        part.mkdir()
        for number, data in enumerate(photos):
            (part / f"{number:05}.jpg").write_bytes(data)
        started_s = time.perf_counter()
        part.rename(home / "inbox" / "all")
        with closing(sqlite3.connect(home / "pigeonhole.db", timeout=30)) as connection:
            wait_for(lambda: _rows(connection) == len(photos), every_s=0.02)
        wait_for(lambda: not any((home / "inbox" / "all").iterdir()), every_s=0.005)
        return len(photos) / (time.perf_counter() - started_s)


def plain(model: Model, photos: Sequence[bytes], how: str) -> float:
    """Images per second of a plain script with torch; its start is not counted."""
    with tempfile.TemporaryDirectory() as scratch:
        label = Path(scratch) / "label"
        label.mkdir()
        for number, data in enumerate(photos):
            (label / f"{number:05}.jpg").write_bytes(data)
        command = [
            sys.executable, "-m", "benchmarks.plain", how, model.network, model.weights, scratch,
        ]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(done.stdout)


@contextmanager
def watcher(scratch: Path, bundle: Path, **settings: str) -> Iterator[Path]:
    """A real watcher that is ready; gives its HOME. Files count as whole at first sight."""
    home, port = scratch / "home", free_port()
    (home / "models").mkdir(parents=True)
    (home / "models" / "current").symlink_to(bundle)
    environment = {
        "PIGEONHOLE_HOME": str(home),
        "PIGEONHOLE_WATCHER_METRICS_PORT": str(port),
        "PIGEONHOLE_SETTLE_S": "0",
        **settings,
    }
    command = [*PIGEONHOLE, "watch"]
    with process(command, scratch / "watcher.log", **environment) as running:
        until_ready(f"http://127.0.0.1:{port}/readyz", running)
        yield home


def rows(home: Path) -> int:
    """How many results are committed."""
    with closing(sqlite3.connect(home / "pigeonhole.db", timeout=30)) as connection:
        return _rows(connection)


def _rows(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT max(seq) FROM results").fetchone()
    return count or 0
