"""`pigeonhole webhooks`: is the receiver there, and what was given up."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core.types import Failure, ImageRef, ModelRef
from storage.outbox import Outbox
from storage.store import Finished, Store
from tests.monitoring.receiver import Receiver, answering

Call = Callable[..., Any]


@pytest.fixture
def receiver(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    assert home.exists()
    receiver = Receiver()
    monkeypatch.setenv("PIGEONHOLE_WEBHOOK_URL", receiver.url)
    monkeypatch.setenv("PIGEONHOLE_WEBHOOK_SECRET", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz")
    yield receiver
    receiver.close()


def test_a_receiver_that_takes_a_message_is_well(run: Call, receiver: Receiver) -> None:
    done = run("webhooks", "test")
    assert done.code == 0
    assert "has taken a test message" in done.err
    assert b'"type": "test"' in receiver.received[0].body


def test_a_receiver_that_refuses_is_told_of(run: Call, receiver: Receiver) -> None:
    receiver.behave = [answering(403)]
    done = run("webhooks", "test")
    assert done.code == 1
    assert "HTTP 403 Forbidden" in done.err


@pytest.mark.usefixtures("home")
def test_without_a_webhook_it_says_what_to_set(run: Call) -> None:
    done = run("webhooks", "test")
    assert done.code == 1
    assert "PIGEONHOLE_WEBHOOK_URL" in done.err


@pytest.mark.usefixtures("receiver")
def test_what_was_given_up_is_shown_and_can_be_told_again(run: Call, home: Path) -> None:
    now = datetime.now(UTC)
    image = Finished(ImageRef("0" * 64, "a.png", 1), Failure("empty_file", "Empty."), now, 1.0)
    url = f"sqlite:///{home / 'pigeonhole.db'}"
    with closing(Store.open(url, with_outbox=True)) as store:
        model = ModelRef("rgb", "1")
        store.record([image], source="upload", model=model, min_confidence=0.5, now=now)
        outbox = Outbox(store.database)
        (event,) = outbox.take(datetime.now(UTC), 60, 8)
        outbox.postpone(event, None, "HTTP 410 Gone")
    shown = run("status", "--json").json["webhook"]
    assert (shown["waiting"], shown["given_up"], shown["error"]) == (0, 1, "HTTP 410 Gone")
    assert "pigeonhole webhooks retry" in run("status").text.replace("\n", " ")
    assert "1 result will be told again" in run("webhooks", "retry").err
    assert run("status", "--json").json["webhook"]["waiting"] == 1
