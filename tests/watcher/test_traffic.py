"""API readers, API writers and a watcher at full speed on one database (G19)."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx2
import pytest

from storage.store import Store
from tests.api.conftest import serving

pytestmark = pytest.mark.timeout(1200)  # of a busy machine, or in the long form

READERS, WRITERS = 8, 2
WAITING = 200  # files: the watcher is never without work
Start = Callable[..., subprocess.Popen[bytes]]
Until = Callable[..., None]
Say = Callable[[object], None]


class Clients:
    """Threads that ask and send until they are told to stop; what went wrong is in `bad`."""

    def __init__(self, url: str, paint: Callable[..., bytes]) -> None:
        self.bad: list[str] = []
        self.reads = 0
        self.writes_s: list[float] = []
        self._url = url
        self._paint = paint
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(READERS)]
        self._threads += [
            threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        paths = ("/v1/results?limit=50", "/v1/results?q=1&limit=5", "/readyz")
        with httpx2.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                for path in paths:
                    self._expect(200, client.get(path))
                    self.reads += 1

    def _write(self, number: int) -> None:
        with httpx2.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                image = self._paint("blue", (20 + len(self.writes_s) % 500, 10 + number))
                started_s = time.monotonic()
                self._expect(201, client.post("/v1/predict", files={"file": ("a.png", image)}))
                self.writes_s.append(time.monotonic() - started_s)

    def _expect(self, status: int, answer: httpx2.Response) -> None:
        if answer.status_code != status:
            self.bad.append(f"{answer.url}: {answer.status_code} {answer.text}")


@pytest.mark.guarantee("G19")
def test_readers_writers_and_watcher_share_the_database_and_nobody_hears_of_a_lock(
    start: Start, home: Path, store: Store, until: Until, paint: Callable[..., bytes],
    tmp_path: Path, soak: bool, say: Say,
) -> None:  # fmt: skip
    """Every answer must be a good one; how long a writer waited is said."""
    length_s = 60.0 if soak else 3.0
    start(HEARTBEAT_S="0", SETTLE_S="0.05")
    with serving(home) as server, Clients(server.url, paint) as clients:
        dropped = drop(home / "inbox", paint, length_s, lambda: len(clients.writes_s) >= 10)
    assert clients.bad == []
    goal = dropped + len(clients.writes_s)
    until(lambda: store.count() == goal, "every file and upload has its row", 300)
    said = (tmp_path / "watcher.log").read_text("utf-8")
    assert "locked" not in said
    assert "paused" not in said
    waits_s = sorted(clients.writes_s)
    p99_ms = waits_s[len(waits_s) * 99 // 100] * 1000
    say(
        f"G19: {clients.reads} reads, {len(waits_s)} uploads (p99 {p99_ms:.0f} ms), "
        f"{dropped} files in {length_s:.0f} s; {len(clients.bad)} bad answers"
    )


def drop(
    inbox: Path, paint: Callable[..., bytes], length_s: float, is_enough: Callable[[], bool]
) -> int:
    """Files come in for so long and until it is enough; some always wait. Returns how many."""
    dropped = 0
    end_s = time.monotonic() + length_s
    while time.monotonic() < end_s or not is_enough():
        if sum(1 for _ in inbox.iterdir()) > WAITING:
            time.sleep(0.01)
            continue
        for _ in range(WAITING):
            data = paint("red", (20 + dropped % 400, 20 + dropped // 400))
            (inbox / f"{dropped}.png").write_bytes(data)
            dropped += 1
    return dropped
