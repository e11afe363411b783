"""Numbers to bars."""

from datetime import UTC, datetime, timedelta

import pytest

from api.charts import BAR_WIDTH, HEIGHT, SPANS, Bucket, round_up, throughput

NOW = datetime(2026, 11, 22, 9, 30, 12, tzinfo=UTC)
HOUR = SPANS[0]


@pytest.mark.parametrize(
    ("number", "top"), [(0, 1), (1, 1), (2, 2), (3, 5), (6, 10), (10, 10), (11, 20), (501, 1000)]
)
def test_the_top_is_a_round_number(number: int, top: int) -> None:
    assert round_up(number) == top


@pytest.mark.parametrize("span", SPANS)
def test_a_span_ends_with_the_step_that_now_is_in(span: object) -> None:
    assert isinstance(span, type(HOUR))
    since = span.since(NOW)

    assert since + (span.steps - 1) * span.step <= NOW < since + span.steps * span.step
    assert since.timestamp() % span.step.total_seconds() == 0


def test_bars_stand_where_their_time_is_and_as_high_as_their_number() -> None:
    since = HOUR.since(NOW)
    buckets = [Bucket(since, 5, 0), Bucket(since + timedelta(minutes=59), 6, 2)]

    chart = throughput(HOUR, since, buckets)

    bars = [(bar.x, bar.good, bar.bad) for bar in chart.bars]
    assert bars == [(0, HEIGHT / 2, 0), (59 * BAR_WIDTH, 60, 20)]
    assert chart.width == 60 * BAR_WIDTH
    assert chart.summary.endswith("13 in all, at most 8 in one minute")


def test_fine_buckets_are_summed_up_and_others_left_out() -> None:
    week = SPANS[2]
    since = week.since(NOW)
    hours = [Bucket(since + timedelta(hours=number), 1, 0) for number in (0, 1, 2, 3)]
    too_old = Bucket(since - timedelta(hours=1), 100, 0)

    chart = throughput(week, since, [too_old, *hours])

    assert [bar.good for bar in chart.bars] == [60, 20]  # 3 and 1 of 5


def test_one_image_among_thousands_is_seen() -> None:
    since = HOUR.since(NOW)

    chart = throughput(HOUR, since, [Bucket(since, 10_000, 1)])

    assert chart.bars[0].bad > 1
