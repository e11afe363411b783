"""A real Prometheus reads a real watcher and two real API processes while images flow."""

import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from sqlalchemy import update

from core import bundle, statistics
from core.image import preprocess
from core.recipe import Recipe
from monitoring import rules
from monitoring.boards import dashboards
from storage.schema import results
from storage.store import Store

# What cannot wait three minutes, and what the tester's machine must not decide.
LIMITS = rules.Limits(heartbeat_s=15, disk_share=0.0, patience=0.0)
IMAGES = 220
UPLOADS = 12


@dataclass
class Running:
    """The addresses of what runs, and its home."""

    home: Path
    prometheus: str
    apis: list[str]
    watcher: "subprocess.Popen[bytes]"

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The samples that a query has now, without those that are no number."""
        found = self._get("query", query=query)["result"]
        return [sample for sample in found if not math.isnan(float(sample["value"][1]))]

    def value(self, query: str) -> float | None:
        """The one value of a query, or None while there is none."""
        found = self.ask(query)
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def alerts(self) -> dict[str, str]:
        """Every alert with its state."""
        groups = self._get("rules", type="alert")["groups"]
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}

    def faults(self) -> list[str]:
        """What rules could not be evaluated, and why."""
        groups = self._get("rules")["groups"]
        told = [
            (rule["name"], rule.get("lastError")) for group in groups for rule in group["rules"]
        ]
        return [f"{name}: {error}" for name, error in told if error]

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.prometheus}/api/v1/{path}?{query}") as answer:
            found: dict[str, Any] = json.load(answer)["data"]
        return found


@pytest.fixture(scope="module")
def running(
    rgb_model: bytes,
    paint: Callable[..., bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("NOT TESTED: a real Prometheus; install Debian's package `prometheus`")
    folder = tmp_path_factory.mktemp("watched")
    with _started(folder, prometheus, rgb_model, paint) as running:
        yield running


@contextmanager
def _started(
    folder: Path, prometheus: str, model: bytes, paint: Callable[..., bytes]
) -> Iterator[Running]:
    home = folder / "home"
    images = [paint(_color(number), (24 + number, 24)) for number in range(IMAGES)]
    _write_bundle(home / "models/current", model, images)
    (home / "inbox").mkdir()
    watcher_port, *api_ports, prometheus_port = _unused_ports(4)
    with ExitStack() as stack:

        def start(log: str, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
            file = stack.enter_context((folder / log).open("wb"))
            process = subprocess.Popen(
                command, env=_environment(home, **variables), stdout=file, stderr=file
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        python = (sys.executable, "-m", "pigeonhole")
        watcher = start("watch.log", *python, "watch", WATCHER_METRICS_PORT=str(watcher_port))
        for port in api_ports:
            start(f"serve-{port}.log", *python, "serve", PORT=str(port))
        config = _write_config(folder, watcher_port, api_ports)
        start(
            "prometheus.log",
            prometheus,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{prometheus_port}",
            "--log.level=warn",
        )
        running = Running(
            home,
            f"http://127.0.0.1:{prometheus_port}",
            [f"http://127.0.0.1:{port}" for port in api_ports],
            watcher,
        )
        try:
            _until(lambda: running.value("sum(up)") == 3, "three targets are up")
            with _traffic(running, images):
                _until(lambda: _has_seen_all(running), "everything is counted")
                yield running
        except BaseException:
            for log in folder.glob("*.log"):
                sys.stderr.write(f"--- {log.name}\n{log.read_text()[-3000:]}\n")
            raise


def _color(number: int) -> tuple[int, int, int]:
    dice = random.Random(number)
    return dice.randrange(256), dice.randrange(256), dice.randrange(256)


def _write_bundle(folder: Path, model: bytes, images: list[bytes]) -> None:
    """The brightest-channel model, whose reference is the very images that will come."""
    recipe = Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1))
    seen = [preprocess(image, recipe, 1_000_000) for image in images]
    labels = ["red", "green", "blue"]
    said = [labels[int(pixels.mean(axis=(0, 1)).argmax())] for pixels, _ in seen]
    reference = statistics.reference(said, [statistics.measure(*image) for image in seen])
    bundle.write(
        folder,
        name="rgb",
        weights=model,
        labels=labels,
        recipe=recipe,
        metrics={"validation_accuracy": 0.99, "test_accuracy": 0.98},
        lineage={"reference": reference.to_dict()},
    )


def _environment(home: Path, **variables: str) -> dict[str, str]:
    ours = {
        "HOME": str(home),
        "SETTLE_S": "0.2",
        "WORKERS": "2",
        "AUDIT_SHARE": "1",
        "HEARTBEAT_S": "2",
        "LOG_FORMAT": "json",
        **variables,
    }
    return os.environ | {f"PIGEONHOLE_{name}": value for name, value in ours.items()}


def _write_config(folder: Path, watcher_port: int, api_ports: list[int]) -> Path:
    """The committed configuration, with our ports and a quicker clock."""
    committed = Path(rules.__file__).parent / "prometheus/local.yml"
    config = yaml.safe_load(committed.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    targets = {
        "watcher": [f"127.0.0.1:{watcher_port}"],
        "api": [f"127.0.0.1:{port}" for port in api_ports],
    }
    config["scrape_configs"] = [
        {**job, "static_configs": [{"targets": targets[job["job_name"]]}]}
        for job in config["scrape_configs"]
        if job["job_name"] in targets
    ]
    (folder / "rules.yml").write_text(rules.render(LIMITS, interval="1s"))
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


def _unused_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def _traffic(running: Running, images: list[bytes]) -> Iterator[None]:
    """All images once, then a few over and over; uploads to each replica in turn; reviews."""
    stopping = threading.Event()
    threads = [
        threading.Thread(target=work, args=(running, images, stopping))
        for work in (_drop, _upload, _review)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def _drop(running: Running, images: list[bytes], stopping: threading.Event) -> None:
    inbox = running.home / "inbox"
    for number, image in enumerate(images):
        (inbox / f"{number}.png").write_bytes(image)
    number = 0
    while not stopping.wait(0.2):
        number += 1
        (inbox / f"again-{number}.png").write_bytes(images[number % IMAGES])
        (inbox / f"broken-{number}.png").write_bytes(images[0][: 40 + number % 20])


def _upload(running: Running, images: list[bytes], stopping: threading.Event) -> None:
    for number in range(UPLOADS):
        url = running.apis[number % 2]
        httpx2.post(f"{url}/v1/predict", files={"file": ("x.png", images[number])})
    while not stopping.wait(0.2):
        for url in running.apis:
            httpx2.get(f"{url}/v1/results?limit=5")
            httpx2.get(f"{url}/v1/results/none")


def _review(running: Running, _: list[bytes], stopping: threading.Event) -> None:
    store = Store.open(f"sqlite:///{running.home}/pigeonhole.db")
    while not stopping.wait(0.5):
        with store.database.write() as connection:
            connection.execute(update(results).values(reviewed_at=datetime.now(UTC)))
    store.close()


def _has_seen_all(running: Running) -> bool:
    watched = running.value('sum(pigeonhole_images_total{source="watcher"})') or 0
    uploaded = running.value('sum(pigeonhole_images_total{source="upload"})') or 0
    return watched > IMAGES and uploaded >= UPLOADS


def _until(happened: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        with suppress(OSError):
            if happened():
                return
        assert time.monotonic() < deadline, f"after {limit_s} s still not: {what}"
        time.sleep(0.2)


def _filled(expr: str) -> str:
    """With what Grafana puts in the place of its variables, when all is chosen."""
    return expr.replace("$__rate_interval", "20s").replace("$job", ".+").replace("$instance", ".+")


def test_uploads_are_summed_over_the_replicas(running: Running) -> None:
    by_replica = running.ask('pigeonhole_images_total{source="upload",outcome="classified"} > 0')

    assert len(by_replica) == 2, "each replica has counted its own"
    assert sum(float(sample["value"][1]) for sample in by_replica) == UPLOADS


def test_every_process_says_the_same_of_the_images(running: Running) -> None:
    kinds = {"label", *statistics.KINDS}
    query = "count by (kind) (pigeonhole_drift_score)"

    def told() -> dict[str, str]:
        return {each["metric"]["kind"]: each["value"][1] for each in running.ask(query)}

    _until(lambda: told() == dict.fromkeys(kinds, "3"), "watcher and both replicas know all")


def test_every_panel_of_every_dashboard_has_data(running: Running) -> None:
    asked = {
        f"{board.title}: {panel['title']}: {target['expr']}"
        for board in dashboards()
        for panel in board.to_dict()["panels"]
        for target in panel.get("targets", ())
    }

    def empty() -> list[str]:
        return [one for one in asked if not running.ask(_filled(one.split(": ", 3)[3]))]

    with suppress(AssertionError):  # the message below says which
        _until(lambda: not empty(), "every panel has data", 40)
    assert not empty()


def test_nothing_fires_while_all_is_well(running: Running) -> None:
    names = {alert.name for alert in rules.alerts(LIMITS)}

    _until(
        lambda: running.alerts() == dict.fromkeys(names, "inactive"), f"silence: {running.alerts()}"
    )
    assert running.faults() == []


def test_a_watcher_that_stops_is_noticed_and_the_api_is_not_blamed(running: Running) -> None:
    """Last: it ends the watcher for good."""
    expected = {"TargetDown"}
    if running.ask("pigeonhole_heartbeat_last_seen_timestamp_seconds > 0"):
        expected.add("HeartbeatLost")
    running.watcher.terminate()

    def firing() -> set[str]:
        return {name for name, state in running.alerts().items() if state == "firing"}

    _until(lambda: firing() >= expected, "the right alerts fire")
    assert firing() == expected
    down = running.ask('ALERTS{alertname="TargetDown",alertstate="firing"}')
    assert [sample["metric"]["job"] for sample in down] == ["watcher"]
