"""(d) one file, or one upload, on an idle machine: until its row is committed."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import client
from benchmarks.folder import rows, watcher
from benchmarks.measure import quantiles_ms, until_ready, wait_for
from benchmarks.models import Model
from benchmarks.servers import OURS

_REST_S = 0.05  # between two files: the watcher is idle again


def latency(
    models: Sequence[Model], photos: Sequence[bytes], cache: Path, *, quick: bool
) -> dict[str, Any]:
    """p50 and p99 in milliseconds, by model and way in."""
    few = photos[: 40 if quick else 500]
    return {
        "files": len(few),
        "models": {
            model.name: {
                "renamed into the inbox": quantiles_ms(renamed_in(model, few)),
                "uploaded": quantiles_ms(uploaded(model, few, cache)),
            }
            for model in models
        },
    }


def renamed_in(model: Model, photos: Sequence[bytes]) -> list[float]:
    """Seconds from the rename into the inbox to the committed row, one file at a time."""
    found = []
    with tempfile.TemporaryDirectory() as scratch, watcher(Path(scratch), model.bundle) as home:
        for number, data in enumerate(photos):
            part = home / f"{number}.part"
            part.write_bytes(data)
            time.sleep(_REST_S)
            started_s = time.perf_counter()
            part.rename(home / "inbox" / f"{number}.jpg")
            wait_for(lambda number=number: rows(home) > number, limit_s=60, every_s=0.001)
            found.append(time.perf_counter() - started_s)
    return found[len(found) // 10 :]  # the first ones warm it up


def uploaded(model: Model, photos: Sequence[bytes], cache: Path) -> list[float]:
    """Seconds from the request to its answer, which comes after the commit; one client."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        OURS.started(model, "onnx", cache, Path(scratch)) as running,
    ):
        until_ready(running.ready_url, running.of)
        requests = client.forms(OURS.path, photos)
        client.load(running.port, requests, 1, 1.0)
        return client.load(running.port, requests, 1, max(1.0, len(photos) * 0.02)).latencies_s
