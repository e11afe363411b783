"""The audit: a random sample of results that people look at, so that the truth is known.

And beside it what needs no people: the model's latest answers, and what it was shown.

Whether a result belongs to it is decided by the random end of its id: the same for everybody who
asks, independent of image and answer, with no column and no dice.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select

from core.types import InputStatistics
from storage.database import Database
from storage.results import input_statistics
from storage.schema import results

_DIGITS = 6  # of the 12 random hexadecimal digits at the end of a UUID
_FIRST = 36 - _DIGITS + 1  # SQL counts from 1
LATEST_ROWS = 50_000  # how far back we look: a scrape must not read a table of years


@dataclass(frozen=True, slots=True)
class Audit:
    """Results of the sample: looked at, right among those, and still to be looked at."""

    reviewed: int
    correct: int
    waiting: int


class Answer(NamedTuple):
    """One classified row: what the model said, and what it was shown, where that was kept."""

    label: str
    confidence: float
    shown: InputStatistics | None


def is_audited(identifier: str, share: float) -> bool:
    """Whether this result belongs to the sample; `share` of all do."""
    return identifier[-_DIGITS:] < _limit(share)


def recent_answers(database: Database, model_version: str, limit: int) -> list[Answer]:
    """This model's latest answers, newest first, whatever way the images came."""
    columns = results.c
    query: Select[Any] = (
        select(
            columns.label,
            columns.confidence,
            columns.brightness,
            columns.contrast,
            columns.sharpness,
            columns.width_px,
            columns.height_px,
        )
        .where(_is_answer(model_version), _is_recent())
        .order_by(columns.seq.desc())
        .limit(limit)
    )
    with database.read() as connection:
        return [
            Answer(row.label, row.confidence, input_statistics(row))
            for row in connection.execute(query)
        ]


def audited(database: Database, model_version: str, share: float) -> Audit:
    """What people said of this model's answers in the sample."""
    columns = results.c
    is_reviewed = columns.reviewed_at.is_not(None)
    is_correct = or_(columns.corrected_label.is_(None), columns.corrected_label == columns.label)
    query = select(
        func.count(case((is_reviewed, 1))),
        func.count(case((and_(is_reviewed, is_correct), 1))),
        func.count(case((columns.reviewed_at.is_(None), 1))),
    ).where(
        _is_answer(model_version),
        _is_recent(),
        func.substr(columns.id, _FIRST, _DIGITS) < _limit(share),
    )
    with database.read() as connection:
        reviewed, correct, waiting = connection.execute(query).one()
    return Audit(reviewed, correct, waiting)


def _limit(share: float) -> str:
    """Ids that end below this belong to the sample: fixed width, so text sorts as numbers do."""
    number = round(share * 16**_DIGITS)
    return "g" if number >= 16**_DIGITS else f"{number:0{_DIGITS}x}"


def _is_answer(model_version: str) -> ColumnElement[bool]:
    return and_(results.c.status == "classified", results.c.model_version == model_version)


def _is_recent() -> ColumnElement[bool]:
    newest: Select[tuple[int]] = select(func.coalesce(func.max(results.c.seq), 0))
    return results.c.seq > newest.scalar_subquery() - LATEST_ROWS
