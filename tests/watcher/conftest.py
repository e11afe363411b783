"""A home with the brightest-channel model, and real watcher processes in it."""

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from core.bundle import Bundle
from core.engine import Engine
from core.settings import Settings
from monitoring.metrics import Metrics
from storage.results import Result, ResultFilter
from storage.store import Store
from watcher.batch import Worker
from watcher.daemon import Watcher


@pytest.fixture
def home(tmp_path: Path, rgb_bundle: Path) -> Path:
    home = tmp_path / "home"
    shutil.copytree(rgb_bundle, home / "models" / "current")
    (home / "inbox").mkdir()
    return home


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home, settle_s=0.1, watcher_metrics_port=0, workers=2)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store.open(settings.database_url)
    yield store
    store.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def engine(rgb_bundle: Path, metrics: Metrics) -> Iterator[Engine]:
    with Engine(Bundle.load(rgb_bundle), 2, 1_000_000, observer=metrics) as engine:
        yield engine


@pytest.fixture
def worker(settings: Settings, store: Store, engine: Engine, metrics: Metrics) -> Worker:
    return Worker(settings, store, engine, metrics)


@pytest.fixture
def rows(store: Store) -> Callable[[], list[Result]]:
    """Every row there is, oldest first."""
    return lambda: list(store.stream(ResultFilter(), order="asc"))


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`start("--once", AFTER="keep")`: a real watcher process; whatever still runs is ended."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        named = {f"PIGEONHOLE_{name}": value for name, value in settings.items()}
        defaults = {
            "PIGEONHOLE_HOME": str(home),
            "PIGEONHOLE_SETTLE_S": "0.1",
            "PIGEONHOLE_WATCHER_METRICS_PORT": "0",
        }
        with (tmp_path / "watcher.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pigeonhole", "watch", *arguments],
                env={**os.environ, **defaults, **named},
                stderr=log,
            )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for something to become true; fails with what it was waiting for."""

    def until(happened: Callable[[], bool], what: str, limit_s: float = 90.0) -> None:
        deadline = time.monotonic() + limit_s
        while not happened():
            assert time.monotonic() < deadline, f"after {limit_s} s still not: {what}"
            time.sleep(0.01)

    return until


@pytest.fixture
def watch(engine: Engine, settings: Settings, metrics: Metrics) -> Iterator[Callable[..., Watcher]]:
    """`watch(after="keep")`: a watcher on a thread of this process; all are ended.

    `as_anybody=True` takes root's power over permissions from its thread, if we are root.
    """
    with ExitStack() as running:

        def begin(*, as_anybody: bool = False, **changed: object) -> Watcher:
            mine = settings.model_copy(update=changed)
            store = Store.open(mine.database_url)
            running.callback(store.close)
            watcher = Watcher(mine, store, engine, metrics)
            running.callback(watcher.close)

            def turn() -> None:
                if as_anybody:
                    give_up_permissions()
                watcher.watch()

            thread = threading.Thread(target=turn)
            thread.start()
            running.callback(thread.join)
            running.callback(watcher.stop)
            return watcher

        yield begin


def give_up_permissions() -> None:
    """For this thread alone: root without the power to read and write what is forbidden."""
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    data = ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, data) == 0
    words = list(struct.unpack("6I", data.raw))
    words[0] &= ~0b110  # effective: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, struct.pack("6I", *words)) == 0


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """`mount("-t", "tmpfs", "none", folder)`; the test is skipped where we may not."""
    points: list[str] = []

    def mount(*arguments: object) -> None:
        words = [str(argument) for argument in arguments]
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting needs root and CAP_SYS_ADMIN: {done.stderr.strip()}")
        points.append(words[-1])

    yield mount
    for point in reversed(points):
        subprocess.run(["umount", "-l", point], capture_output=True, check=False)


@pytest.fixture
def unmount() -> Callable[[Path], None]:
    """Take a mount away, whoever uses it."""

    def unmount(folder: Path) -> None:
        subprocess.run(["umount", "-l", str(folder)], check=True)

    return unmount
