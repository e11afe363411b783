"""Writes into the database what this watcher is doing, for `pigeonhole status` and the API."""

import time
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import DBAPIError

from storage.inbox import Backlog
from storage.store import Store
from storage.watchers import Report, publish, reports, withdraw
from watcher import owner
from watcher.gate import Gate
from watcher.heartbeat import Heartbeat
from watcher.lookout import Lookout

log = structlog.get_logger(__name__)
_EVERY_S = 10.0


class Reporter:
    """Speaks every few seconds, and at once when something has changed."""

    def __init__(self, store: Store, gate: Gate, lookout: Lookout, heartbeat: Heartbeat) -> None:
        self._database = store.database
        self._gate = gate
        self._lookout = lookout
        self._heartbeat = heartbeat
        self._said: tuple[str | None, str | None] | None = None
        self._due_s = 0.0

    def report(self, backlog: Backlog) -> None:
        """Say how things are; while the database cannot be written, nothing is said."""
        news = (self._gate.complaint(), self._lookout.deafness())
        if news == self._said and time.monotonic() < self._due_s:
            return
        if self._gate.fault and self._gate.fault.reason in ("database", "disk"):
            return
        pause, deafness = news
        now = Report(
            owner=owner.this_process(),
            seen_at=datetime.now(UTC),
            pause=pause,
            mode=self._lookout.mode,
            deafness=deafness,
            inbox_files=backlog.files,
            oldest_at=_moment(backlog.oldest_s),
            heartbeat_at=_moment(self._heartbeat.last_s),
        )
        try:
            publish(self._database, now)
        except DBAPIError as error:
            log.warning("cannot report", reason=str(error.orig))
        self._said, self._due_s = news, time.monotonic() + _EVERY_S

    def clear_up(self) -> None:
        """Forget those who ended without a word."""
        said = [report.owner for report in reports(self._database)]
        if dead := [each for each in said if owner.is_dead(each)]:
            withdraw(self._database, dead)

    def end(self) -> None:
        """The last word."""
        try:
            withdraw(self._database, [owner.this_process()])
        except DBAPIError as error:
            log.warning("cannot report", reason=str(error.orig))


def _moment(time_s: float | None) -> datetime | None:
    return None if time_s is None else datetime.fromtimestamp(time_s, UTC)
