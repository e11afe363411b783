"""What users ask for: filters alone and together, pages that stay put, times in every zone."""

import base64
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest
from sqlalchemy import delete

from core.types import Failure, ModelRef, Prediction
from storage.database import Database
from storage.results import (
    CursorError,
    Order,
    Result,
    ResultFilter,
    Source,
    decode_cursor,
    encode_cursor,
)
from storage.schema import results
from storage.store import Finished, Store
from tests.postgresql import Server

Record = Callable[..., list[Result]]
Images = Callable[..., Finished]
Predict = Callable[..., Prediction]

MINUTE = timedelta(minutes=1)


Fill = Callable[[str], None]


@pytest.fixture(scope="session")
def fill(finished: Images, predict: Predict, now: datetime) -> Fill:
    """`fill(url)`: sixty rows of every kind, one a minute, in the order of their commit."""

    def fill(url: str) -> None:
        with closing(Store.open(url)) as store:
            dice = random.Random(7)
            for minute in range(60):
                _record_one(store, dice, now + minute * MINUTE)

    def _record_one(store: Store, dice: random.Random, now: datetime) -> None:
        model = ModelRef("rgb", dice.choice("12"))
        prediction = predict(dice.choice(["cat", "dog"]), round(dice.random(), 2), model)
        outcome = prediction if dice.random() < 0.8 else Failure("unreadable_image", "Damaged.")
        store.record(
            [finished(dice.choice(["Dog_1.JPG", "dog 100%.png", "ÄRGER.jpg"]), outcome=outcome)],
            source=dice.choice(get_args(Source)),
            model=model,
            min_confidence=0.5,
            now=now,
        )

    return fill


@pytest.fixture(scope="session")
def sixty_in_sqlite(tmp_path_factory: pytest.TempPathFactory, fill: Fill) -> Path:
    """A file with the sixty rows, to be copied."""
    file = tmp_path_factory.mktemp("sixty") / "pigeonhole.db"
    fill(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def sixty_in_postgresql(postgresql_server: Server, fill: Fill) -> str:
    """A database with the sixty rows; what a test adds is taken out again."""
    url = postgresql_server.create("sixty")
    fill(url)
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, url: str) -> Iterator[str]:
    """A filter means the same on both kinds of database."""
    if request.param == "sqlite":
        yield url
    elif "rows" not in request.fixturenames:
        yield str(request.getfixturevalue("empty_in_postgresql"))
    else:
        sixty = str(request.getfixturevalue("sixty_in_postgresql"))
        yield sixty
        with closing(Database(sixty)) as database, database.write() as connection:
            connection.execute(delete(results).where(results.c.seq > 60))


@pytest.fixture
def rows(store: Store, sixty_in_sqlite: Path) -> list[Result]:
    """The sixty rows, in the database of this test."""
    if store.database.is_sqlite:
        with (
            closing(sqlite3.connect(sixty_in_sqlite)) as there,
            closing(sqlite3.connect(str(store.database.url.database))) as here,
        ):
            there.backup(here)
    rows = list(store.stream(ResultFilter(), order="asc"))
    assert len(rows) == 60
    return rows


def asked(row: Result, wanted: ResultFilter) -> bool:
    """The filter once more, in Python."""
    confidence = row.confidence
    lowest, highest = wanted.min_confidence, wanted.max_confidence
    return (
        (wanted.label is None or row.label == wanted.label)
        and (wanted.status is None or row.status == wanted.status)
        and (wanted.source is None or row.source == wanted.source)
        and (wanted.model_version is None or row.model.version == wanted.model_version)
        and (wanted.needs_review is None or row.needs_review is wanted.needs_review)
        and (lowest is None or (confidence is not None and confidence >= lowest))
        and (highest is None or (confidence is not None and confidence <= highest))
        and (wanted.q is None or wanted.q.lower() in row.filename.lower())
        and (wanted.since is None or row.classified_at >= wanted.since)
        and (wanted.until is None or row.classified_at < wanted.until)
    )


WORDS: dict[str, list[Any]] = {
    "label": ["cat", "unheard of"],
    "status": ["classified", "quarantined"],
    "source": ["watcher", "upload", "batch"],
    "model_version": ["1", "3"],
    "needs_review": [True, False],
    "min_confidence": [0.0, 0.5],
    "max_confidence": [0.5, 1.0],
    "q": ["dog", "ärger", "%", "_1", ""],
    "since": [datetime(2026, 3, 1, 12, 20, tzinfo=UTC)],
    "until": [datetime(2026, 3, 1, 12, 40, tzinfo=UTC)],
}


def test_these_are_all_filters() -> None:
    assert set(WORDS) == {field.name for field in fields(ResultFilter)}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WORDS.items() for value in values]
)
def test_each_filter_alone(name: str, value: Any, store: Store, rows: list[Result]) -> None:  # noqa: ANN401
    wanted = replace(ResultFilter(), **{name: value})

    found = list(store.stream(wanted, order="asc"))

    assert found == [row for row in rows if asked(row, wanted)]
    assert store.count(wanted) == len(found)


def test_filters_hold_together(store: Store, rows: list[Result]) -> None:
    dice = random.Random(8)
    for names in (pair for size in (2, 3, 5) for pair in combinations(WORDS, size)):
        if dice.random() < 0.8:
            continue
        wanted = replace(ResultFilter(), **{name: dice.choice(WORDS[name]) for name in names})

        assert list(store.stream(wanted, order="asc")) == [
            row for row in rows if asked(row, wanted)
        ], wanted


@pytest.mark.parametrize(
    ("q", "names"),
    [
        ("100%", ["100%.jpg"]),
        ("%", ["100%.jpg"]),
        ("a_b", ["a_b.jpg"]),
        ("_", ["a_b.jpg"]),
        ("\\", ["back\\slash.jpg"]),
        ("/", ["sla/sh.jpg"]),
        ("AXB", ["axb.jpg"]),
        ("Ä", ["ärger.jpg"]),
        ("' OR 1=1 --", []),
        (".jpg", ["100%.jpg", "a_b.jpg", "axb.jpg", "back\\slash.jpg", "sla/sh.jpg", "ärger.jpg"]),
    ],
)
def test_q_is_looked_for_letter_by_letter_in_any_case(
    q: str, names: list[str], store: Store, record: Record, finished: Images
) -> None:
    there = ("100%.jpg", "a_b.jpg", "axb.jpg", "back\\slash.jpg", "sla/sh.jpg", "ärger.jpg")
    record(*(finished(name, sha="1") for name in there))

    found = store.stream(ResultFilter(q=q), order="asc")

    assert [row.filename for row in found] == names


# --- pages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 20, 59, 60, 61, 500])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_give_every_row_once_in_order(
    limit: int, order: Order, store: Store, rows: list[Result]
) -> None:
    found: list[Result] = []
    cursor = None
    while True:
        page = store.page(ResultFilter(), order=order, limit=limit, cursor=cursor)
        assert len(page.items) <= limit
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break

    assert found == (rows if order == "asc" else rows[::-1])


def test_the_last_page_has_no_cursor_even_when_it_is_full(store: Store, rows: list[Result]) -> None:
    assert store.page(ResultFilter(), limit=len(rows)).next_cursor is None
    assert store.page(ResultFilter(), limit=len(rows) - 1).next_cursor


def test_newest_come_first_unless_one_asks_otherwise(store: Store, rows: list[Result]) -> None:
    assert store.page(ResultFilter(), limit=1).items == (rows[-1],)


def test_pages_backwards_do_not_change_while_rows_arrive(
    store: Store, rows: list[Result], record: Record, finished: Images
) -> None:
    found: list[Result] = []
    cursor = None
    for _ in range(100):
        page = store.page(ResultFilter(), order="desc", limit=7, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        record(finished("new.jpg"), finished("newer.jpg"))

    assert found == rows[::-1]


def test_pages_forwards_reach_what_arrives_meanwhile(
    store: Store, rows: list[Result], record: Record, finished: Images
) -> None:
    late: list[Result] = []
    found: list[Result] = []
    cursor = None
    while True:
        page = store.page(ResultFilter(), order="asc", limit=7, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        if len(late) < 20:
            late += record(finished("new.jpg"), finished("newer.jpg"))

    assert found == [*rows, *late]


def test_a_cursor_goes_on_with_the_same_filter(store: Store, rows: list[Result]) -> None:
    wanted = ResultFilter(label="cat", status="classified")
    cats = [row for row in rows if row.label == "cat"]

    first = store.page(wanted, order="asc", limit=5)
    second = store.page(wanted, order="asc", limit=500, cursor=first.next_cursor)

    assert [*first.items, *second.items] == cats


def test_a_stream_is_all_pages_or_as_many_rows_as_one_asks_for(
    store: Store, record: Record, finished: Images
) -> None:
    rows = record(*(finished(str(number)) for number in range(1203)))  # pages of 500

    assert list(store.stream(ResultFilter(), order="asc")) == rows
    assert list(store.stream(ResultFilter(), order="desc")) == rows[::-1]
    for limit in (0, 1, 499, 500, 501, 1000, 1203, 5000):
        assert list(store.stream(ResultFilter(), order="asc", limit=limit)) == rows[:limit]


def test_a_stream_holds_nobody_up(store: Store, rows: list[Result], record: Record) -> None:
    stream = store.stream(ResultFilter(), order="asc")

    assert next(stream) == rows[0]
    record()  # a write transaction, while the stream is open
    assert list(stream) == rows[1:]


# --- cursors ---------------------------------------------------------------------------------


def made_by_hand(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "....",
        "\0",
        " ",
        "a" * 100_000,
        made_by_hand("desc"),
        made_by_hand("desc:"),
        made_by_hand("desc:1:2"),
        made_by_hand("desc:-1"),
        made_by_hand("desc:+1"),
        made_by_hand("desc: 1"),
        made_by_hand("desc:1_0"),
        made_by_hand("desc:01"),
        made_by_hand("desc:1.5"),
        made_by_hand("desc:nan"),
        made_by_hand(f"desc:{2**63}"),
        made_by_hand("desc:" + "9" * 5000),
        made_by_hand("desc:1; DROP TABLE results"),
        made_by_hand("desc:1") + "=",
        made_by_hand("desc:1") + "!",
        made_by_hand("sideways:1"),
    ],
)
def test_a_cursor_that_we_did_not_give_out_is_refused(cursor: str, store: Store) -> None:
    with pytest.raises(CursorError, match="Start again without it") as caught:
        store.page(ResultFilter(), limit=1, cursor=cursor)

    assert caught.value.code == "bad_cursor"


def test_a_cursor_of_the_other_order_is_refused(store: Store, rows: list[Result]) -> None:
    cursor = store.page(ResultFilter(), order="asc", limit=len(rows) // 2).next_cursor

    with pytest.raises(CursorError, match="order=desc"):
        store.page(ResultFilter(), order="desc", limit=1, cursor=cursor)


@pytest.mark.parametrize("seq", [0, 1, 2**31, 2**63 - 1])
def test_a_cursor_is_a_row_and_an_order(seq: int) -> None:
    for order in get_args(Order):
        cursor = encode_cursor(seq, order)

        assert decode_cursor(cursor, order) == seq
        assert cursor.isascii()
        assert not set(cursor) & set("=+/&?# ")  # goes into a URL as it is


# --- times -----------------------------------------------------------------------------------


def test_times_are_utc_whatever_zone_they_came_in(
    store: Store, record: Record, finished: Images, now: datetime
) -> None:
    tokyo = timezone(timedelta(hours=9))

    (row,) = record(finished("a.jpg"), now=now.astimezone(tokyo))

    stored = store.result(row.id)
    assert stored
    assert stored.classified_at == now
    assert stored.classified_at.tzinfo is UTC
    assert stored.to_dict()["classified_at"] == "2026-03-01T12:00:00.000Z"


@pytest.mark.parametrize("hours", [-11, 0, 5.5, 14])
def test_since_is_inclusive_and_until_exclusive_in_every_zone(
    hours: float, store: Store, rows: list[Result], now: datetime
) -> None:
    here = (now + 10 * MINUTE).astimezone(timezone(timedelta(hours=hours)))

    assert store.count(ResultFilter(since=here)) == 50
    assert store.count(ResultFilter(until=here)) == 10
    assert store.count(ResultFilter(since=here, until=here + MINUTE)) == 1
    assert store.count(ResultFilter(since=here, until=here)) == 0
    assert len(rows) == 60


def test_microseconds_count(store: Store, record: Record, finished: Images, now: datetime) -> None:
    tick = timedelta(microseconds=1)
    record(finished("a.jpg"), now=now)  # ends in .000000, which must not be written shorter
    record(finished("b.jpg"), now=now + tick)

    assert store.count(ResultFilter(since=now)) == 2
    assert store.count(ResultFilter(since=now + tick)) == 1
    assert store.count(ResultFilter(until=now + tick)) == 1
