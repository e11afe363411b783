"""Strangers' damaged files, through the front door of a real server."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil
import pytest

from api.problems import CATALOG, MEDIA_TYPE
from tests.api.conftest import make_home, serving

AT_ONCE = 4
GROWTH_BYTES = 150 * 1024**2  # caches, and what the allocator keeps; not one file in memory


def test_no_damaged_file_hurts_the_server_or_a_neighbour(
    shared_data: Path, rgb_bundle: Path, tmp_path: Path, paint: Callable[..., bytes]
) -> None:
    folder = shared_data / "hostile"
    if not folder.is_dir():
        pytest.skip(f"no damaged files to try: {folder} does not exist")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    limits = {"PIGEONHOLE_MAX_BODY_BYTES": "2000000", "PIGEONHOLE_MAX_PIXELS": "4000000"}
    is_over = threading.Event()
    with (
        serving(make_home(tmp_path / "home", rgb_bundle), **limits) as server,
        httpx2.Client(base_url=server.url, timeout=120) as client,
        ThreadPoolExecutor(AT_ONCE + 1) as threads,
    ):

        def send(path: Path) -> str:
            """The code of the answer, which is a result or a problem of the client's."""
            file = {"file": (path.name, path.read_bytes())}  # the type is guessed from the name
            answer = client.post("/v1/predict", files=file)
            if answer.status_code == 201:
                return "classified"
            assert 400 <= answer.status_code < 500, f"{path.name}: {answer.text}"
            assert answer.headers["Content-Type"] == MEDIA_TYPE
            code: str = answer.json()["code"]
            assert answer.status_code == CATALOG[code].status, path.name
            return code

        def neighbour() -> Counter[tuple[int, str | None]]:
            """Somebody else, who sends good images meanwhile."""
            seen: Counter[tuple[int, str | None]] = Counter()
            while not is_over.is_set():
                image = paint((0, 0, 255 - seen.total() % 50), (32, 32))
                answer = client.post("/v1/predict", files={"file": ("sea.png", image)})
                seen[answer.status_code, answer.json().get("label")] += 1
            return seen

        process = psutil.Process(server.process.pid)
        first = Counter(threads.map(send, files[::10]))  # every decoder is loaded now
        before = process.memory_info().rss
        good = threads.submit(neighbour)
        try:
            seen = Counter(threads.map(send, files))
        finally:
            is_over.set()
        assert set(good.result()) == {(201, "blue")}
        deadline = time.monotonic() + 60
        while process.memory_info().rss > before + GROWTH_BYTES:
            assert time.monotonic() < deadline, f"{process.memory_info().rss - before} bytes more"
            time.sleep(0.1)
        stats = client.get("/v1/stats").json()

    assert seen.total() == len(files)
    assert {"unreadable_image", "unsupported_format"} <= set(seen)
    classified = first["classified"] + seen["classified"] + good.result().total()
    assert stats["images"] == stats["by_status"]["classified"] == classified
