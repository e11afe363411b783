"""How many, how fast, how sure: answered from counts per day, hour and minute, not from the rows.

Rows are counted when somebody asks, not when they are written: writing stays as fast as it was, and
rows of any origin are counted. What is not counted yet is read on the fly, and there is never much
of it (`MAX_UNCOUNTED`). The numbers of one answer belong together: they are read in one view.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, String, Table, and_, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from storage.database import Database
from storage.schema import counted, counts, latencies, results

Resolution = Literal["minute", "hour", "day"]

MAX_UNCOUNTED = 2000  # rows that an answer may read; more are counted first
QUANTILES = (0.5, 0.9, 0.95, 0.99)
MINUTES_KEPT = timedelta(days=2)
_FOLD_ROWS = 20_000  # counted in one transaction: watchers must not wait long for their turn
_LENGTH: dict[Resolution, int] = {"day": 10, "hour": 13, "minute": 16}  # of 2026-11-22T09:30
_STEP: dict[Resolution, timedelta] = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}
# The finest resolution that gives a chart of some hundred points.
_FINEST_UP_TO: tuple[tuple[timedelta, Resolution], ...] = (
    (timedelta(hours=4), "minute"),
    (timedelta(days=14), "hour"),
)
_GROWTH = 1.1  # one step of the latency histogram: quantiles are within 5 %


@dataclass(frozen=True, slots=True)
class Bucket:
    """The results of one minute, hour or day; labels are those of classified ones."""

    start: datetime
    by_status: Mapping[str, int]
    by_label: Mapping[str, int]

    @property
    def images(self) -> int:
        """How many there are."""
        return sum(self.by_status.values())


@dataclass(frozen=True, slots=True)
class Reviews:
    """What waits for people, what they have looked at, and how much of that was wrong."""

    waiting: int
    reviewed: int
    corrected: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """The results that were classified from `since` on and before `until`, in whole buckets."""

    since: datetime | None
    until: datetime
    resolution: Resolution
    buckets: tuple[Bucket, ...]  # those that hold anything, oldest first
    latency_ms: Mapping[float, float]  # by quantile; empty without results
    last_minute: int
    last_hour: int
    reviews: Reviews
    by_status: Mapping[str, int] = field(init=False)
    by_label: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Sum up."""
        for name in ("by_status", "by_label"):
            total = _total(getattr(bucket, name) for bucket in self.buckets)
            object.__setattr__(self, name, total)


@dataclass(frozen=True, slots=True)
class Glance:
    """The numbers of a page: of all results, of the last hour, and the buckets of a chart."""

    by_status: Mapping[str, int]
    by_label: Mapping[str, int]
    last_hour: int
    buckets: tuple[Bucket, ...]


_Counts = Counter[tuple[str, str, str]]  # (period, status, label) -> images
_Latencies = Counter[tuple[str, int]]  # (period, step) -> images


def look(
    database: Database,
    now: datetime,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    resolution: Resolution | None = None,
) -> Statistics:
    """The statistics of a span of time (default: all); counts first what nobody has counted."""
    count(database, now)
    with database.read() as connection:
        tail = _tail(connection)
        first = since or _first(connection, tail) or now
        last = until or now
        chosen = resolution or _finest(first, last, now)
        begin = floor(since, chosen) if since else None
        bounds = (
            _period(begin, chosen) if begin else "",
            _period(_before(last), chosen) if until else "9",
        )
        if since and since >= last:
            bounds = ("9", "")  # nothing
        images = _read_counts(connection, tail, chosen, bounds)
        return Statistics(
            since=begin,
            until=last,
            resolution=chosen,
            buckets=tuple(_buckets(images)),
            latency_ms=quantiles(_read_latencies(connection, tail, chosen, bounds)),
            last_minute=_classified_since(connection, now - timedelta(minutes=1)),
            last_hour=_last_hour(connection, tail, now),
            reviews=_reviews(connection),
        )


def glance(database: Database, now: datetime, since: datetime, resolution: Resolution) -> Glance:
    """All that there ever was, and the buckets from `since` on, for less than `look` costs."""
    count(database, now)
    with database.read() as connection:
        tail = _tail(connection)
        days = tuple(_buckets(_read_counts(connection, tail, "day", ("", "9"))))
        lately = _read_counts(connection, tail, resolution, (_period(since, resolution), "9"))
        return Glance(
            by_status=_total(bucket.by_status for bucket in days),
            by_label=_total(bucket.by_label for bucket in days),
            last_hour=_last_hour(connection, tail, now),
            buckets=tuple(_buckets(lately)),
        )


def count(database: Database, now: datetime, most_uncounted: int = MAX_UNCOUNTED) -> int:
    """Count what is not counted yet, if it is more than an answer may read; returns how many."""
    done = 0
    while _uncounted(database) > most_uncounted:
        done += _fold(database, now)
    return done


def floor(moment: datetime, resolution: Resolution) -> datetime:
    """The start of the bucket that holds this moment."""
    return _start(_period(moment, resolution))


def quantiles(images: Mapping[int, int]) -> dict[float, float]:
    """Milliseconds below which the given shares of results stayed, from counts per step."""
    total = sum(images.values())
    found: dict[float, float] = {}
    seen = 0
    wanted = iter(QUANTILES)
    quantile = next(wanted)
    for step in sorted(images):
        seen += images[step]
        while seen >= quantile * total:
            found[quantile] = round(_GROWTH ** (step - 0.5), 3)
            quantile = next(wanted, math.inf)
    return found


def step_of(latency_ms: float) -> int:
    """The step of the histogram that holds this latency: from GROWTH^(n-1) up to GROWTH^n ms."""
    return math.ceil(math.log(max(latency_ms, 0.01), _GROWTH))


# --- counting ------------------------------------------------------------------------------------


def _uncounted(database: Database) -> int:
    with database.read() as connection:
        return _newest(connection) - _counted(connection)


def _fold(database: Database, now: datetime) -> int:
    with database.read() as connection:  # the longer part, and nobody waits for it
        start = _counted(connection)
        end = min(start + _FOLD_ROWS, _newest(connection))
        images, steps = _aggregate(connection, start, end)
    old = _period(now - MINUTES_KEPT, "minute")
    with database.write() as connection:
        if _counted(connection) != start:
            return 0  # another process was faster
        _add(database, connection, counts, ("period", "status", "label"), images, old)
        _add(database, connection, latencies, ("period", "step"), steps, old)
        _set_counted(database, connection, end)
        for table in (counts, latencies):
            connection.execute(
                delete(table).where(table.c.resolution == "minute", table.c.period < old)
            )
    return end - start


def _aggregate(connection: Connection, start: int, end: int) -> tuple[_Counts, _Latencies]:
    """The rows after position `start` up to `end`, counted per minute."""
    columns = results.c
    minute = _minute(connection)
    is_new = and_(columns.seq > start, columns.seq <= end)
    query = select(minute, columns.status, columns.label, func.count()).where(is_new)
    rows = connection.execute(query.group_by(minute, columns.status, columns.label))
    images: _Counts = Counter(
        {(period, status, label or ""): number for period, status, label, number in rows}
    )
    steps: _Latencies = Counter()
    for period, latency_ms in connection.execute(select(minute, columns.latency_ms).where(is_new)):
        steps[period, step_of(latency_ms)] += 1
    return images, steps


def _minute(connection: Connection) -> ColumnElement[str]:
    """The period of a result, made by the database: to fetch times costs more than to count."""
    column = results.c.classified_at
    if connection.dialect.name == "sqlite":
        return func.replace(func.substr(column, 1, _LENGTH["minute"], type_=String), " ", "T")
    utc = func.timezone("UTC", column)
    return func.to_char(utc, 'YYYY-MM-DD"T"HH24:MI')


def _add(
    database: Database,
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    numbers: Mapping[tuple[Any, ...], int],
    old: str,
) -> None:
    """Add to the counts; minutes before `old` are not worth a row."""
    dialect = sqlite if database.is_sqlite else postgresql
    insert: Any = dialect.insert(table)
    keys = ("resolution", *names)
    upsert = insert.on_conflict_do_update(
        index_elements=list(keys), set_={"images": table.c.images + insert.excluded.images}
    )
    rows = [
        {**dict(zip(keys, (resolution, *key), strict=True)), "images": number}
        for resolution in get_args(Resolution)
        for key, number in _coarser(numbers, resolution).items()
        if resolution != "minute" or key[0] >= old
    ]
    if rows:
        connection.execute(upsert, rows)


def _coarser(
    numbers: Mapping[tuple[Any, ...], int], resolution: Resolution
) -> Counter[tuple[Any, ...]]:
    """The same numbers per hour or per day: the period is a prefix of that of a minute."""
    merged: Counter[tuple[Any, ...]] = Counter()
    for (period, *rest), number in numbers.items():
        merged[period[: _LENGTH[resolution]], *rest] += number
    return merged


def _newest(connection: Connection) -> int:
    return connection.scalar(select(func.max(results.c.seq))) or 0


def _counted(connection: Connection) -> int:
    return connection.scalar(select(counted.c.seq)) or 0


def _set_counted(database: Database, connection: Connection, seq: int) -> None:
    dialect = sqlite if database.is_sqlite else postgresql
    insert: Any = dialect.insert(counted).values(id=1, seq=seq)
    connection.execute(
        insert.on_conflict_do_update(index_elements=["id"], set_={"seq": insert.excluded.seq})
    )


# --- reading -------------------------------------------------------------------------------------


def _tail(connection: Connection) -> tuple[_Counts, _Latencies]:
    return _aggregate(connection, _counted(connection), _newest(connection))


def _read_counts(
    connection: Connection,
    tail: tuple[_Counts, _Latencies],
    resolution: Resolution,
    bounds: tuple[str, str],
) -> _Counts:
    columns = counts.c
    query = select(columns.period, columns.status, columns.label, columns.images).where(
        columns.resolution == resolution, columns.period.between(*bounds)
    )
    images: _Counts = Counter(
        {
            (period, status, label): number
            for period, status, label, number in connection.execute(query)
        }
    )
    for key, number in _coarser(tail[0], resolution).items():
        if bounds[0] <= key[0] <= bounds[1]:
            images[key] += number
    return images


def _read_latencies(
    connection: Connection,
    tail: tuple[_Counts, _Latencies],
    resolution: Resolution,
    bounds: tuple[str, str],
) -> Counter[int]:
    columns = latencies.c
    query = (
        select(columns.step, func.sum(columns.images))
        .where(columns.resolution == resolution, columns.period.between(*bounds))
        .group_by(columns.step)
    )
    steps: Counter[int] = Counter({step: int(number) for step, number in connection.execute(query)})
    for (period, step), number in _coarser(tail[1], resolution).items():
        if bounds[0] <= period <= bounds[1]:
            steps[step] += number
    return steps


def _buckets(images: _Counts) -> Iterable[Bucket]:
    by_period: dict[str, list[tuple[str, str, int]]] = {}
    for (period, status, label), number in images.items():
        by_period.setdefault(period, []).append((status, label, number))
    for period in sorted(by_period):
        by_status: Counter[str] = Counter()
        by_label: Counter[str] = Counter()
        for status, label, number in by_period[period]:
            by_status[status] += number
            if status == "classified":
                by_label[label] += number
        yield Bucket(_start(period), dict(by_status), dict(by_label.most_common()))


def _total(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of all, the commonest first."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total.most_common())


def _first(connection: Connection, tail: tuple[_Counts, _Latencies]) -> datetime | None:
    """When the first result came, to the hour."""
    query = select(func.min(counts.c.period)).where(counts.c.resolution == "hour")
    known = [connection.scalar(query), *(period for period, *_ in tail[0])]
    periods = [period for period in known if period]
    return _start(min(periods)) if periods else None


def _finest(first: datetime, last: datetime, now: datetime) -> Resolution:
    for span, resolution in _FINEST_UP_TO:
        is_kept = resolution != "minute" or first >= now - MINUTES_KEPT
        if last - first <= span and is_kept:
            return resolution
    return "day"


def _classified_since(connection: Connection, moment: datetime) -> int:
    query = select(func.count()).where(results.c.classified_at >= moment)
    return connection.scalar(query) or 0


def _last_hour(connection: Connection, tail: tuple[_Counts, _Latencies], now: datetime) -> int:
    bounds = (_period(now - timedelta(hours=1), "minute"), _period(now, "minute"))
    return sum(_read_counts(connection, tail, "minute", bounds).values())


def _reviews(connection: Connection) -> Reviews:
    columns = results.c
    is_reviewed = columns.reviewed_at.is_not(None)
    is_corrected = columns.corrected_label != columns.label
    reviewed = select(func.count()).where(is_reviewed)
    return Reviews(
        waiting=connection.scalar(select(func.count()).where(columns.needs_review)) or 0,
        reviewed=connection.scalar(reviewed) or 0,
        corrected=connection.scalar(reviewed.where(is_corrected)) or 0,
    )


# --- periods -------------------------------------------------------------------------------------


def _period(moment: datetime, resolution: Resolution) -> str:
    return moment.astimezone(UTC).isoformat()[: _LENGTH[resolution]]


def _start(period: str) -> datetime:
    return datetime.fromisoformat(period + ":00" * (len(period) == _LENGTH["hour"])).replace(
        tzinfo=UTC
    )


def _before(moment: datetime) -> datetime:
    """The last moment before: `until` is exclusive."""
    return moment - timedelta(microseconds=1)
