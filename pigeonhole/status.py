"""`pigeonhole status`: what is where, right now. Nothing is made by looking."""

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
from pigeonhole import addresses
from pigeonhole.addresses import Answer
from pigeonhole.results import missing_database
from pigeonhole.talk import counted
from pigeonhole.terminal import cell, plain_table, print_json, print_table
from storage.limbo import Summary, explain
from storage.outbox import Backlog, Outbox
from storage.pause import paused_since
from storage.results import Result, ResultFilter
from storage.store import Store
from storage.watchers import Report, reports

_ERRORS_SHOWN = 5
_WAITING_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Inbox:
    """What lies in the inbox without a row, and why; `complaint` when it cannot be listed."""

    path: Path
    paused_since: datetime | None
    found: Summary
    complaint: str | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """What the database says."""

    classified: int
    quarantined: int
    last_minute: int
    last_hour: int
    watchers: Sequence[Report]
    last_errors: Sequence[Result]


@dataclass(frozen=True, slots=True)
class State:
    """Everything that `status` shows; `records` is None before the first start."""

    inbox: Inbox
    records: Records | None
    model: Manifest | str  # the model, or what is wrong with it
    processes: dict[str, tuple[str, Answer]]
    webhook: Backlog | None  # None where none is set


def run(*, as_json: bool) -> int:
    """Print the state."""
    state = _look(Settings.read(), datetime.now(UTC))
    if as_json:
        print_json(_to_dict(state))
    else:
        _print(state)
    return 0


def _look(settings: Settings, now: datetime) -> State:
    records, webhook = None, None
    if missing_database(settings) is None:
        with closing(Store.open(settings.database_url)) as store:
            webhook = Outbox(store.database).backlog() if settings.webhook_url else None
            records = _records(store, now)
            inbox = _inbox(settings, store, now)
    else:
        inbox = _inbox(settings, None, now)
    urls = {"watcher": addresses.watcher(settings), "api": addresses.api(settings)}
    return State(
        inbox=inbox,
        records=records,
        model=_model(settings.home),
        processes={name: (url, addresses.ask(url)) for name, url in urls.items()},
        webhook=webhook,
    )


def _records(store: Store, now: datetime) -> Records:
    bad = ResultFilter(status="quarantined")
    return Records(
        classified=store.count(ResultFilter(status="classified")),
        quarantined=store.count(bad),
        last_minute=store.count(ResultFilter(since=now - timedelta(minutes=1))),
        last_hour=store.count(ResultFilter(since=now - timedelta(hours=1))),
        watchers=[report for report in reports(store.database) if report.is_alive(now)],
        last_errors=store.page(bad, limit=_ERRORS_SHOWN).items,
    )


def _inbox(settings: Settings, store: Store | None, now: datetime) -> Inbox:
    path, paused = settings.inbox, paused_since(settings.home)
    nothing = Summary({}, None, ())
    try:
        return Inbox(path, paused, explain(settings, store, now))
    except FileNotFoundError:
        return Inbox(path, paused, nothing, "not there yet: the watcher makes it when it starts")
    except OSError as error:
        return Inbox(path, paused, nothing, f"cannot be listed: {error.strerror}")


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
            "files": state.inbox.found.waiting,
            "oldest_at": _iso(state.inbox.found.oldest_at),
            "paused_since": _iso(state.inbox.paused_since),
            "states": dict(state.inbox.found.counts),
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
        "watchers": [_watcher(report) for report in (records.watchers if records else ())],
        "webhook": state.webhook
        and {
            "waiting": state.webhook.waiting,
            "given_up": state.webhook.given_up,
            "oldest_at": _iso(state.webhook.oldest_at),
            "error": state.webhook.error,
        },
        "waiting": [
            {
                "path": written(item.path),
                "state": item.state,
                "reason": item.detail,
                "since": _iso(item.since),
                "until": _iso(item.until),
                "attempts": item.attempts,
            }
            for item in state.inbox.found.files
        ],
        "last_errors": [row.to_dict() for row in (records.last_errors if records else ())],
    }


def _watcher(report: Report) -> dict[str, Any]:
    return {
        "host": report.host,
        "pid": report.pid,
        "paused": report.pause,
        "mode": report.mode,
        "mode_reason": report.deafness,
        "heartbeat_at": _iso(report.heartbeat_at),
        "seen_at": _iso(report.seen_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment else None


def _print(state: State) -> None:
    table = plain_table("", "")
    table.show_header = False
    for name, text in _lines(state):
        table.add_row(cell(name, "bold"), cell(text))
    print_table(table)
    _print_waiting(state.inbox.found)
    if state.records:
        _print_errors(state.records.last_errors)


def _lines(state: State) -> list[tuple[str, str]]:
    model = state.model
    watchers = state.records.watchers if state.records else ()
    return [
        ("inbox", _inbox_line(state.inbox)),
        *((f"watcher {report.pid}", _watcher_line(report)) for report in watchers),
        *((name, _process_line(*found)) for name, found in state.processes.items()),
        (
            "model",
            model
            if isinstance(model, str)
            else f"{model.name} {model.version}, {len(model.labels)} labels",
        ),
        ("results", _records_line(state.records)),
        *([("webhook", _webhook_line(state.webhook))] if state.webhook else []),
    ]


def _inbox_line(inbox: Inbox) -> str:
    text = f"{inbox.path}: "
    text += inbox.complaint or f"{counted(inbox.found.waiting, 'file')} without a row"
    if inbox.found.oldest_at:
        text += f", the oldest for {_age(inbox.found.oldest_at)}"
    if inbox.paused_since:
        text += f"; paused for {_age(inbox.paused_since)}, `pigeonhole resume` goes on"
    return text


def _watcher_line(report: Report) -> str:
    text = f"on {report.host}, " + (report.deafness or "told of files by events")
    if report.heartbeat_at:
        text += f", heartbeat {_age(report.heartbeat_at)} ago"
    return f"{text}; {report.pause or 'working'}"


def _age(moment: datetime) -> timedelta:
    return timedelta(seconds=round(max((datetime.now(UTC) - moment).total_seconds(), 0)))


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


def _webhook_line(backlog: Backlog) -> str:
    text = f"{counted(backlog.waiting, 'result')} to be told"
    if backlog.oldest_at:
        text += f", the oldest for {_age(backlog.oldest_at)}"
    if backlog.error:
        text += f"; the receiver: {backlog.error}"
    if backlog.given_up:
        text += f"; {backlog.given_up} given up, `pigeonhole webhooks retry` tells them again"
    return text


def _print_waiting(found: Summary) -> None:
    if not found.files:
        return
    table = plain_table("in the inbox", "state", "attempts", "why", "until")
    for item in found.files[:_WAITING_SHOWN]:
        attempts = str(item.attempts) if item.attempts else ""
        until = f"{item.until:%H:%M:%SZ}" if item.until else ""
        table.add_row(cell(item.path), item.state, attempts, cell(item.detail), until)
    print_table(table)
    if len(found.files) > _WAITING_SHOWN:
        counts = ", ".join(f"{number} {state}" for state, number in found.counts.items())
        print(f"and {len(found.files) - _WAITING_SHOWN} more; in all: {counts}")  # noqa: T201


def _print_errors(errors: Sequence[Result]) -> None:
    if not errors:
        return
    table = plain_table("last errors", "file", "reason")
    for row in errors:
        reason = f"{row.error.code}: {row.error.detail}" if row.error else ""
        table.add_row(f"{row.classified_at:%Y-%m-%d %H:%M:%SZ}", cell(row.filename), cell(reason))
    print_table(table)
