"""How things are measured: rounds that are interleaved, medians, and processes that are ended."""

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

PIGEONHOLE = (sys.executable, "-m", "pigeonhole")
START_LIMIT_S = 120.0


def interleaved(rounds: int, runs: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each run's figure; one round does each of them once, so all share the noise."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    return {name: statistics.median(figures) for name, figures in found.items()}


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(
    command: Sequence[str], log: Path, cwd: Path | None = None, **environment: str
) -> Iterator[psutil.Process]:
    """A process and all that it starts; ended at the end, gently and then not."""
    with log.open("ab") as file:
        started = subprocess.Popen(
            command,
            cwd=cwd,
            env=_as_users_have_it() | environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    shown = psutil.Process(started.pid)
    try:
        yield shown
    finally:
        family = _family(shown)
        started.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs(family, timeout=8)
        for stubborn in alive:
            stubborn.kill()
        started.wait()


def _as_users_have_it() -> dict[str, str]:
    """Compiled modules are kept, which containers like to forbid: a start takes twice as long."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def until_ready(url: str, of: psutil.Process) -> float:
    """Seconds until `url` answers 200; raises `RuntimeError` when the process ends before."""
    started_s = time.perf_counter()
    while time.perf_counter() - started_s < START_LIMIT_S:
        if not of.is_running() or of.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError("it ended before it was ready")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - http, ours
                if answer.status == 200:
                    return time.perf_counter() - started_s
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    raise RuntimeError(f"not ready after {START_LIMIT_S:.0f} s")


def memory_mb(of: psutil.Process) -> float:
    """The proportional share of memory (PSS) of a process and all that it started."""
    total = 0
    for member in _family(of):
        try:
            total += member.memory_full_info().pss
        except (psutil.Error, AttributeError):
            continue
    return total / 2**20


def wait_for(happened: Callable[[], Any], limit_s: float = 600.0, every_s: float = 0.02) -> None:
    """Until `happened` says so; raises `TimeoutError`."""
    deadline_s = time.monotonic() + limit_s
    while not happened():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {limit_s:.0f} s")
        time.sleep(every_s)


def _family(of: psutil.Process) -> list[psutil.Process]:
    try:
        return [of, *of.children(recursive=True)]
    except psutil.Error:
        return [of]
