"""Numbers to the geometry of a chart; the template draws it. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from storage.statistics import Resolution

BAR_WIDTH = 10
HEIGHT = 100
_ROUND = (1, 2, 5, 10)
_LEAST = 1.5  # of `HEIGHT`: one image among thousands is seen, too


@dataclass(frozen=True, slots=True)
class Bucket:
    """What happened between `start` and the next bucket."""

    start: datetime
    classified: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One bucket: `x` and heights in the units of the drawing."""

    x: int
    good: float
    bad: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars where anything happened, with a round number as top, and a sentence that says it all."""

    title: str
    summary: str
    width: int
    top: int
    bars: Sequence[Bar]
    ticks: Sequence[datetime]
    tick_form: Literal["time", "day"]


@dataclass(frozen=True, slots=True)
class Span:
    """How much time a chart shows, and in how many steps of which length."""

    key: str
    name: str
    title: str
    step: timedelta
    steps: int
    unit: str
    resolution: Resolution

    def since(self, now: datetime) -> datetime:
        """Where the chart begins: steps end at whole multiples of their length."""
        step_s = self.step.total_seconds()
        end_s = math.ceil(now.timestamp() / step_s) * step_s
        return datetime.fromtimestamp(end_s - step_s * self.steps, now.tzinfo)


_HOUR = timedelta(hours=1)
SPANS = (
    Span(
        "hour", "1 h", "Images per minute, last hour", timedelta(minutes=1), 60, "minute", "minute"
    ),
    Span("day", "24 h", "Images per hour, last day", _HOUR, 24, "hour", "hour"),
    Span("week", "7 d", "Images per 3 hours, last week", 3 * _HOUR, 56, "step", "hour"),
)


def throughput(span: Span, since: datetime, buckets: Sequence[Bucket]) -> Chart:
    """The chart of these buckets, each counted into the step that holds its start."""
    good, bad = [0] * span.steps, [0] * span.steps
    for bucket in buckets:
        number = (bucket.start - since) // span.step
        if 0 <= number < span.steps:
            good[number] += bucket.classified
            bad[number] += bucket.quarantined
    rows = [
        Bucket(since + number * span.step, *both)
        for number, both in enumerate(zip(good, bad, strict=True))
    ]
    peak = max((row.classified + row.quarantined for row in rows), default=0)
    top = round_up(peak)
    total = sum(row.classified + row.quarantined for row in rows)
    bars = [
        Bar(
            x=number * BAR_WIDTH,
            good=_height(row.classified, top),
            bad=_height(row.quarantined, top),
            title=_title(row),
        )
        for number, row in enumerate(rows)
        if row.classified or row.quarantined
    ]
    quarter = span.steps * span.step / 4
    return Chart(
        title=span.title,
        summary=f"{span.title}: {total} in all, at most {peak} in one {span.unit}",
        width=span.steps * BAR_WIDTH,
        top=top,
        bars=bars,
        ticks=[since + number * quarter for number in range(5)],
        tick_form="day" if span.key == "week" else "time",
    )


def round_up(number: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50 ... that is not smaller."""
    if number <= 1:
        return 1
    scale = int(10 ** math.floor(math.log10(number)))
    return next(step * scale for step in _ROUND if step * scale >= number)


def _height(number: int, top: int) -> float:
    return max(round(HEIGHT * number / top, 2), _LEAST) if number else 0


def _title(row: Bucket) -> str:
    text = f"{row.start:%d %b %H:%M} UTC: {row.classified} classified"
    return f"{text}, {row.quarantined} quarantined" if row.quarantined else text
