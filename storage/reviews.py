"""What people say of a result: confirmed, corrected, or taken back."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update

from core.errors import PigeonholeError
from storage.audit import is_audited
from storage.database import Database
from storage.results import Result, from_row
from storage.schema import results


class ChangedMeanwhileError(PigeonholeError):
    """The result is no longer what the caller has seen of it. Look at it again, then decide."""

    code = "precondition_failed"


class NotClassifiedError(PigeonholeError):
    """A quarantined file has no label that could be corrected."""

    code = "not_classified"


@dataclass(frozen=True, slots=True)
class Review:
    """`is_reviewed`: whether a person has looked. `corrected_label`: what it is, if not `label`.

    A confirmation (`keeps_correction`) leaves a correction that was made before as it is.
    """

    is_reviewed: bool
    corrected_label: str | None = None
    keeps_correction: bool = False


@dataclass(frozen=True, slots=True)
class Doubt:
    """Which results need review while nobody has looked at them."""

    min_confidence: float
    audit_share: float

    def is_about(self, result: Result) -> bool:
        """Whether it is unsure, or drawn for the audit."""
        if result.confidence is None:
            return False
        is_unsure = result.confidence < self.min_confidence
        return is_unsure or is_audited(result.id, self.audit_share)


def review(
    database: Database,
    identifier: str,
    said: Review,
    *,
    is_expected: Callable[[Result], bool],
    doubt: Doubt,
    now: datetime,
) -> Result | None:
    """Write it down; returns the result as it is then, None where there is none of this id.

    What was reviewed needs no review; what is taken back needs it as `doubt` says. Raises
    `ChangedMeanwhileError` unless `is_expected` says that the result is the one that was seen, and
    `NotClassifiedError` for the correction of a quarantined file.
    """
    mine = results.c.id == identifier
    with database.write() as connection:
        row = connection.execute(select(results).where(mine)).first()
        if row is None:
            return None
        before = from_row(row)
        if not is_expected(before):
            raise ChangedMeanwhileError(
                "The result has changed since you read it. Read it again, then decide."
            )
        if said.corrected_label is not None and before.status != "classified":
            raise NotClassifiedError("This file is in quarantine: it has no label to correct.")
        label = before.corrected_label if said.keeps_correction else said.corrected_label
        changes = {
            "corrected_label": label,
            "reviewed_at": now if said.is_reviewed else None,
            "needs_review": not said.is_reviewed and doubt.is_about(before),
        }
        connection.execute(update(results).where(mine).values(changes))
        # Not by RETURNING: there SQLite gives 1.0 back as 1.
        return from_row(connection.execute(select(results).where(mine)).one())
