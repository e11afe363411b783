"""Which files stood still long enough to be read. Pure: stamps and times in, answers out."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from core.types import Stamp
from storage.rules import EMPTY_PATIENCE


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file as last seen: unchanged since `since_s`, first seen at `first_s` (monotonic)."""

    stamp: Stamp
    since_s: float
    first_s: float


@dataclass(frozen=True, slots=True)
class Settled:
    """`ready` may be claimed now, in the order asked for; `next_s` is when the next one will be."""

    ready: tuple[str, ...]
    seen: dict[str, Sighting]
    next_s: float | None


def settle(
    seen: Mapping[str, Sighting],
    listing: Mapping[str, Stamp],
    now_s: float,
    settle_s: float,
    arrived: AbstractSet[str] = frozenset(),
    *,
    newest_first: bool = False,
) -> Settled:
    """Compare a listing with what was seen before.

    `arrived` files were renamed in, so they were whole before they got their name. The age of a
    file is never compared with the clock: copies keep old times, and clocks jump.
    """
    after: dict[str, Sighting] = {}
    ready: list[str] = []
    due: list[float] = []
    for path, stamp in listing.items():
        sighting = _sighting(seen.get(path), stamp, now_s)
        after[path] = sighting
        due_s = sighting.since_s + _patience_s(stamp, settle_s, whole=path in arrived)
        if due_s <= now_s:
            ready.append(path)
        else:
            due.append(due_s)
    sign = -1 if newest_first else 1
    ready.sort(key=lambda path: (sign * listing[path].mtime_ns, path))
    return Settled(tuple(ready), after, min(due, default=None))


def _sighting(before: Sighting | None, stamp: Stamp, now_s: float) -> Sighting:
    if before is None:
        return Sighting(stamp, now_s, now_s)
    if before.stamp != stamp:
        return Sighting(stamp, now_s, before.first_s)
    return before


def _patience_s(stamp: Stamp, settle_s: float, *, whole: bool) -> float:
    if stamp.size_bytes == 0:
        return settle_s * EMPTY_PATIENCE
    return 0.0 if whole else settle_s
