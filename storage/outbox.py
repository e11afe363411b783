"""The outbox: results that a webhook is still to be told of.

A row is added in the transaction that adds the result, so there is never one without the other.
Who takes an event holds it until its time is due again: nobody else sends it meanwhile, and a
process that dies leaves it to the next one. An event may so be sent twice, and is never forgotten.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, not_, select, update

from storage.database import Database
from storage.results import Result, from_row
from storage.schema import deliveries, outbox, results


@dataclass(frozen=True, slots=True)
class Event:
    """A result to be told; `attempts` counts this one."""

    seq: int
    attempts: int
    created_at: datetime
    result: Result


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is still to be told, what was given up, and the latest complaint of the receiver."""

    waiting: int
    given_up: int
    oldest_at: datetime | None
    error: str | None


def add(connection: Connection, result_ids: Iterable[str], now: datetime) -> None:
    """Note these new results, in the transaction that makes them."""
    rows = [
        {"result_id": each, "created_at": now, "attempts": 0, "due_at": now} for each in result_ids
    ]
    connection.execute(insert(outbox), rows)


class Outbox:
    """The queue of one webhook."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, now: datetime, lease_s: float, limit: int) -> list[Event]:
        """Up to `limit` events that are due, oldest first; held for `lease_s`.

        A result whose file is about to be filed is left for later: its path is not known yet.
        """
        due = (
            select(outbox.c.seq)
            .where(_is_due(now), not_(_is_being_filed()))
            .order_by(outbox.c.due_at, outbox.c.seq)
            .limit(limit)
        )
        with self._database.read() as connection:
            if connection.execute(due.limit(1)).first() is None:
                return []  # nearly always; no need to wait for the writer's turn
        with self._database.write() as connection:
            taken = connection.execute(
                update(outbox)
                .where(outbox.c.seq.in_(due), _is_due(now))
                .values(
                    due_at=now + timedelta(seconds=lease_s),
                    attempts=outbox.c.attempts + 1,
                )
                .returning(*outbox.c)
            ).all()
            wanted = [row.result_id for row in taken]
            query = select(results).where(results.c.id.in_(wanted))
            found = {row.id: from_row(row) for row in connection.execute(query)}
        events = [
            Event(row.seq, row.attempts, row.created_at, found[row.result_id])
            for row in taken
            if row.result_id in found
        ]
        return sorted(events, key=lambda event: event.seq)

    def delivered(self, events: Sequence[Event]) -> None:
        """The receiver has them: done."""
        with self._database.write() as connection:
            connection.execute(delete(outbox).where(outbox.c.seq.in_([e.seq for e in events])))

    def postpone(self, event: Event, until: datetime | None, error: str) -> None:
        """Tell it again, not before `until`; None gives it up until somebody asks for it."""
        with self._database.write() as connection:
            connection.execute(
                update(outbox)
                .where(outbox.c.seq == event.seq, outbox.c.attempts == event.attempts)
                .values(due_at=until, error=error)
            )

    def retry_given_up(self, now: datetime) -> int:
        """Everything that was given up is due again, from the first attempt on; how many."""
        with self._database.write() as connection:
            return connection.execute(
                update(outbox).where(outbox.c.due_at.is_(None)).values(due_at=now, attempts=0)
            ).rowcount

    def backlog(self) -> Backlog:
        """What waits, for metrics and `pigeonhole status`."""
        is_waiting = outbox.c.due_at.is_not(None)
        count = select(
            func.count(outbox.c.due_at),
            func.count() - func.count(outbox.c.due_at),
            func.min(outbox.c.created_at).filter(is_waiting),
        ).select_from(outbox)
        latest = (
            select(outbox.c.error)
            .where(outbox.c.error.is_not(None))
            .order_by(outbox.c.seq.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            waiting, given_up, oldest_at = connection.execute(count).one()
            return Backlog(waiting, given_up, oldest_at, connection.scalar(latest))


def _is_due(now: datetime) -> ColumnElement[bool]:
    return outbox.c.due_at <= now


def _is_being_filed() -> ColumnElement[bool]:
    return (
        select(1)
        .select_from(results.join(deliveries, deliveries.c.id == results.c.delivery_id))
        .where(and_(results.c.id == outbox.c.result_id, deliveries.c.state == "classified"))
        .exists()
    )
