"""What every running watcher says of itself, so that others can show it: one row for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, select, update

from storage.database import Database
from storage.schema import watchers

STALE = timedelta(seconds=30)  # a watcher reports every few seconds, unless it cannot


@dataclass(frozen=True, slots=True)
class Report:
    """One watcher at one moment. `pause` is why it takes no file, `deafness` why it polls.

    `inbox_files` are without a row; `oldest_at` is when the oldest of them arrived.
    """

    owner: str
    seen_at: datetime
    pause: str | None
    mode: str
    deafness: str | None
    inbox_files: int
    oldest_at: datetime | None
    heartbeat_at: datetime | None

    def is_alive(self, now: datetime) -> bool:
        """Whether it has spoken lately."""
        return now - self.seen_at <= STALE

    @property
    def host(self) -> str:
        """The machine, or container, that it runs on."""
        return self.owner.split("|")[0]

    @property
    def pid(self) -> str:
        """Its process id there."""
        return (*self.owner.split("|"), "", "")[2]


def publish(database: Database, report: Report) -> None:
    """Write what this watcher says now over what it said before."""
    said = {
        "owner": report.owner,
        "seen_at": report.seen_at,
        "pause": report.pause,
        "mode": report.mode,
        "deafness": report.deafness,
        "inbox_files": report.inbox_files,
        "oldest_at": report.oldest_at,
        "heartbeat_at": report.heartbeat_at,
    }
    with database.write() as connection:
        changed = connection.execute(
            update(watchers).where(watchers.c.owner == report.owner).values(said)
        )
        if not changed.rowcount:
            connection.execute(insert(watchers).values(said))


def withdraw(database: Database, owners: Sequence[str]) -> None:
    """These have ended."""
    with database.write() as connection:
        connection.execute(delete(watchers).where(watchers.c.owner.in_(owners)))


def reports(database: Database) -> list[Report]:
    """What they all said last, the latest first; killed ones stay until another clears up."""
    with database.read() as connection:
        rows = connection.execute(select(watchers).order_by(watchers.c.seen_at.desc()))
        return [Report(**row) for row in rows.mappings()]
