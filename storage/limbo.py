"""Why is this file still in the inbox? An answer for every one of them, from any process.

It is worked out of one listing, the database and the settings, so that `pigeonhole status` and the
API can give it while the watcher is dead.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Literal

from core.settings import Settings
from storage.inbox import Found, Walk, Why
from storage.pause import paused_since
from storage.rules import EMPTY_PATIENCE, RESERVED, Rules
from storage.store import LONGEST_HOLD, Store, Waiting

State = Literal[
    "settling", "waiting", "paused", "claimed", "retry", "filing",
    "ignored", "special", "unmarked", "mark", "orphan", "unseen",
]  # fmt: skip

_CLOCKS_DIFFER_S = 60.0

_NOT_OURS: Mapping[Why, str] = {
    "ignored": "ignored by the pattern {}",
    "special": "a link, pipe, socket or device; only files are taken",
    "unmarked": "its done-file has not come",
    "mark": "the done-file of another",
    "orphan": "a done-file of no file",
    "unseen": "this folder cannot be listed ({})",
}


@dataclass(frozen=True, slots=True)
class Explained:
    """One file in the inbox that has no row yet, and why.

    `until`: when a claim ends, a retry is due or the file will have settled; `since`: its arrival.
    """

    path: str
    state: State
    detail: str
    since: datetime | None = None
    until: datetime | None = None
    attempts: int = 0


class Limbo:
    """Everything that is in the inbox and has no row. Raises `OSError` when it cannot be listed."""

    def __init__(self, settings: Settings, store: Store | None, now: datetime) -> None:
        self._settings = settings
        self._now = now
        self._paused = paused_since(settings.home)
        self._held = {each.path: each for each in store.waiting()} if store else {}
        walk = Walk(settings.inbox, Rules.of(settings))
        self._found = store.without_kept(walk) if store else walk

    def __iter__(self) -> Iterator[Explained]:
        for found in self._found:
            if not found.path.startswith(RESERVED):
                yield self._explain(found)

    def _explain(self, found: Found) -> Explained:
        if found.why:
            text = _NOT_OURS[found.why].format(found.detail)
            return Explained(found.path, found.why, text)
        held = self._held.get(found.path)
        if found.stamp and held and held.stamp.is_same_file(found.stamp):
            return self._of_delivery(found, held)
        return self._of_new_file(found)

    def _of_delivery(self, found: Found, held: Waiting) -> Explained:
        if held.state == "classified":
            text = "its row is written; the file is put away next"
            return self._told(found, "filing", text, held)
        if held.state == "waiting":
            text = held.error or "an error of an earlier attempt"
            return self._told(found, "retry", text, held)
        if self._now < held.until <= self._now + LONGEST_HOLD:
            return self._told(found, "claimed", f"being worked on by {_who(held.owner)}", held)
        return self._told(found, "waiting", "an attempt broke off; it is taken up again", held)

    def _of_new_file(self, found: Found) -> Explained:
        stamp = found.stamp
        patience_s = self._settings.settle_s
        empty = stamp is not None and stamp.size_bytes == 0
        if empty:
            patience_s *= EMPTY_PATIENCE
        settled_s = found.arrived_s + patience_s
        if self._paused:
            return self._told(found, "paused", "`pigeonhole resume` goes on")
        # A time far ahead of ours is of a clock that is wrong, not of a file that is young.
        if found.arrived_s - _CLOCKS_DIFFER_S <= self._now.timestamp() < settled_s:
            text = "empty so far" if empty else "too young: somebody may still be writing it"
            until = datetime.fromtimestamp(settled_s, UTC)
            return Explained(found.path, "settling", text, _moment(found), until)
        return self._told(found, "waiting", "for its turn")

    @staticmethod
    def _told(found: Found, state: State, text: str, held: Waiting | None = None) -> Explained:
        if held is None:
            return Explained(found.path, state, text, _moment(found))
        return Explained(found.path, state, text, _moment(found), held.until, held.attempts)


# Those that will get a row, those that lack something, and what is none of our business.
WILL_BE_DONE: tuple[State, ...] = (
    "retry", "filing", "claimed", "paused", "settling", "waiting",
)  # fmt: skip
_ORDER: tuple[State, ...] = (
    "unseen", "retry", "filing", "claimed", "unmarked", "orphan", "special",
    "paused", "settling", "waiting", "ignored", "mark",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Summary:
    """How many files are in which state, when the oldest that waits arrived, and their names."""

    counts: Mapping[State, int]
    oldest_at: datetime | None
    files: tuple[Explained, ...]

    @property
    def waiting(self) -> int:
        """Files that will get a row by themselves."""
        return sum(self.counts.get(state, 0) for state in WILL_BE_DONE)


def explain(
    settings: Settings, store: Store | None, now: datetime, *, limit: int | None = None
) -> Summary:
    """All of the inbox; of the names, up to `limit`, those that somebody must see first.

    `store` is None before the first start. Raises `OSError` when the inbox cannot be listed.
    """
    named: dict[State, list[Explained]] = {state: [] for state in _ORDER}
    counts: Counter[State] = Counter()
    oldest_at: datetime | None = None
    for each in Limbo(settings, store, now):
        counts[each.state] += 1
        if each.state in WILL_BE_DONE and each.since:
            oldest_at = min(each.since, oldest_at or each.since)
        if limit is None or len(named[each.state]) < limit:
            named[each.state].append(each)
    return Summary(counts, oldest_at, tuple(islice(chain(*named.values()), limit)))


def _who(owner: str) -> str:
    host, _, pid, *_ = (*owner.split("|"), "", "", "")
    return f"process {pid} on {host}" if pid else owner


def _moment(found: Found) -> datetime | None:
    return datetime.fromtimestamp(found.arrived_s, UTC) if found.arrived_s else None
