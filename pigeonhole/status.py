"""`pigeonhole status`: what is where, right now. Nothing is made by looking."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from core.bundle import Manifest, locate, read_manifest
from core.errors import BundleError
from core.names import written
from core.settings import Settings
from core.types import Stamp
from pigeonhole import addresses
from pigeonhole.addresses import Answer
from pigeonhole.results import missing_database
from pigeonhole.talk import counted
from pigeonhole.terminal import cell, plain_table, print_json, print_table
from storage.inbox import scan
from storage.results import Result, ResultFilter
from storage.rules import Rules
from storage.store import Store, Waiting

_ERRORS_SHOWN = 5
_WAITING_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Inbox:
    """What lies in the inbox without a row; `complaint` when it cannot be listed."""

    path: Path
    files: int
    oldest_at: datetime | None
    complaint: str | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """What the database says."""

    classified: int
    quarantined: int
    last_minute: int
    last_hour: int
    waiting: Sequence[Waiting]
    last_errors: Sequence[Result]


@dataclass(frozen=True, slots=True)
class State:
    """Everything that `status` shows; `records` is None before the first start."""

    inbox: Inbox
    records: Records | None
    model: Manifest | str  # the model, or what is wrong with it
    processes: dict[str, tuple[str, Answer]]


def run(*, as_json: bool) -> int:
    """Print the state."""
    state = _look(Settings.read(), datetime.now(UTC))
    if as_json:
        print_json(_to_dict(state))
    else:
        _print(state)
    return 0


def _look(settings: Settings, now: datetime) -> State:
    kept: set[tuple[str, Stamp]] = set()
    records = None
    if missing_database(settings) is None:
        with closing(Store.open(settings.database_url)) as store:
            records = _records(store, now)
            kept = set(store.kept())
    urls = {"watcher": addresses.watcher(settings), "api": addresses.api(settings)}
    return State(
        inbox=_inbox(settings.inbox, Rules.of(settings), kept),
        records=records,
        model=_model(settings.home),
        processes={name: (url, addresses.ask(url)) for name, url in urls.items()},
    )


def _records(store: Store, now: datetime) -> Records:
    bad = ResultFilter(status="quarantined")
    return Records(
        classified=store.count(ResultFilter(status="classified")),
        quarantined=store.count(bad),
        last_minute=store.count(ResultFilter(since=now - timedelta(minutes=1))),
        last_hour=store.count(ResultFilter(since=now - timedelta(hours=1))),
        waiting=store.waiting(),
        last_errors=store.page(bad, limit=_ERRORS_SHOWN).items,
    )


def _inbox(path: Path, rules: Rules, kept: set[tuple[str, Stamp]]) -> Inbox:
    try:
        files = [name for name, stamp in scan(path, rules).items() if (name, stamp) not in kept]
    except FileNotFoundError:
        return Inbox(path, 0, None, "not there yet: the watcher makes it when it starts")
    except OSError as error:
        return Inbox(path, 0, None, f"cannot be listed: {error.strerror}")
    arrivals = [arrived for name in files if (arrived := _arrived(path / name))]
    return Inbox(path, len(files), min(arrivals, default=None))


def _arrived(path: Path) -> datetime | None:
    """When the file got its name or its last byte: a copy may keep an mtime of years ago."""
    try:
        return datetime.fromtimestamp(os.lstat(path).st_ctime, UTC)
    except FileNotFoundError:
        return None


def _model(home: Path) -> Manifest | str:
    try:
        return read_manifest(locate(home))
    except BundleError as error:
        return str(error)


def _to_dict(state: State) -> dict[str, Any]:
    model, records = state.model, state.records
    return {
        "inbox": {
            "path": written(str(state.inbox.path)),
            "files": state.inbox.files,
            "oldest_at": _iso(state.inbox.oldest_at),
            "error": state.inbox.complaint,
        },
        "processes": {
            name: {
                "url": url,
                "state": answer.state,
                "detail": answer.complaints or answer.notes or None,
            }
            for name, (url, answer) in state.processes.items()
        },
        "model": (
            {"error": model}
            if isinstance(model, str)
            else {"name": model.name, "version": model.version, "labels": len(model.labels)}
        ),
        "results": records
        and {
            "classified": records.classified,
            "quarantined": records.quarantined,
            "last_minute": records.last_minute,
            "last_hour": records.last_hour,
        },
        "waiting": [
            {
                "path": written(item.path),
                "state": item.state,
                "attempts": item.attempts,
                "until": _iso(item.until),
                "reason": item.error,
            }
            for item in (records.waiting if records else ())
        ],
        "last_errors": [row.to_dict() for row in (records.last_errors if records else ())],
    }


def _iso(moment: datetime | None) -> str | None:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else None


def _print(state: State) -> None:
    table = plain_table("", "")
    table.show_header = False
    for name, text in _lines(state):
        table.add_row(cell(name, "bold"), cell(text))
    print_table(table)
    if state.records:
        _print_waiting(state.records.waiting)
        _print_errors(state.records.last_errors)


def _lines(state: State) -> list[tuple[str, str]]:
    model = state.model
    return [
        ("inbox", _inbox_line(state.inbox)),
        *((name, _process_line(*found)) for name, found in state.processes.items()),
        (
            "model",
            model
            if isinstance(model, str)
            else f"{model.name} {model.version}, {len(model.labels)} labels",
        ),
        ("results", _records_line(state.records)),
    ]


def _inbox_line(inbox: Inbox) -> str:
    text = f"{inbox.path}: "
    text += inbox.complaint or f"{counted(inbox.files, 'file')} without a row"
    if inbox.oldest_at:
        age_s = (datetime.now(UTC) - inbox.oldest_at).total_seconds()
        text += f", the oldest for {timedelta(seconds=round(max(age_s, 0)))}"
    return text


def _process_line(url: str, answer: Answer) -> str:
    return {
        "ready": f"ready at {url}" + (f"; but {answer.notes}" if answer.notes else ""),
        "unready": f"at {url}, but not ready: {answer.complaints}",
        "silent": f"not running (nobody answers at {url}); `pigeonhole up` starts it",
        "stranger": f"another program is at {url} ({answer.complaints})",
    }[answer.state]


def _records_line(records: Records | None) -> str:
    if records is None:
        return "nothing has been recorded yet"
    return (
        f"{records.classified} classified, {records.quarantined} quarantined; "
        f"{records.last_minute} in the last minute, {records.last_hour} in the last hour"
    )


def _print_waiting(waiting: Sequence[Waiting]) -> None:
    if not waiting:
        return
    table = plain_table("waiting file", "state", "attempts", "reason")
    for item in waiting[:_WAITING_SHOWN]:
        table.add_row(cell(item.path), item.state, str(item.attempts), cell(item.error or ""))
    print_table(table)
    if len(waiting) > _WAITING_SHOWN:
        print(f"and {len(waiting) - _WAITING_SHOWN} more")  # noqa: T201


def _print_errors(errors: Sequence[Result]) -> None:
    if not errors:
        return
    table = plain_table("last errors", "file", "reason")
    for row in errors:
        reason = f"{row.error.code}: {row.error.detail}" if row.error else ""
        table.add_row(f"{row.classified_at:%Y-%m-%d %H:%M:%SZ}", cell(row.filename), cell(reason))
    print_table(table)
