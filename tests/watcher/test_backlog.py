"""Very many files wait: memory stays bounded, order is as asked for, nobody is forgotten."""

import gc
import os
from collections.abc import Callable
from dataclasses import astuple
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import psutil
import pytest

from core.engine import Engine
from core.settings import Settings
from core.types import Failure
from monitoring.metrics import Metrics
from storage import files
from storage.inbox import Walk
from storage.limbo import explain
from storage.results import Result
from storage.store import Store
from watcher import daemon
from watcher.daemon import Watcher

Rows = Callable[[], list[Result]]
Paint = Callable[..., bytes]
Until = Callable[..., None]
Watch = Callable[..., Watcher]

MIB = 1024**2
_KEPT = ("kept", "me", 1, "2026-11-25 12:00:00.000000", "2026-11-25 12:00:00.000000")


def resident_bytes() -> int:
    """How much memory this process has now; what `peak_bytes` says begins anew."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most that it has had since."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def fill(home: Path, total: int, paint: Paint) -> None:
    """So many names in the inbox, of a few files: one of ext4 has 65,000 names at most."""
    source = home
    for number in range(total):
        if number % 30_000 == 0:
            source = home / f"{number}.png"
            source.write_bytes(paint("blue"))
        os.link(source, home / "inbox" / f"a picture of our holidays {number:06}.png")


def keep_all(store: Store, inbox: Path) -> None:
    """As if every file there had been classified with policy `keep`."""
    rows = (
        (path, os.fsencode(path), *astuple(stamp), *_KEPT) for path, stamp in Walk(inbox).files()
    )
    columns = "id, path, device, inode, size_bytes, mtime_ns, state, owner, attempts"
    insert = f"INSERT OR IGNORE INTO deliveries ({columns}, lease_until, received_at) VALUES "
    with store.database.write() as connection:
        while piece := list(islice(rows, 1000)):
            connection.exec_driver_sql(insert + f"({', '.join('?' * 11)})", piece)


@pytest.mark.guarantee("G20")
def test_a_hundred_thousand_waiting_files_cost_less_than_50_mib(
    settings: Settings, store: Store, engine: Engine, metrics: Metrics, home: Path, paint: Paint
) -> None:
    """G20: listed, settled, counted at scrapes, and the first ones worked on."""
    watcher = Watcher(settings.model_copy(update={"settle_s": 0.0}), store, engine, metrics)
    inbox, total = home / "inbox", 100_000
    try:
        for number in range(300):
            (inbox / f"warm {number}.png").write_bytes(paint("red", (20 + number, 20)))
        while watcher._turn(woken=False).tally.done:  # noqa: SLF001 - one turn at a time
            pass
        assert store.count() == 300
        fill(home, total, paint)
        before_bytes = resident_bytes()
        done = 0
        while done < 300:
            done += watcher._turn(woken=False).tally.done  # noqa: SLF001
            assert watcher.inbox_state().files == total - done
        grown_mib = (peak_bytes() - before_bytes) / MIB
        assert len(watcher._seen) <= daemon._WINDOW_FILES  # noqa: SLF001
    finally:
        watcher.close()
    print(f"grown by {grown_mib:.1f} MiB with {total} files waiting")  # noqa: T201
    assert grown_mib < 50


@pytest.mark.guarantee("G20")
def test_a_hundred_thousand_kept_files_cost_less_than_50_mib(
    settings: Settings, store: Store, engine: Engine, metrics: Metrics, home: Path, paint: Paint,
    soak: bool,
) -> None:  # fmt: skip
    """G20 with policy `keep`: listed, reconciled, counted at scrapes, explained, and one is new.

    In the short form a third of them may cost a third of that.
    """
    keeping = settings.model_copy(update={"settle_s": 0.0, "after": "keep", "reconcile_s": 1})
    total, limit_mib = (100_000, 50) if soak else (33_000, 16)
    watcher = Watcher(keeping, store, engine, metrics)
    try:
        (home / "inbox" / "warm.png").write_bytes(paint("red"))
        while watcher._turn(woken=False).tally.done:  # noqa: SLF001 - one turn at a time
            pass
        fill(home, total, paint)
        keep_all(store, home / "inbox")
        before_bytes = resident_bytes()
        (home / "inbox" / "new.png").write_bytes(paint("blue"))
        assert watcher._turn(woken=False).tally.done == 1  # noqa: SLF001
        assert watcher.inbox_state().files == 0
        assert explain(keeping, store, datetime.now(UTC)).waiting == 0
        grown_mib = (peak_bytes() - before_bytes) / MIB
        assert store.count() == 2, "only what is new was classified"
    finally:
        watcher.close()
    print(f"grown by {grown_mib:.1f} MiB with {total} files kept")  # noqa: T201
    assert grown_mib < limit_mib


@pytest.mark.parametrize(("order", "first"), [("oldest", 0), ("newest", 29)])
def test_the_oldest_go_first_or_the_newest_as_set(
    settings: Settings, store: Store, engine: Engine, metrics: Metrics, home: Path, paint: Paint,
    rows: Rows, order: str, first: int, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With thirty files where only ten are kept in mind."""
    monkeypatch.setattr(daemon, "_WINDOW_FILES", 10)
    for number in range(30):
        path = home / "inbox" / f"{number:02}.png"
        path.write_bytes(paint("red", (20 + number, 20)))
        os.utime(path, (1_000_000 + number, 1_000_000 + number))
    changed = {"settle_s": 0.0, "order": order, "batch_size": 4}
    watcher = Watcher(settings.model_copy(update=changed), store, engine, metrics)
    try:
        assert watcher.empty_inbox() == 0
    finally:
        watcher.close()
    names = [row.filename for row in rows()]
    ascending = [f"{number:02}.png" for number in range(30)]
    assert names == (ascending if order == "oldest" else ascending[::-1])
    assert names[0] == f"{first:02}.png"


def test_files_that_must_wait_take_no_place_from_others(
    watch: Watch, home: Path, rows: Rows, until: Until, paint: Paint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Twenty older files cannot be read, and only ten are kept in mind."""
    monkeypatch.setattr(daemon, "_WINDOW_FILES", 10)
    read = files.read_once

    def refusing(path: str | Path, stamp: object) -> bytes:
        if Path(path).name.startswith("bad"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, stamp)

    monkeypatch.setattr(files, "read_once", refusing)
    for number in range(20):
        path = home / "inbox" / f"bad {number}.png"
        path.write_bytes(paint("red", (20 + number, 20)))
        os.utime(path, (1_000_000, 1_000_000))
    for number in range(20):
        (home / "inbox" / f"good {number}.png").write_bytes(paint("red", (20 + number, 20)))
    watch(heartbeat_s=0)
    until(lambda: len(rows()) == 20, "all good ones have their row", 60)
    assert not any(isinstance(row.error, Failure) for row in rows())
