"""Sixty-four clients upload while the watcher works: short here, a minute by `make load`."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from tests.api.conftest import make_home, start

CLIENTS = 64
SECONDS = float(os.environ.get("PIGEONHOLE_LOAD_S", "3"))
DROPPED = int(50 * SECONDS)

_WATCH = """
import sys
from core.settings import Settings
from monitoring import logs
from watcher import daemon
logs.configure("json", "watcher")
sys.exit(daemon.run(Settings.read(), once=False))
"""


@pytest.mark.timeout(900)
def test_many_clients_and_the_watcher_lose_nothing_and_lock_nobody_out(
    rgb_bundle: Path, tmp_path: Path, paint: Callable[..., bytes]
) -> None:
    home = make_home(tmp_path / "home", rgb_bundle)
    inbox = home / "inbox"
    inbox.mkdir()
    environment = {
        **os.environ,
        "PIGEONHOLE_HOME": str(home),
        "PIGEONHOLE_SETTLE_S": "0",
        "PIGEONHOLE_WATCHER_METRICS_PORT": "0",
        "PIGEONHOLE_HEARTBEAT_S": "0",
    }
    with (tmp_path / "api.log").open("w") as api_log, (tmp_path / "watcher.log").open("w") as log:
        server = start(home)
        assert server.stderr
        url = json.loads(server.stderr.readline())["url"]
        reader = threading.Thread(target=lambda: api_log.writelines(server.stderr or ()))
        reader.start()
        watcher = subprocess.Popen(
            [sys.executable, "-c", _WATCH], cwd=home, env=environment, stderr=log
        )
        try:
            dropper = threading.Thread(target=_drop, args=(inbox, paint))
            dropper.start()
            seen = _upload(url, paint)
            dropper.join()
            rows = _wait_for_rows(home, DROPPED)
            assert watcher.poll() is None
        finally:
            for process in (watcher, server):
                process.terminate()
                process.wait(60)
            reader.join()
            server.stderr.close()

    print(f"\n{SECONDS:g} s, {CLIENTS} clients: {dict(seen)}, rows {rows}")  # noqa: T201
    assert set(seen) <= {201, 503}
    assert seen[201] > 0
    assert rows == {"upload": seen[201], "watcher": DROPPED}
    for name in ("api.log", "watcher.log"):
        said = (tmp_path / name).read_text()
        assert "database is locked" not in said
        assert "internal_error" not in said


def _upload(url: str, paint: Callable[..., bytes]) -> Counter[int]:
    together = threading.Barrier(CLIENTS)

    def client(number: int) -> Counter[int]:
        seen: Counter[int] = Counter()
        with httpx2.Client(base_url=url, timeout=120, verify=False) as session:
            together.wait()
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                image = paint((number, seen[201] % 256, seen[201] // 256), (16, 16))
                answer = session.post("/v1/predict", files={"file": (f"{number}.png", image)})
                seen[answer.status_code] += 1
                if answer.status_code == 503:
                    time.sleep(int(answer.headers["Retry-After"]))
        return seen

    with ThreadPoolExecutor(CLIENTS) as threads:
        return sum(threads.map(client, range(CLIENTS)), Counter())


def _drop(inbox: Path, paint: Callable[..., bytes]) -> None:
    for number in range(DROPPED):
        part = inbox / f".{number}.part"
        part.write_bytes(paint((255, number % 256, number // 256), (20, 20)))
        part.rename(inbox / f"{number}.png")


def _wait_for_rows(home: Path, dropped: int) -> dict[str, int]:
    """The rows by source, once the watcher has done its part; the limit is the test's own."""
    query = "SELECT source, count(*) FROM results GROUP BY source"
    with closing(sqlite3.connect(home / "pigeonhole.db", timeout=60)) as connection:
        while True:
            rows = dict(connection.execute(query).fetchall())
            if rows.get("watcher", 0) >= dropped:
                return rows
            time.sleep(0.2)
