"""Another model while work goes on: watcher and API as real processes, under a stream of images."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.registry import Registry
from storage.results import Result, ResultFilter
from storage.store import Store
from tests.test_readme import free_port

Paint = Callable[..., bytes]

COLORS = ("red", "lime", "blue")
WORDS = {"rgb": ("red", "green", "blue"), "french": ("rouge", "vert", "bleu")}


class Running:
    """`pigeonhole up` in a home of its own."""

    def __init__(self, home: Path, api: str, watcher: str) -> None:
        self.home = home
        self.client = httpx2.Client(timeout=60)  # one for all: each would read the certificates
        self.registry = Registry(home)
        self.api = f"http://127.0.0.1:{api}"
        self.watcher = f"http://127.0.0.1:{watcher}"
        self.environ = {
            **os.environ,
            "PIGEONHOLE_HOME": str(home),
            "PIGEONHOLE_PORT": api,
            "PIGEONHOLE_WATCHER_METRICS_PORT": watcher,
            "PIGEONHOLE_SETTLE_S": "0.05",
            "PIGEONHOLE_WORKERS": "2",
        }

    def metric(self, url: str, name: str, label: str) -> dict[str, float]:
        text = self.client.get(f"{url}/metrics").text
        return {
            sample.labels[label]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    def serves(self, version: str) -> bool:
        """Whether both processes answer with this version."""
        return all(
            set(self.metric(url, "pigeonhole_model_info", "version")) == {version}
            for url in (self.api, self.watcher)
        )

    def answers(self) -> bool:
        """Whether both are there."""
        try:
            return all(
                self.client.get(f"{url}/livez").status_code == 200
                for url in (self.api, self.watcher)
            )
        except httpx2.TransportError:
            return False

    def refused(self) -> bool:
        """Whether both have refused to load a model."""
        return all(
            self.metric(url, "pigeonhole_model_reloads_total", "result")["failure"] >= 1
            for url in (self.api, self.watcher)
        )

    def pigeonhole(self, *words: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "pigeonhole", *words],
            env=self.environ,
            check=True,
            capture_output=True,
            text=True,
        ).stdout


def until(happened: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < deadline_s, f"still not: {what}"
        time.sleep(0.1)


@pytest.fixture
def running(tmp_path: Path, rgb_bundle: Path) -> Iterator[Running]:
    running = Running(tmp_path / "home", free_port(), free_port())
    running.registry.promote(running.registry.install(rgb_bundle).version, "first")
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pigeonhole", "up"], env=running.environ, stderr=log
        )
    try:
        until(running.answers, "both answer")
        yield running
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (tmp_path / "log.txt").read_text()
    finally:
        process.kill()
        process.wait()
        running.client.close()


class Stream:
    """Files and uploads without a pause, no two alike; `sent` names each with its colour."""

    def __init__(self, running: Running, paint: Paint) -> None:
        self._running = running
        self._paint = paint
        self._ended = threading.Event()
        self.sent: dict[str, int] = {}
        self.failed: list[str] = []

    @contextmanager
    def flowing(self) -> Iterator[None]:
        threads = [threading.Thread(target=way) for way in (self._drop, self._upload)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def _images(self, way: str) -> Iterator[tuple[str, bytes]]:
        number = 0
        while not self._ended.is_set():
            color = number % 3
            name = f"{way}-{number}.png"
            self.sent[name] = color
            yield name, self._paint(COLORS[color], (20 + number % 300, 20 + number // 300))
            number += 1

    def _drop(self) -> None:
        for name, data in self._images("file"):
            (self._running.home / "inbox" / name).write_bytes(data)
            self._ended.wait(0.02)

    def _upload(self) -> None:
        for name, data in self._images("upload"):
            answer = self._running.client.post(
                f"{self._running.api}/v1/predict", files={"file": (name, data)}
            )
            if answer.status_code != 201:
                self.failed.append(answer.text)
            self._ended.wait(0.02)


def rows_of(home: Path) -> list[Result]:
    store = Store.open(f"sqlite:///{home / 'pigeonhole.db'}")
    try:
        return list(store.stream(ResultFilter(), order="asc"))
    finally:
        store.close()


@pytest.mark.timeout(900)
def test_images_flow_while_models_change_and_each_row_says_what_its_model_says(
    running: Running, paint: Paint, french_bundle: Path, broken_bundle: Path
) -> None:
    registry = running.registry
    rgb = registry.serving().version
    french = registry.install(french_bundle).version
    broken = registry.install(broken_bundle).version
    stream = Stream(running, paint)
    with stream.flowing():
        until(lambda: len(stream.sent) > 40, "images flow")
        for _ in range(2):
            registry.promote(french, "a test")
            until(lambda: running.serves(french), "both answer in French")
            registry.rollback("a test")
            until(lambda: running.serves(rgb), "both answer in English")
        assert not running.refused()

        pointer = registry.home / "models" / "current"  # `promote` would refuse it
        new = pointer.with_name("by-hand")
        new.symlink_to(f"bundles/{broken}")
        new.replace(pointer)
        until(running.refused, "both refuse the broken model")
        for url in (running.api, running.watcher):
            ready = running.client.get(f"{url}/readyz")
            assert ready.status_code == 200
            assert "4 labels, but the model answers" in ready.json()["notes"]["model"]
        assert running.serves(rgb)
        status = json.loads(running.pigeonhole("status", "--json"))
        for process in status["processes"].values():
            assert process["state"] == "ready"
            assert "does not load" in process["detail"]
        reached = len(stream.sent)
        until(lambda: len(stream.sent) > reached + 40, "images still flow")
        registry.promote(french, "mended")
        until(lambda: running.serves(french), "both answer in French again")
        assert "notes" not in running.client.get(f"{running.watcher}/readyz").json()

    assert stream.failed == []
    until(lambda: not list((running.home / "inbox").iterdir()), "the inbox is empty")
    rows = rows_of(running.home)
    assert sorted(row.filename for row in rows) == sorted(stream.sent)
    versions = {"rgb": rgb, "french": french}
    for row in rows:
        assert row.model.version == versions[row.model.name]
        words = WORDS[row.model.name]
        assert row.label == words[stream.sent[row.filename]]
        assert {score.label for score in row.scores} == set(words)
        if row.source == "watcher":
            assert row.path is not None
            assert (running.home / row.path).parent.name == row.label
    for source in ("watcher", "upload"):
        answered = {row.model.name for row in rows if row.source == source}
        assert answered == {"rgb", "french"}, source
