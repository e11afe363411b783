"""Counts per period say what the rows say."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from core.types import Failure
from storage import reviews, statistics
from storage.results import Result
from storage.statistics import Resolution
from storage.store import Finished, Store

NOW = datetime(2026, 3, 31, 12, 30, 30, tzinfo=UTC)
Fill = Callable[..., list[Result]]


@pytest.fixture
def fill(
    record: Callable[..., list[Result]],
    finished: Callable[..., Finished],
    predict: Callable[..., object],
    failure: Failure,
) -> Fill:
    """`fill(60, days=30)`: so many results, at random within so many days before NOW."""
    dice = random.Random(1)

    def fill(number: int, days: float) -> list[Result]:
        rows = []
        for _ in range(number):
            label = dice.choice(["cat", "dog", "=cat"])
            outcome = failure if dice.random() < 0.2 else predict(label)
            moment = NOW - timedelta(days=days * dice.random())
            rows += record(finished(str(dice.random()), outcome=outcome), now=moment)
        return rows

    return fill


def by_hand(rows: list[Result], resolution: Resolution) -> dict[datetime, Counter[str]]:
    found: dict[datetime, Counter[str]] = {}
    for row in rows:
        start = statistics.floor(row.classified_at, resolution)
        found.setdefault(start, Counter())[row.label or row.status] += 1
    return found


@pytest.mark.parametrize("uncounted", [0, 7, 1000])
def test_a_glance_says_the_same_as_a_look(store: Store, fill: Fill, uncounted: int) -> None:
    fill(40, 1)
    statistics.count(store.database, NOW, uncounted)
    fill(5, 0.01)
    since = statistics.floor(NOW - timedelta(hours=6), "hour")

    found = statistics.glance(store.database, NOW, since, "hour")

    ever = statistics.look(store.database, NOW, resolution="day")
    assert (found.by_status, found.by_label) == (ever.by_status, ever.by_label)
    assert found.last_hour == ever.last_hour > 0
    lately = statistics.look(store.database, NOW, since=since, resolution="hour")
    assert found.buckets == lately.buckets


@pytest.mark.parametrize("uncounted", [0, 7, 1000])
@pytest.mark.parametrize(
    ("resolution", "days"), [("minute", 0.1), ("hour", 3), ("day", 30), (None, 30), (None, 0.01)]
)
def test_buckets_hold_what_the_rows_say_counted_or_not(
    store: Store, fill: Fill, resolution: Resolution | None, days: float, uncounted: int
) -> None:
    rows = fill(40, days)
    statistics.count(store.database, NOW, uncounted)
    rows += fill(5, days)

    found = statistics.look(store.database, NOW, resolution=resolution)

    assert found.resolution == (resolution or {30: "day", 0.01: "minute"}[days])
    assert {
        bucket.start: Counter(bucket.by_label)
        + Counter({"quarantined": bucket.by_status.get("quarantined", 0)})
        for bucket in found.buckets
    } == by_hand(rows, found.resolution)
    assert [bucket.start for bucket in found.buckets] == sorted(by_hand(rows, found.resolution))
    assert found.by_status == Counter(row.status for row in rows)
    assert found.by_label == Counter(row.label for row in rows if row.label)


def test_a_span_is_widened_to_whole_buckets(store: Store, fill: Fill) -> None:
    rows = fill(60, 10)
    since, until = NOW - timedelta(days=5, minutes=7), NOW - timedelta(days=2)

    found = statistics.look(store.database, NOW, since=since, until=until, resolution="hour")

    begin, end = statistics.floor(since, "hour"), statistics.floor(until, "hour")
    wanted = [row for row in rows if begin <= row.classified_at < end + timedelta(hours=1)]
    assert (found.since, found.until) == (begin, until)
    assert sum(found.by_status.values()) == len(wanted) > 0


def test_until_is_exclusive(store: Store, fill: Fill) -> None:
    fill(40, 2)
    until = statistics.floor(NOW, "day")

    found = statistics.look(store.database, NOW, until=until, resolution="day")

    assert all(bucket.start < until for bucket in found.buckets)


def test_counting_twice_changes_nothing(store: Store, fill: Fill) -> None:
    fill(30, 3)
    before = statistics.look(store.database, NOW)

    assert statistics.count(store.database, NOW, 0) == 30
    assert statistics.count(store.database, NOW, 0) == 0
    assert statistics.look(store.database, NOW) == before


def test_minutes_are_let_go_and_days_stay(store: Store, fill: Fill) -> None:
    fill(30, 1)
    statistics.count(store.database, NOW, 0)
    later = NOW + timedelta(days=10)
    fill(1, 0)
    statistics.count(store.database, later, 0)

    assert statistics.look(store.database, later, resolution="minute").buckets == ()
    found = statistics.look(store.database, later)
    assert (found.resolution, sum(found.by_status.values())) == ("hour", 31)


def test_without_results_all_is_nothing(store: Store) -> None:
    found = statistics.look(store.database, NOW)

    assert (found.buckets, found.by_status, found.latency_ms) == ((), {}, {})
    assert (found.last_minute, found.last_hour) == (0, 0)


def test_quantiles_are_within_five_per_cent() -> None:
    dice = random.Random(2)
    values = sorted(dice.lognormvariate(3, 1) for _ in range(20_000))

    found = statistics.quantiles(Counter(map(statistics.step_of, values)))

    assert set(found) == set(statistics.QUANTILES)
    for quantile, value in found.items():
        assert value == pytest.approx(values[int(quantile * len(values))], rel=0.05)
    assert statistics.quantiles({}) == {}
    assert statistics.step_of(0) == statistics.step_of(0.01)


def test_rates_and_reviews_are_those_of_now(store: Store, fill: Fill) -> None:
    fill(8, 0.0005)
    old = fill(3, 3)
    statistics.count(store.database, NOW, 0)
    fill(2, 0.0005)
    for row, label in zip(old, ("a class of its own", None), strict=False):
        if row.label:
            reviews.review(
                store.database,
                row.id,
                reviews.Review(is_reviewed=True, corrected_label=label),
                is_expected=lambda _: True,
                doubt=reviews.Doubt(0.5, 0),
                now=NOW,
            )

    found = statistics.look(store.database, NOW)

    assert (found.last_minute, found.last_hour) == (10, 10)
    assert (found.reviews.reviewed, found.reviews.corrected) == (2, 1)
    assert found.reviews.waiting == 0
