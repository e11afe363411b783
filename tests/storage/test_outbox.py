"""What is still to be told: noted with the row, taken by one, never forgotten."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import DBAPIError

from core.types import ModelRef, Stamp
from storage.outbox import Event, Outbox
from storage.results import Result
from storage.store import Finished, Store

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE_S = 60.0
Images = Callable[..., Finished]
Tell = Callable[[list[Finished]], list[Result | None]]


@pytest.fixture
def telling_store(store: Store) -> Store:
    return Store(store.database, with_outbox=True)


@pytest.fixture
def outbox(store: Store) -> Outbox:
    return Outbox(store.database)


@pytest.fixture
def tell(telling_store: Store) -> Tell:
    def tell(images: list[Finished]) -> list[Result | None]:
        return telling_store.record(
            images, source="watcher", model=ModelRef("rgb", "1"), min_confidence=0.5, now=NOW
        )

    return tell


def take(outbox: Outbox, after_s: float = 0.0, limit: int = 100) -> list[Event]:
    return outbox.take(NOW + timedelta(seconds=after_s), LEASE_S, limit)


def test_every_new_row_is_noted(tell: Tell, outbox: Outbox, finished: Images) -> None:
    rows = tell([finished("a.jpg"), finished("b.jpg")])
    events = take(outbox)
    assert [event.result for event in events] == rows
    assert [(event.attempts, event.created_at) for event in events] == [(1, NOW)] * 2


def test_without_a_webhook_nothing_is_noted(store: Store, outbox: Outbox, finished: Images) -> None:
    store.record(
        [finished()], source="upload", model=ModelRef("rgb", "1"), min_confidence=0.5, now=NOW
    )
    assert take(outbox) == []


def test_a_row_and_its_event_stand_or_fall_together(
    tell: Tell, outbox: Outbox, store: Store, finished: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = finished("a.jpg")
    bad = Finished(good.image, good.outcome, None, 1.0)  # type: ignore[arg-type]
    with pytest.raises(DBAPIError):
        tell([good, bad])
    assert (store.count(), take(outbox)) == (0, [])

    def out_of_order(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("storage.store.outbox.add", out_of_order)
    with pytest.raises(OSError, match="no room"):
        tell([good])
    assert store.count() == 0


def test_what_is_taken_is_held_and_comes_again_when_its_holder_is_silent(
    tell: Tell, outbox: Outbox, finished: Images
) -> None:
    tell([finished()])
    (first,) = take(outbox)
    assert take(outbox, LEASE_S - 1) == []
    (second,) = take(outbox, LEASE_S)
    assert second.result == first.result
    assert second.attempts == 2


def test_what_is_delivered_is_gone(tell: Tell, outbox: Outbox, finished: Images) -> None:
    tell([finished("a.jpg"), finished("b.jpg")])
    (first,) = take(outbox, limit=1)
    outbox.delivered([first])
    assert [event.result.filename for event in take(outbox, 999)] == ["b.jpg"]


def test_what_failed_comes_again_when_it_is_due(
    tell: Tell, outbox: Outbox, finished: Images
) -> None:
    tell([finished()])
    (event,) = take(outbox)
    outbox.postpone(event, NOW + timedelta(seconds=300), "HTTP 500")
    assert take(outbox, 299) == []
    backlog = outbox.backlog()
    assert (backlog.waiting, backlog.given_up, backlog.error) == (1, 0, "HTTP 500")
    assert backlog.oldest_at == NOW
    assert len(take(outbox, 300)) == 1


def test_what_is_given_up_is_kept_until_somebody_asks_for_it(
    tell: Tell, outbox: Outbox, finished: Images
) -> None:
    tell([finished()])
    (event,) = take(outbox)
    outbox.postpone(event, None, "HTTP 410")
    assert take(outbox, 10**6) == []
    assert (outbox.backlog().waiting, outbox.backlog().given_up) == (0, 1)
    assert outbox.retry_given_up(NOW) == 1
    assert [again.attempts for again in take(outbox)] == [1]


def test_who_was_slow_cannot_put_off_what_another_has_taken(
    tell: Tell, outbox: Outbox, finished: Images
) -> None:
    tell([finished()])
    (slow,) = take(outbox)
    (quick,) = take(outbox, LEASE_S)
    outbox.postpone(slow, None, "too late")
    assert outbox.backlog().given_up == 0
    outbox.delivered([quick])
    assert outbox.backlog().waiting == 0


def test_an_event_waits_until_its_file_is_filed(
    tell: Tell, outbox: Outbox, store: Store, finished: Images
) -> None:
    stamp = Stamp(1, 2, 3, 4)
    (delivery,) = store.claim([("a.jpg", stamp)], "me", NOW, 60)
    tell([finished("a.jpg", delivery=delivery)])
    assert take(outbox) == []
    store.finish([(delivery.id, "sorted/cat/a.jpg")])
    assert [event.result.path for event in take(outbox)] == ["sorted/cat/a.jpg"]


def test_a_kept_file_is_told_too(
    tell: Tell, outbox: Outbox, store: Store, finished: Images
) -> None:
    (delivery,) = store.claim([("a.jpg", Stamp(1, 2, 3, 4))], "me", NOW, 60)
    tell([finished("a.jpg", delivery=delivery)])
    store.finish([(delivery.id, "inbox/a.jpg")], keep=True)
    assert len(take(outbox)) == 1
