"""Results by their position: what came after, and what came before.

`seq` numbers rows in the order of their commit, on SQLite and on PostgreSQL (see
`storage.database`): who has seen everything up to a number misses nothing that comes later.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select, tuple_

from storage.database import Database
from storage.results import Result, ResultFilter, conditions, from_row
from storage.schema import results

EVERYTHING = ResultFilter()


@dataclass(frozen=True, slots=True)
class Entry:
    """One result and its position."""

    seq: int
    result: Result


def newest(database: Database) -> int:
    """The last position that is taken; 0 when there are no results."""
    with database.read() as connection:
        return connection.scalar(select(func.max(results.c.seq))) or 0


def after(
    database: Database, seq: int, limit: int, wanted: ResultFilter = EVERYTHING
) -> list[Entry]:
    """The next results after a position, oldest first."""
    query = _matching(wanted).where(results.c.seq > seq).order_by(results.c.seq)
    return list(_entries(database, query.limit(limit)))


def before(
    database: Database,
    seq: int | None,
    limit: int,
    wanted: ResultFilter = EVERYTHING,
    *,
    after: int = 0,
) -> list[Entry]:
    """The results just before a position (None: the latest) and behind `after`, newest first."""
    query = _matching(wanted).order_by(results.c.seq.desc()).limit(limit)
    if seq is not None:
        query = query.where(results.c.seq < seq)
    if after:
        query = query.where(results.c.seq > after)
    return list(_entries(database, query))


def find(database: Database, identifier: str) -> Entry | None:
    """One result by its id."""
    query = select(results).where(results.c.id == identifier)
    return next(_entries(database, query), None)


# --- what people should look at ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """How many results people have looked at, and how many wait for them."""

    reviewed: int
    waiting: int


def doubtful(database: Database, limit: int, last: Entry | None = None) -> list[Entry]:
    """What needs review, the least sure first; from behind `last` on, reviewed or not."""
    columns = results.c
    query = select(results).where(columns.needs_review).limit(limit)
    if last is not None:
        place = tuple_(last.result.confidence, last.seq)
        query = query.where(tuple_(columns.confidence, columns.seq) > place)
    return list(_entries(database, query.order_by(columns.confidence, columns.seq)))


def progress(database: Database) -> Progress:
    """How far the review is."""
    columns = results.c
    with database.read() as connection:
        reviewed, waiting = connection.execute(
            select(
                select(func.count()).where(columns.reviewed_at.is_not(None)).scalar_subquery(),
                select(func.count()).where(columns.needs_review).scalar_subquery(),
            )
        ).one()
    return Progress(reviewed, waiting)


def _matching(wanted: ResultFilter) -> Select[Any]:
    return select(results).where(*conditions(wanted))


def _entries(database: Database, query: Select[Any]) -> Iterator[Entry]:
    with database.read() as connection:
        for row in connection.execute(query).all():
            yield Entry(row.seq, from_row(row))
