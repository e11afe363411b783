"""What lies in the inbox: one listing, which alone decides.

A walk streams, so that a hundred thousand waiting files cost no memory; `backlog` keeps those that
go next.
"""

import os
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from core.types import Stamp
from storage.files import stamp_of
from storage.rules import Rules

Why = Literal["", "ignored", "special", "unmarked", "mark", "orphan", "unseen"]

_EVERYBODYS = Rules()


class Found(NamedTuple):
    """One thing in the inbox; `why` it may not be taken, or empty.

    `ignored` by the pattern in `detail` (a folder stands for all in it), `special` (a link, pipe,
    socket or device), `unmarked` (it waits for its done-file), `mark` (such a done-file), `orphan`
    (a done-file of nothing), `unseen` (a folder that cannot be listed, for the reason in `detail`).
    """

    path: str
    why: Why = ""
    detail: str = ""
    stamp: Stamp | None = None
    arrived_s: float = 0.0  # Unix time of its name or last byte: a copy keeps an mtime of years ago


@dataclass(slots=True)
class Survey:
    """Everything below the inbox, by its path there: what may be taken, and why not the rest."""

    files: dict[str, Stamp] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    unmarked: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    unseen: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backlog:
    """The files that go `first`, of how many, and when the oldest arrived (Unix time)."""

    first: dict[str, Stamp]
    files: int
    oldest_s: float | None


class Walk:
    """One walk through the inbox. Links are not followed; a folder that cannot be listed is told.

    Raises `OSError` when the inbox itself cannot be listed: what we cannot see is not empty.
    """

    def __init__(self, inbox: Path, rules: Rules = _EVERYBODYS) -> None:
        self._inbox = inbox
        self._rules = rules

    def __iter__(self) -> Iterator[Found]:
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self._inbox / folder) as entries:
                    yield from self._listed(folder, entries, folders)
            except FileNotFoundError:
                if not folder:
                    raise  # other folders were removed while we looked
            except OSError as error:
                if not folder:
                    raise
                yield Found(folder, "unseen", error.strerror or str(error))

    def files(self) -> Iterator[tuple[str, Stamp]]:
        """Those that may be taken."""
        for found in self:
            if found.stamp and not found.why:
                yield found.path, found.stamp

    def _listed(
        self, folder: str, entries: Iterable[os.DirEntry[str]], folders: list[str]
    ) -> Iterator[Found]:
        suffix = self._rules.done_suffix
        names: set[str] = set()
        if suffix:
            entries = list(entries)
            names = {entry.name for entry in entries}
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if pattern := self._rules.ignored_by(path):
                yield Found(path, "ignored", pattern)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif not entry.is_file(follow_symlinks=False):
                yield Found(path, "special")
            elif found := _file(path, entry):
                yield found._replace(why=_mark(entry.name, names, suffix)) if suffix else found


def scan(inbox: Path, rules: Rules = _EVERYBODYS) -> dict[str, Stamp]:
    """Every regular file that may be taken; raises as `Walk`."""
    return dict(Walk(inbox, rules).files())


def survey(inbox: Path, rules: Rules = _EVERYBODYS) -> Survey:
    """Everything there is, sorted by what may become of it; raises as `Walk`."""
    found = Survey()
    for path, why, detail, stamp, _ in sorted(Walk(inbox, rules)):
        if why == "ignored":
            found.ignored[path] = detail
        elif why == "unseen":
            found.unseen[path] = detail
        elif why == "special":
            found.special.append(path)
        elif why == "unmarked":
            found.unmarked.append(path)
        elif why == "orphan":
            found.orphans.append(path)
        elif stamp and not why:
            found.files[path] = stamp
    return found


def is_gone(inbox: Path, path: str, stamp: Stamp) -> bool:
    """Whether this very file is no longer there, as far as anybody can tell.

    Not while we may not look, nor while the file system that it lay on is not there: that may be
    mounted again. Raises `FileNotFoundError` when the inbox itself is not there.
    """
    place = inbox / path
    try:
        found = stamp_of(place.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return _device(place.parent, inbox) == stamp.device
    except OSError:
        return False
    return found.device == stamp.device and not found.is_same_file(stamp)


def backlog(
    walk: Iterable[Found],
    limit: int,
    *,
    held: AbstractSet[str] = frozenset(),
    newest_first: bool = False,
) -> Backlog:
    """Up to `limit` files that may be taken, by their time, in memory for twice that many.

    `held` ones are counted, but take no place among the first.
    """
    sign = -1 if newest_first else 1
    best: list[tuple[int, str, Stamp]] = []
    files, oldest_s = 0, None
    for found in walk:
        stamp = found.stamp
        if stamp is None or found.why:
            continue
        files += 1
        oldest_s = found.arrived_s if oldest_s is None else min(oldest_s, found.arrived_s)
        if found.path in held:
            continue
        best.append((sign * stamp.mtime_ns, found.path, stamp))
        if len(best) >= 2 * limit:
            _trim(best, limit)
    _trim(best, limit)
    return Backlog({path: stamp for _, path, stamp in best}, files, oldest_s)


def _file(path: str, entry: os.DirEntry[str]) -> Found | None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None  # removed while we looked
    return Found(path, "", "", stamp_of(status), status.st_ctime)


def _device(folder: Path, inbox: Path) -> int:
    """That of this folder, or of the nearest one above it that is there, up to the inbox."""
    while folder != inbox:
        try:
            return folder.stat().st_dev
        except (FileNotFoundError, NotADirectoryError):
            folder = folder.parent
    return inbox.stat().st_dev


def _trim(best: list[tuple[int, str, Stamp]], limit: int) -> None:
    best.sort(key=lambda item: item[:2])
    del best[limit:]


def _mark(name: str, names: set[str], suffix: str) -> Why:
    """Only a file whose done-file is there may be taken, and never a done-file itself."""
    if name.endswith(suffix):
        return "mark" if name.removesuffix(suffix) in names else "orphan"
    return "" if f"{name}{suffix}" in names else "unmarked"
