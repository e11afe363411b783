"""API readers, API writers and a watcher at full speed on one database (G19)."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from storage.store import Store
from tests.api.conftest import serving

READERS, WRITERS = 8, 2
Start = Callable[..., subprocess.Popen[bytes]]
Until = Callable[..., None]
Say = Callable[[object], None]


@pytest.mark.guarantee("G19")
def test_readers_writers_and_watcher_share_the_database_and_nobody_hears_of_a_lock(
    start: Start, home: Path, store: Store, until: Until, paint: Callable[..., bytes],
    tmp_path: Path, soak: bool, say: Say,
) -> None:  # fmt: skip
    """Every answer must be a good one; how long a writer waited is said."""
    length_s = 60.0 if soak else 3.0
    bad: list[str] = []
    reads: list[float] = []
    writes: list[float] = []
    stop = threading.Event()

    def read(url: str) -> None:
        with httpx2.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                for path in ("/v1/results?limit=50", "/v1/results?q=1&limit=5", "/readyz"):
                    started_s = time.monotonic()
                    answer = client.get(path)
                    reads.append(time.monotonic() - started_s)
                    if answer.status_code != 200:
                        bad.append(f"{path}: {answer.status_code} {answer.text}")

    def write(url: str, number: int) -> None:
        with httpx2.Client(base_url=url, timeout=60) as client:
            while not stop.is_set():
                size = (20 + len(writes) % 500, 10 + number)
                started_s = time.monotonic()
                answer = client.post("/v1/predict", files={"file": ("a.png", paint("blue", size))})
                writes.append(time.monotonic() - started_s)
                if answer.status_code != 201:
                    bad.append(f"predict: {answer.status_code} {answer.text}")

    start(HEARTBEAT_S="0", SETTLE_S="0.05")
    with serving(home) as server:
        threads = [threading.Thread(target=read, args=(server.url,)) for _ in range(READERS)]
        threads += [
            threading.Thread(target=write, args=(server.url, number)) for number in range(WRITERS)
        ]
        for thread in threads:
            thread.start()
        dropped = 0
        end_s = time.monotonic() + length_s
        while time.monotonic() < end_s:
            for _ in range(20):
                data = paint("red", (20 + dropped % 400, 20 + dropped // 400))
                (home / "inbox" / f"{dropped}.png").write_bytes(data)
                dropped += 1
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
    until(lambda: store.count() == dropped + len(writes), "every file and upload has its row", 300)
    assert bad == []
    said = (tmp_path / "watcher.log").read_text("utf-8")
    assert "locked" not in said
    assert "paused" not in said
    p99_s = sorted(writes)[len(writes) * 99 // 100]
    say(
        f"G19: {len(reads)} reads, {len(writes)} uploads (p99 {p99_s * 1000:.0f} ms), "
        f"{dropped} files in {length_s:.0f} s; {len(bad)} bad answers"
    )
