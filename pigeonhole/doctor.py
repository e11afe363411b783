"""`pigeonhole doctor`: what could go wrong on this machine, tried for real, with the fix for each.

Nothing is left behind: what is written to try a folder is taken away, and no folder is made.
"""

import ctypes
import os
import platform
import shutil
import sqlite3
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from core.bundle import Bundle, locate
from core.errors import PigeonholeError
from core.registry import Registry
from core.settings import Settings
from pigeonhole import addresses
from pigeonhole.results import database_file, missing_database
from pigeonhole.talk import counted, say
from pigeonhole.terminal import cell, plain_table, print_json, print_table
from storage.database import Database
from storage.results import ResultFilter
from storage.store import Store
from watcher import mounts

Level = Literal["ok", "warning", "problem"]

_MIB = 1024**2
_LITTLE_BYTES, _SOME_BYTES = 64 * _MIB, 1024 * _MIB
_FEW_INODES = 1000
_MANY_WATCHES = 8192
_EVENTS = 16_384
_RELEASED = datetime(2026, 11, 1, tzinfo=UTC)  # no clock is right that shows an earlier time
_SKEW_S = 2.0
_OLDEST_SQLITE = (3, 35, 0)  # UPDATE ... RETURNING
_PREFIX = ".pigeonhole-doctor-"
_INOTIFY = Path("/proc/sys/fs/inotify")
_RESTORE = "Stop Pigeonhole and restore the file from a backup."
_STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked; `fix` says what to do about anything but `ok`."""

    check: str
    level: Level
    text: str
    fix: str = ""


def run(*, as_json: bool) -> int:
    """Print every finding; 1 if there is a problem."""
    findings = list(_examine(Settings.read()))
    problems = sum(finding.level == "problem" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    if as_json:
        print_json({"ok": not problems, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
        say(f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}.")
    return 1 if problems else 0


def _print(findings: list[Finding]) -> None:
    table = plain_table("check", "", "what was found")
    for finding in findings:
        style = _STYLES[finding.level]
        table.add_row(finding.check, cell(finding.level, style), cell(finding.text))
        if finding.fix:
            table.add_row("", "", cell(f"fix: {finding.fix}"))
    print_table(table)


def _examine(settings: Settings) -> Iterator[Finding]:
    yield from _system()
    yield from _clock(settings)
    yield from _folders(settings)
    yield from _mounts(settings)
    yield from _disk(settings)
    yield from _inotify(settings)
    yield from _database(settings)
    yield _model(settings)
    yield from _models(settings)
    yield from _ports(settings)


# --- the machine -----------------------------------------------------------------------------


def _system() -> Iterator[Finding]:
    text = f"Python {platform.python_version()} on {platform.platform(terse=True)}"
    if struct.calcsize("P") * 8 < 64:
        yield Finding("system", "problem", f"{text}, 32 bit", "Install a 64-bit Python.")
    elif sys.getfilesystemencoding().lower() != "utf-8":
        fix = "Set LANG to a UTF-8 locale, such as C.UTF-8."
        yield Finding("system", "warning", f"{text}; file names are not read as UTF-8", fix)
    else:
        yield Finding("system", "ok", text)
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        fix = "Use a Python that was built with a newer SQLite."
        yield Finding("system", "problem", f"SQLite {sqlite3.sqlite_version} is too old", fix)


def _clock(settings: Settings) -> Iterator[Finding]:
    now = datetime.now(UTC)
    fix = "Set the clock (`timedatectl set-ntp true`); times of results will be wrong until then."
    if now < _RELEASED:
        yield Finding("clock", "problem", f"it shows {now:%Y-%m-%d}, before this program", fix)
    elif (ahead := _newest_row(settings) - now) > timedelta(seconds=_SKEW_S):
        text = f"the newest result is {ahead} in the future: the clock was set back"
        yield Finding("clock", "warning", text, fix)
    else:
        yield Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%SZ}")


def _newest_row(settings: Settings) -> datetime:
    """When the newest result was classified; long ago if there is none to be had."""
    long_ago = datetime(1970, 1, 1, tzinfo=UTC)
    if missing_database(settings) is not None:
        return long_ago
    try:
        with closing(Store(Database(settings.database_url))) as store:
            newest = [row.classified_at for row in store.stream(ResultFilter(), limit=1)]
    except (PigeonholeError, SQLAlchemyError, OSError, ModuleNotFoundError):
        return long_ago  # the check of the database will say why
    return max(newest, default=long_ago)


# --- folders ---------------------------------------------------------------------------------


def _folders(settings: Settings) -> Iterator[Finding]:
    """Write, sync and link for real, in HOME and in the inbox, and from one to the other."""
    home, inbox = settings.home, settings.inbox
    yield _try("home", "HOME", home, lambda: _write_and_link(home))
    if settings.after == "keep":
        yield _try("inbox", "INBOX", inbox, lambda: _list(inbox))
        return
    written = _try("inbox", "INBOX", inbox, lambda: _write_and_link(inbox))
    yield written
    if written.level == "ok":
        yield _across(inbox, home)


def _try(check: str, setting: str, folder: Path, attempt: Callable[[], None]) -> Finding:
    there = _existing(folder)
    text = str(folder) if there == folder else f"{folder} (will be made in {there})"
    try:
        attempt()
    except OSError as error:
        fix = f"Give this user access to {there}, or set PIGEONHOLE_{setting} to another."
        return Finding(check, "problem", f"{text}: {error.strerror or error}", fix)
    return Finding(check, "ok", f"{text}: can be used")


def _list(folder: Path) -> None:
    os.scandir(_existing(folder)).close()


def _write_and_link(folder: Path) -> None:
    with _probe(folder) as file:
        try:
            _link(file, folder)
        except PermissionError:
            return  # exFAT and some shares know no links: files are copied there


def _across(inbox: Path, home: Path) -> Finding:
    try:
        with _probe(inbox) as file:
            _link(file, home)
    except OSError as error:
        return Finding(
            "inbox to home",
            "warning",
            f"files must be copied, not linked ({error.strerror})",
            "Put PIGEONHOLE_INBOX and PIGEONHOLE_HOME on one file system: linking costs nothing.",
        )
    return Finding("inbox to home", "ok", "one file system: files are linked, never copied")


@contextmanager
def _probe(folder: Path) -> Iterator[Path]:
    """A synced file in this folder, under a name that no watcher takes for a delivery."""
    with tempfile.NamedTemporaryFile(prefix=_PREFIX, dir=_existing(folder)) as file:
        file.write(b"written by pigeonhole doctor\n")
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)


def _link(file: Path, folder: Path) -> None:
    link = _existing(folder) / f"{file.name}.link"
    link.hardlink_to(file)
    link.unlink()


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


# --- mounts and disks ------------------------------------------------------------------------


def _mounts(settings: Settings) -> Iterator[Finding]:
    file = database_file(settings)
    inbox, database = mounts.holding(settings.inbox), mounts.holding(file) if file else None
    if inbox and inbox.is_network:
        text = f"the inbox is on {inbox.kind}: what other machines write there sends no events"
        fix = (
            "Nothing is lost: the watcher looks there every few seconds. Raise PIGEONHOLE_SETTLE_S "
            "to 5, since sizes and times are seen late there."
        )
        yield Finding("mounts", "warning", text, fix)
    if database and database.is_network:
        text = f"the database is on {database.kind}: SQLite can be damaged there"
        fix = "Set PIGEONHOLE_DATABASE_URL to a file on a local disk, or to PostgreSQL."
        yield Finding("mounts", "problem", text, fix)
    found = [mount for mount in (inbox, database) if mount]
    if not any(mount.is_network for mount in found):
        kinds = ", ".join(sorted({mount.kind for mount in found}))
        yield Finding("mounts", "ok", f"local ({kinds or 'of a kind that we cannot see'})")


def _disk(settings: Settings) -> Iterator[Finding]:
    file = database_file(settings)
    places = {"home": settings.home, "inbox": settings.inbox}
    if file is not None:
        places["database"] = file.parent
    seen: set[int] = set()
    for name, folder in places.items():
        there = _existing(folder)
        device = there.stat().st_dev
        if device not in seen:
            seen.add(device)
            yield _room(name, there)


def _room(name: str, folder: Path) -> Finding:
    free_bytes = shutil.disk_usage(folder).free
    nodes = os.statvfs(folder)
    check = f"disk of {name}"
    text = f"{free_bytes // _MIB} MiB free in {folder}"
    fix = f"Make room in {folder}. Work pauses while the disk is full; nothing is lost."
    if nodes.f_files and nodes.f_favail < _FEW_INODES:
        return Finding(check, "problem", f"room for {nodes.f_favail} more files only", fix)
    if free_bytes < _LITTLE_BYTES:
        return Finding(check, "problem", text, fix)
    return (
        Finding(check, "warning", text, fix)
        if free_bytes < _SOME_BYTES
        else Finding(check, "ok", text)
    )


# --- file events -----------------------------------------------------------------------------


def _inotify(settings: Settings) -> Iterator[Finding]:
    if not _INOTIFY.is_dir():
        yield Finding("file events", "ok", "not Linux: the inbox is listed instead")
        return
    watches = _limit("max_user_watches")
    events = _limit("max_queued_events")
    folders = 1 + sum(len(names) for _, names, _ in os.walk(settings.inbox))
    if not _can_watch():
        text = f"no more inotify instances (of {_limit('max_user_instances')})"
        yield Finding("file events", "problem", text, _sysctl("max_user_instances", 1024))
    elif watches < folders:
        text = f"{folders} folders to watch, but {watches} watches per user"
        yield Finding("file events", "problem", text, _sysctl("max_user_watches", 524_288))
    elif watches < _MANY_WATCHES:
        text = f"only {watches} watches per user"
        yield Finding("file events", "warning", text, _sysctl("max_user_watches", 524_288))
    elif events < _EVENTS:
        text = f"a queue of only {events} events: bursts are found by listing, some seconds later"
        yield Finding("file events", "warning", text, _sysctl("max_queued_events", _EVENTS))
    else:
        text = f"inotify with {watches} watches and a queue of {events} events"
        yield Finding("file events", "ok", text)


def _limit(name: str) -> int:
    return int((_INOTIFY / name).read_text("ascii"))


def _sysctl(name: str, value: int) -> str:
    return (
        f"sudo sysctl fs.inotify.{name}={value} (and the same line, without sudo sysctl, in "
        "/etc/sysctl.d/90-inotify.conf to keep it)"
    )


def _can_watch() -> bool:
    """Whether one more program of this user can listen to file events."""
    descriptor = ctypes.CDLL(None, use_errno=True).inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return False
    os.close(descriptor)
    return True


# --- database, model, ports ------------------------------------------------------------------


def _database(settings: Settings) -> Iterator[Finding]:
    file = database_file(settings)
    if file is not None and not file.exists():
        yield _try("database", "DATABASE_URL", file.parent, lambda: _write_and_link(file.parent))
        return
    try:
        yield _server(settings.database_url) if file is None else _sqlite(file)
    except sqlite3.Error as error:
        yield Finding("database", "problem", f"{file}: {error}", _RESTORE)
    except (SQLAlchemyError, ModuleNotFoundError, PigeonholeError) as error:
        fix = "Check PIGEONHOLE_DATABASE_URL, and that the server runs and lets us in."
        yield Finding("database", "problem", str(error), fix)


def _sqlite(file: Path) -> Finding:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=5)) as connection:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    if verdict != "ok":
        return Finding("database", "problem", f"{file} is damaged: {verdict}", _RESTORE)
    if mode != "wal":
        text = f"{file} is not in WAL mode but in {mode}: readers and writers wait for each other"
        return Finding("database", "warning", text, "Start `pigeonhole up`: it switches.")
    return Finding("database", "ok", f"{file}: whole, writable, WAL")


def _server(url: str) -> Finding:
    started_s = time.monotonic()
    with closing(Store(Database(url))) as store:
        store.ping()
        shown = store.database.url.render_as_string(hide_password=True)
    return Finding("database", "ok", f"{shown} answers in {time.monotonic() - started_s:.2f} s")


def _model(settings: Settings) -> Finding:
    folder = locate(settings.home)
    started_s = time.monotonic()
    try:
        bundle = Bundle.load(folder, settings.provider)
    except PigeonholeError as error:
        return Finding(
            "model",
            "problem",
            str(error),
            "`pigeonhole models rollback`, or promote another of `pigeonhole models list`.",
        )
    took_s = time.monotonic() - started_s
    text = f"{bundle.ref.name} {bundle.ref.version}, {len(bundle.labels)} labels, loads and runs"
    return Finding("model", "ok", f"{text} ({took_s:.2f} s)")


def _models(settings: Settings) -> Iterator[Finding]:
    """The models that could be gone back to."""
    for item in Registry(settings.home).installed():
        if isinstance(item.manifest, str):
            fix = f"Delete {item.folder}, or promote the same bundle again: that mends it."
            yield Finding(f"model {item.version}", "warning", item.manifest, fix)


def _ports(settings: Settings) -> Iterator[Finding]:
    yield _port("PIGEONHOLE_PORT", settings.host, settings.port, addresses.api(settings))
    yield _port(
        "PIGEONHOLE_WATCHER_METRICS_PORT",
        addresses.watcher_host(settings),
        settings.watcher_metrics_port,
        addresses.watcher(settings),
    )


def _port(variable: str, host: str, port: int, url: str) -> Finding:
    check = f"port {port}"
    complaint = addresses.taken(host, port)
    if complaint is None:
        return Finding(check, "ok", f"free on {host}")
    answer = addresses.ask(url)
    if answer.state == "ready":
        return Finding(check, "ok", f"a running Pigeonhole has it ({url})")
    if answer.state == "unready":
        text = f"a running Pigeonhole has it, but is not ready: {answer.complaints}"
        return Finding(check, "problem", text, "Mend what it complains of.")
    return Finding(check, "problem", complaint, f"Stop what uses it, or set {variable}.")
