"""The watcher as users have it: a process of its own, killed and started at will."""

import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core import bundle
from core.bundle import Bundle
from core.engine import Engine
from core.errors import SettingsError
from core.recipe import Recipe
from core.settings import Settings
from monitoring.metrics import Metrics
from storage.results import Result
from storage.store import Store
from watcher import daemon, waker
from watcher.daemon import Watcher, prepare_folders

Start = Callable[..., subprocess.Popen[bytes]]
Rows = Callable[[], list[Result]]
Paint = Callable[..., bytes]
Until = Callable[..., None]


def inbox_files(home: Path) -> list[Path]:
    """What people see there: heartbeats are hidden."""
    paths = (home / "inbox").rglob("*")
    return [path for path in paths if path.is_file() and not path.name.startswith(".")]


def test_a_file_dropped_while_it_runs_becomes_a_row_and_is_sorted(
    start: Start, home: Path, rows: Rows, until: Until, paint: Paint
) -> None:
    process = start()
    (home / "inbox" / "a.png").write_bytes(paint("red"))
    until(lambda: (home / "sorted/red/a.png").exists(), "the file is sorted")
    until(lambda: [row.path for row in rows()] == ["sorted/red/a.png"], "the row says where")
    process.terminate()
    assert process.wait(20) == 0


def test_a_model_that_no_longer_answers_leaves_the_memory(
    home: Path, settings: Settings, rgb_bundle: Path, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Bundle]] = []
    load = Bundle.load

    def noted(*how: Any, **rest: Any) -> Bundle:  # noqa: ANN401 - as `load` has it
        model = load(*how, **rest)
        loaded.append(weakref.ref(model))
        return model

    ends: list[Callable[[], None]] = []
    monkeypatch.setattr(Bundle, "load", noted)
    monkeypatch.setattr(daemon, "_stop_on_signals", ends.append)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(daemon.run, settings)
        try:
            until(lambda: bool(ends), "it has started")
            bundle.write(
                home / "models" / "current",
                name="next",
                weights=(rgb_bundle / "model.onnx").read_bytes(),
                labels=["r", "g", "b"],
                recipe=Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1)),
            )
            until(lambda: len(loaded) == 2, "the next model is loaded")
            until(lambda: loaded[0]() is None, "the one before is gone")
            assert loaded[1]() is not None
        finally:
            for end in ends:
                end()
        assert ended.result() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(start: Start, tmp_path: Path, until: Until, number: int) -> None:
    process = start()
    until(lambda: "watching" in (tmp_path / "watcher.log").read_text(), "it has started")
    process.send_signal(number)
    assert process.wait(20) == 0


def test_once_empties_the_inbox_and_says_by_its_exit_code_whether_all_went_well(
    start: Start, home: Path, rows: Rows, paint: Paint
) -> None:
    for number in range(70):
        (home / "inbox" / f"{number}.png").write_bytes(paint("red", (20 + number, 20)))
    assert start("--once").wait(60) == 0
    assert len(rows()) == 70
    assert inbox_files(home) == []
    (home / "inbox" / "bad.png").write_bytes(b"bad")
    assert start("--once").wait(60) == 1
    assert start("--once").wait(60) == 0, "an empty inbox is all done"


def test_kept_files_are_classified_once_also_by_the_next_run(
    start: Start, home: Path, rows: Rows, paint: Paint
) -> None:
    (home / "inbox" / "a.png").write_bytes(paint("red"))
    assert start("--once", AFTER="keep").wait(60) == 0
    assert start("--once", AFTER="keep").wait(60) == 0
    assert [row.path for row in rows()] == ["inbox/a.png"]
    (home / "inbox" / "a.png").unlink()
    assert start("--once", AFTER="keep").wait(60) == 0
    (home / "inbox" / "a.png").write_bytes(paint("blue"))
    assert start("--once", AFTER="keep").wait(60) == 0
    assert [row.label for row in rows()] == ["red", "blue"]


def test_without_any_event_the_listing_finds_every_file(
    settings: Settings, store: Store, engine: Engine, metrics: Metrics, rows: Rows,
    home: Path, until: Until, paint: Paint, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(waker, "start", lambda _: waker.Clock())
    monkeypatch.setattr(daemon, "_POLL_S", 0.2)
    watcher = Watcher(settings, store, engine, metrics)
    thread = threading.Thread(target=watcher.watch)
    thread.start()
    try:
        for number in range(20):
            (home / "inbox" / f"{number}.png").write_bytes(paint("blue", (20 + number, 9)))
        until(lambda: len(rows()) == 20, "all have their row")
    finally:
        watcher.stop()
        thread.join()
    assert metrics.registry.get_sample_value("pigeonhole_watcher_mode_info", {"mode": "polling"})


def test_a_locked_database_is_waited_for(
    start: Start, home: Path, rows: Rows, until: Until, paint: Paint
) -> None:
    start()
    (home / "inbox" / "a.png").write_bytes(paint("red"))
    until(lambda: len(rows()) == 1, "it runs")
    blocker = sqlite3.connect(home / "pigeonhole.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    (home / "inbox" / "b.png").write_bytes(paint("blue"))
    time.sleep(1.5)
    assert len(rows()) == 1
    blocker.execute("ROLLBACK")
    blocker.close()
    until(lambda: len(rows()) == 2, "it went on")


@pytest.mark.guarantee("G14")
@pytest.mark.parametrize("inbox", [".", "sorted", "sorted/deeper", "quarantine", "uploads", "link"])
def test_an_inbox_that_would_hold_our_own_folders_is_refused(home: Path, inbox: str) -> None:
    (home / "link").symlink_to(home)
    settings = Settings(home=home, inbox=home / inbox)
    with pytest.raises(SettingsError, match="PIGEONHOLE_INBOX"):
        prepare_folders(settings)


def test_a_database_in_the_inbox_is_refused(home: Path) -> None:
    settings = Settings(home=home, database_url=f"sqlite:///{home / 'inbox' / 'p.db'}")
    with pytest.raises(SettingsError, match="PIGEONHOLE_DATABASE_URL"):
        prepare_folders(settings)


@pytest.mark.guarantee("G14")
def test_nothing_that_we_write_is_ever_taken_in(
    start: Start, home: Path, rows: Rows, until: Until, paint: Paint
) -> None:
    """Heartbeats, reasons, taken names, and a watcher that looks again all the time."""
    (home / "quarantine").mkdir()
    (home / "quarantine" / "bad.png").write_bytes(b"by hand")
    start(HEARTBEAT_S="0.1", RECONCILE_S="0.1")
    (home / "inbox" / "bad.png").write_bytes(b"bad")
    (home / "inbox" / "bad.png.reason.json").write_bytes(b"{}")
    (home / "inbox" / "a.png").write_bytes(paint("red"))
    until(lambda: len(rows()) == 3, "the first three have their row")
    time.sleep(1)  # for heartbeats and rescans: what must not happen has no sign to wait for
    (home / "inbox" / "b.png").write_bytes(paint("blue"))
    until(lambda: len(rows()) >= 4, "the last one has its row")
    assert sorted(row.filename for row in rows()) == [
        "a.png",
        "b.png",
        "bad.png",
        "bad.png.reason.json",
    ]


def test_health_tells_what_is_wrong(
    settings: Settings, store: Store, engine: Engine, metrics: Metrics, home: Path
) -> None:
    watcher = Watcher(settings, store, engine, metrics)
    try:
        assert not any(check() for check in watcher.checks().values())
        shutil.rmtree(home / "inbox")
        complaints = {name: check() for name, check in watcher.checks().items()}
        assert "mounted" in str(complaints["inbox"])
        assert complaints["database"] is None
    finally:
        watcher.close()


def test_the_inbox_gauges_are_right_at_every_scrape(
    settings: Settings, store: Store, engine: Engine, metrics: Metrics, home: Path, paint: Paint
) -> None:
    watcher = Watcher(settings, store, engine, metrics)
    value = metrics.registry.get_sample_value
    try:
        assert value("pigeonhole_inbox_files") == 0
        (home / "inbox" / "a.png").write_bytes(paint("red"))
        os.utime(home / "inbox" / "a.png", (0, 0))  # a copy that kept its old time
        assert value("pigeonhole_inbox_files") == 1
        oldest_s = value("pigeonhole_inbox_oldest_file_timestamp_seconds")
        assert oldest_s is not None
        assert abs(oldest_s - datetime.now(UTC).timestamp()) < 60, "its arrival, not its mtime"
    finally:
        watcher.close()
