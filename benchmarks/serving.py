"""(b) the API beside its peers, and (c) how soon each is ready and how much memory it takes."""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import client
from benchmarks.measure import memory_mb, quantiles_ms, until_ready
from benchmarks.models import Model
from benchmarks.servers import OURS, OURS_KEEPING_NOTHING, PEERS, Server

CLIENTS = (1, 8, 32)


class Case(NamedTuple):
    """One server with one runtime."""

    server: Server
    runtime: str

    @property
    def name(self) -> str:
        """As the table has it."""
        is_peer = self.server in PEERS
        return f"{self.server.name}, {self.runtime}" if is_peer else self.server.name


def cases(model: Model, *, quick: bool) -> list[Case]:
    """Ours, keeping the photo and keeping nothing, and the peers.

    These with torch, as their users have them, and with our graph and runtime; none has int8.
    """
    ours = [Case(OURS, "onnx"), Case(OURS_KEEPING_NOTHING, "onnx")]
    if quick or model.is_int8:
        return ours
    return ours + [Case(peer, runtime) for runtime in ("torch", "onnx") for peer in PEERS]


def serving(
    models: Sequence[Model], photos: Sequence[bytes], cache: Path, *, quick: bool
) -> dict[str, Any]:
    """Requests per second and latencies by model, server and number of clients."""
    rounds, seconds = (1, 2.0) if quick else (2, 3.0)
    found: dict[str, Any] = {model.name: {} for model in models}
    absent: dict[str, str] = {}
    for _ in range(rounds):
        for model in models:
            for case in cases(model, quick=quick):
                if case.name in absent:
                    continue
                try:
                    run = _run(case, model, photos, cache, seconds)
                except (RuntimeError, OSError) as error:
                    absent[case.name] = str(error)
                    continue
                found[model.name].setdefault(case.name, []).append(run)
    return {
        "models": {
            model: {name: _medians(runs) for name, runs in by_name.items()}
            for model, by_name in found.items()
        },
        "absent": absent,
        "rounds": rounds,
        "seconds": seconds,
    }


def _run(
    case: Case, model: Model, photos: Sequence[bytes], cache: Path, seconds: float
) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory() as scratch,
        case.server.started(model, case.runtime, cache, Path(scratch)) as running,
    ):
        figures = {"ready_s": until_ready(running.ready_url, running.of)}
        time.sleep(1.0)
        figures["rest_mb"] = memory_mb(running.of)
        requests = case.server.requests(case.server.path, photos)
        client.load(running.port, requests, 2, 1.0)  # warm
        for clients in CLIENTS:
            for name, value in _load(running.port, requests, clients, seconds):
                figures[f"c{clients}_{name}"] = value
        figures["loaded_mb"] = memory_mb(running.of)
    return figures


def _load(
    port: int, requests: Iterator[bytes], clients: int, seconds: float
) -> Iterator[tuple[str, float]]:
    load = client.load(port, requests, clients, seconds)
    if len(load.latencies_s) < 2:
        raise RuntimeError(f"{load.errors} errors and {len(load.latencies_s)} answers")
    yield "per_s", load.per_s
    yield from quantiles_ms(load.latencies_s).items()
    yield "errors", float(load.errors)


def _medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}
