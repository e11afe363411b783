"""The webhook against a real receiver that fails, hangs, dribbles and recovers."""

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from api.app import create_app
from core.settings import Settings
from core.types import ImageInfo, ImageRef, LabelScore, ModelRef, Prediction
from monitoring import webhooks
from monitoring.metrics import WebhookMetrics
from monitoring.webhooks import Deliverer, Webhook
from storage.outbox import Outbox
from storage.results import Result
from storage.store import Finished, Store
from tests.monitoring.receiver import Received, Receiver, answering

OLD, NEW = (f"whsec_{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))
MODEL = ModelRef("rgb", "1")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path / 'pigeonhole.db'}", with_outbox=True)
    yield store
    store.close()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "RETRY_S", (0.05, 0.05, 0.05))
    monkeypatch.setattr(webhooks, "_LOOK_S", 0.02)
    monkeypatch.setattr(webhooks, "_LONGEST_PAUSE_S", 0.05)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def deliverer(receiver: Receiver, store: Store, registry: CollectorRegistry) -> Iterator[Deliverer]:
    outbox = Outbox(store.database)
    metrics = WebhookMetrics(registry, outbox.backlog)
    deliverer = Deliverer(Webhook(receiver.url, [NEW]), outbox, metrics)
    yield deliverer
    deliverer.close()


def record(store: Store, *names: str) -> list[Result]:
    scores = (LabelScore("cat", 0.9),)
    prediction = Prediction("cat", 0.9, scores, MODEL, ImageInfo(1, 1, "PNG"))
    now = datetime.now(UTC)
    images = [Finished(ImageRef(n[-64:].rjust(64, "0"), n, 1), prediction, now, 1.0) for n in names]
    rows = store.record(images, source="upload", model=MODEL, min_confidence=0.5, now=now)
    return [row for row in rows if row]


def until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 90
    while not happened():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


def is_genuine(message: Received, secret: str) -> bool:
    """As the specification of Standard Webhooks says it, with nothing of ours."""
    key = base64.b64decode(secret[len("whsec_") :])
    content = f"{message.id}.{message.headers['webhook-timestamp']}.{message.body.decode()}"
    good = base64.b64encode(hmac.new(key, content.encode(), hashlib.sha256).digest()).decode()
    return f"v1,{good}" in message.headers["webhook-signature"].split(" ")


def test_every_result_is_told_once_signed_and_as_rest_gives_it(
    deliverer: Deliverer, receiver: Receiver, store: Store
) -> None:
    rows = record(store, "a\n\N{GRINNING FACE}.jpg", *(f"{number}.jpg" for number in range(20)))
    before_s = time.time()
    deliverer.finish()
    told = {message.id: message for message in receiver.received}
    assert len(receiver.received) == len(told) == 21
    for row in rows:
        message = told[f"msg_{row.id}"]
        body = json.loads(message.body)
        assert (body["type"], body["data"]) == ("result.created", row.to_dict())
        assert body["timestamp"] == row.to_dict()["classified_at"]
        assert is_genuine(message, NEW)
        assert not is_genuine(message, OLD)
        assert before_s - 1 <= int(message.headers["webhook-timestamp"]) <= time.time()
        assert message.headers["Content-Type"] == "application/json"


def test_while_secrets_change_both_sign(receiver: Receiver) -> None:
    webhook = Webhook(receiver.url, [OLD, NEW])
    assert webhook.post("msg_1", b"{}").error is None
    (message,) = receiver.received
    assert is_genuine(message, OLD)
    assert is_genuine(message, NEW)


def test_the_verifier_in_the_document_agrees(receiver: Receiver, repository: Path) -> None:
    page = (repository / "docs/webhooks.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Callable[..., bool]] = {}
    exec(code, names)
    Webhook(receiver.url, [NEW]).post("msg_1", b'{"a": 1}')
    (message,) = receiver.received
    headers = {name.lower(): value for name, value in message.headers.items()}
    assert names["is_genuine"](NEW, headers, message.body)
    assert not names["is_genuine"](NEW, headers, message.body + b" ")
    assert not names["is_genuine"](OLD, headers, message.body)


def test_a_receiver_that_fails_is_told_again_under_the_same_id(
    deliverer: Deliverer, receiver: Receiver, store: Store, registry: CollectorRegistry
) -> None:
    receiver.behave = [answering(500), answering(429), answering(404)]
    (row,) = record(store, "a.jpg")
    deliverer.start()
    until(lambda: len(receiver.received) == 4, "four attempts")
    until(lambda: Outbox(store.database).backlog().waiting == 0, "it is done")
    assert {message.id for message in receiver.received} == {f"msg_{row.id}"}
    assert all(is_genuine(message, NEW) for message in receiver.received)
    name = "pigeonhole_webhook_deliveries_total"
    assert registry.get_sample_value(name, {"result": "delivered"}) == 1
    assert registry.get_sample_value(name, {"result": "failed"}) == 3


def test_a_receiver_that_was_down_gets_everything_when_it_is_up(
    deliverer: Deliverer, receiver: Receiver, store: Store, registry: CollectorRegistry
) -> None:
    receiver.behave = [answering(503)] * 3
    rows = record(store, *(f"{number}.jpg" for number in range(60)))
    gauge = "pigeonhole_webhook_events"
    assert registry.get_sample_value(gauge, {"state": "waiting"}) == 60
    assert registry.get_sample_value("pigeonhole_webhook_oldest_event_timestamp_seconds")
    deliverer.start()
    until(lambda: Outbox(store.database).backlog().waiting == 0, "all are told")
    assert {message.id for message in receiver.received} == {f"msg_{row.id}" for row in rows}
    assert registry.get_sample_value(gauge, {"state": "waiting"}) == 0


def test_while_it_fails_the_receiver_is_asked_for_one_at_a_time(
    deliverer: Deliverer, receiver: Receiver, store: Store
) -> None:
    receiver.behave = [answering(503)] * 100
    record(store, *(f"{number}.jpg" for number in range(30)))
    assert [deliverer.round() for _ in range(3)] == [webhooks.AT_ONCE, 1, 1]


@pytest.mark.parametrize("how", ["hanging", "dribbling"])
def test_a_receiver_that_hangs_is_cut_off_and_nothing_waits_for_it(
    how: str, deliverer: Deliverer, receiver: Receiver, store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(webhooks, "LIMIT_S", 0.3)
    receiver.behave = [getattr(receiver, how)]
    record(store, "a.jpg")
    deliverer.start()
    until(lambda: bool(receiver.received), "the receiver has the request")
    record(store, "b.jpg")
    assert store.count() == 2
    until(lambda: Outbox(store.database).backlog().waiting == 0, "both are told")
    assert len({message.id for message in receiver.received}) == 2


def test_closing_does_not_wait_for_a_receiver_that_hangs(
    deliverer: Deliverer, receiver: Receiver, store: Store
) -> None:
    receiver.behave = [receiver.hanging]
    record(store, "a.jpg")
    deliverer.start()
    until(lambda: bool(receiver.received), "the receiver has the request")
    deliverer.close()
    assert not receiver.hang.is_set()
    assert Outbox(store.database).backlog().waiting == 1


def test_nobody_listening_is_an_answer_too(receiver: Receiver) -> None:
    receiver.close()
    error = Webhook(receiver.url, [NEW]).post("msg_1", b"{}").error
    assert error is not None
    assert "refused" in error


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.behave = [answering(302, Location=receiver.url.replace("hook", "elsewhere"))]
    assert Webhook(receiver.url, [NEW]).post("msg_1", b"{}").error == "HTTP 302 Found"
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    ("said", "wait_s"), [("7", 7), ("0", 1), ("999999999", 24 * 3600), ("soon", None)]
)
def test_a_busy_receiver_says_when_to_come_back(
    said: str, wait_s: float | None, receiver: Receiver
) -> None:
    receiver.behave = [answering(429, Retry_After=said)]
    assert Webhook(receiver.url, [NEW]).post("msg_1", b"{}").retry_s == wait_s


def test_after_the_last_attempt_it_is_given_up_and_kept(
    deliverer: Deliverer, receiver: Receiver, store: Store
) -> None:
    receiver.behave = [answering(410)] * 4
    record(store, "a.jpg")
    deliverer.start()
    outbox = Outbox(store.database)
    until(lambda: outbox.backlog().given_up == 1, "it is given up")
    assert len(receiver.received) == 4
    assert outbox.backlog().error == "HTTP 410 Gone"
    outbox.retry_given_up(datetime.now(UTC))
    until(lambda: len(receiver.received) == 5, "it is told again")


def test_two_deliverers_tell_each_event_once(
    deliverer: Deliverer, receiver: Receiver, store: Store
) -> None:
    outbox = Outbox(store.database)
    other = Deliverer(
        Webhook(receiver.url, [NEW]), outbox, WebhookMetrics(CollectorRegistry(), outbox.backlog)
    )
    record(store, *(f"{number}.jpg" for number in range(200)))
    deliverer.start()
    other.start()
    try:
        until(lambda: outbox.backlog().waiting == 0, "all are told")
    finally:
        other.close()
    assert set(Counter(message.id for message in receiver.received).values()) == {1}
    assert len(receiver.received) == 200


def test_what_a_dead_deliverer_held_is_told_by_another(
    deliverer: Deliverer, receiver: Receiver, store: Store
) -> None:
    record(store, "a.jpg")
    outbox = Outbox(store.database)
    assert len(outbox.take(datetime.now(UTC), 0.5, 8)) == 1  # and then it died
    deliverer.start()
    until(lambda: len(receiver.received) == 1, "another tells it")


@pytest.fixture
def home(tmp_path: Path, rgb_bundle: Path) -> Path:
    home = tmp_path / "home"
    shutil.copytree(rgb_bundle, home / "models" / "current")
    (home / "inbox").mkdir()
    return home


def test_a_watcher_that_empties_the_inbox_has_told_everything_when_it_ends(
    receiver: Receiver, home: Path, paint: Callable[..., bytes]
) -> None:
    for number in range(20):
        (home / "inbox" / f"{number}.png").write_bytes(paint("red", (20 + number, 20)))
    (home / "inbox" / "bad.png").write_bytes(b"bad")
    settings = {"HOME": home, "SETTLE_S": "0.1", "WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": NEW}
    named = {f"PIGEONHOLE_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "pigeonhole", "watch", "--once"]
    assert subprocess.run(command, env={**os.environ, **named}, check=False).returncode == 1
    told = [json.loads(message.body)["data"] for message in receiver.received]
    assert all(is_genuine(message, NEW) for message in receiver.received)
    assert {result["path"] for result in told} == {
        *(f"sorted/red/{number}.png" for number in range(20)),
        "quarantine/bad.png",
    }
    assert len(told) == 21


def test_an_upload_is_told_too(receiver: Receiver, home: Path, paint: Callable[..., bytes]) -> None:
    settings = Settings(home=home, webhook_url=receiver.url, webhook_secret=NEW)
    with TestClient(create_app(settings)) as client:
        row = client.post("/v1/predict", files={"file": ("a.png", paint("blue"))}).json()
        until(lambda: len(receiver.received) == 1, "it is told")
        metrics = client.get("/metrics").text
    assert json.loads(receiver.received[0].body)["data"] == row
    assert 'pigeonhole_webhook_deliveries_total{result="delivered"}' in metrics
