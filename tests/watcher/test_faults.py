"""Disk full, folders that refuse, a locked database, lost mounts: it pauses, says why, goes on."""

import errno
import hashlib
import json
import os
import sqlite3
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from core.bundle import Bundle
from core.engine import Engine
from core.errors import ModelError, StoreError
from core.settings import Settings
from monitoring.health import examine
from monitoring.metrics import Metrics
from storage import database, files
from storage.limbo import explain
from storage.pause import pause, resume
from storage.results import Result, ResultFilter
from storage.store import Store
from tests.deliveries import kept
from watcher import batch, faults
from watcher.daemon import Watcher

Rows = Callable[[], list[Result]]
Paint = Callable[..., bytes]
Until = Callable[..., None]
Watch = Callable[..., Watcher]
Mount = Callable[..., None]


def drop(inbox: Path, names: list[str], paint: Paint) -> Counter[bytes]:
    """Noisy pictures of some 60 kB each; what was dropped."""
    sent: Counter[bytes] = Counter()
    for number, name in enumerate(names):
        data = paint("green", (140, 140 + number), "BMP")
        (inbox / name).write_bytes(data)
        sent[data] += 1
    return sent


def visible(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]


def reason_of(watcher: Watcher) -> str:
    """What /readyz says of the work, such as `disk`."""
    report = examine(watcher.checks())
    work = report.complaints["work"] or ""
    assert not work or report.status == 503
    return work.removeprefix("paused: ").partition(":")[0]


def is_paused(metrics: Metrics, reason: str) -> bool:
    value = metrics.registry.get_sample_value
    return value("pigeonhole_watcher_paused", {"reason": reason}) == 1


def fill(folder: Path, leave_bytes: int) -> Path:
    """A file that takes all room there but this."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        room = os.statvfs(folder)
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leave_bytes)
    return filler


@pytest.mark.guarantee("G10")
@pytest.mark.parametrize(
    ("floor_bytes", "left_bytes", "holds_database"),
    [(0, 0, True), (0, 0, False), (1024**2, 512 * 1024, True)],
)
def test_a_full_disk_pauses_the_work_and_room_resumes_it(
    watch: Watch, mount: Mount, home: Path, metrics: Metrics,
    until: Until, paint: Paint, floor_bytes: int, left_bytes: int, holds_database: bool,
) -> None:  # fmt: skip
    """G10, on a real file system of 8 MiB that holds the sorted files, and the database or not."""
    small = home.parent / "small"
    small.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "none", small)
    (small / "sorted").mkdir()
    file = (small if holds_database else home) / "pigeonhole.db"
    url = f"sqlite:///{file}"
    watcher = watch(
        home=small, inbox=home / "inbox", database_url=url, min_free_bytes=floor_bytes,
        heartbeat_s=0, reconcile_s=1,
    )  # fmt: skip
    with closing(Store.open(url)) as store:
        drop(home / "inbox", ["first.bmp"], paint)
        first = small / "sorted" / "green" / "first.bmp"
        until(lambda: store.count(ResultFilter(q="first")) == 1, "it works while there is room", 60)
        until(lambda: first.exists() and not store.waiting(), "and is done", 60)
        filler = fill(small, left_bytes)
        sent = drop(home / "inbox", [f"{number}.bmp" for number in range(6)], paint)
        until(lambda: reason_of(watcher) == "disk", "it says that the disk is full", 60)
        assert is_paused(metrics, "disk")
        assert len(visible(home / "inbox")) == 6, "nothing has left the inbox"
        filler.unlink()
        until(lambda: store.count() == 7, "it goes on by itself", 60)
        until(lambda: not visible(home / "inbox"), "all are put away", 60)
        until(lambda: reason_of(watcher) == "", "and it says so", 60)
    kept = Counter(path.read_bytes() for path in visible(small / "sorted"))
    kept[paint("green", (140, 140), "BMP")] -= 1
    assert kept == sent
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_read_only_target_folder_pauses_the_work(
    watch: Watch, mount: Mount, unmount: Callable[[Path], None], home: Path, metrics: Metrics,
    rows: Rows, until: Until, paint: Paint,
) -> None:  # fmt: skip
    sorted_folder = home / "sorted"
    sorted_folder.mkdir()
    mount("--bind", sorted_folder, sorted_folder)
    mount("-o", "remount,bind,ro", sorted_folder)
    watcher = watch(heartbeat_s=0)
    drop(home / "inbox", ["a.bmp"], paint)
    until(lambda: reason_of(watcher) == "folder", "it says that it cannot write", 60)
    assert is_paused(metrics, "folder")
    drop(home / "inbox", ["b.bmp", "c.bmp"], paint)
    unmount(sorted_folder)
    until(lambda: not visible(home / "inbox"), "it goes on by itself", 60)
    until(lambda: all(row.path for row in rows()), "rows say where", 60)
    assert sorted(row.filename for row in rows()) == ["a.bmp", "b.bmp", "c.bmp"]
    assert len(visible(sorted_folder)) == 3


def test_a_model_that_breaks_down_pauses_the_work_and_another_one_resumes_it(
    watch: Watch, engine: Engine, fragile_bundle: Path, home: Path, metrics: Metrics,
    rows: Rows, until: Until, paint: Paint,
) -> None:  # fmt: skip
    good = engine.bundle
    engine.replace(Bundle.load(fragile_bundle))
    watcher = watch(heartbeat_s=0)
    sent = drop(home / "inbox", ["a.bmp", "b.bmp", "c.bmp"], paint)
    until(lambda: reason_of(watcher) == "model", "it says that the model is to blame", 60)
    assert is_paused(metrics, "model")
    assert not rows()
    engine.replace(good)  # as `pigeonhole models rollback` does
    until(lambda: not visible(home / "inbox"), "it goes on by itself", 60)
    until(lambda: reason_of(watcher) == "", "and it says so", 60)
    assert sorted(row.filename for row in rows()) == ["a.bmp", "b.bmp", "c.bmp"]
    assert Counter(path.read_bytes() for path in visible(home / "sorted")) == sent


def test_a_target_folder_without_write_permission_pauses_the_work(
    watch: Watch, home: Path, rows: Rows, until: Until, paint: Paint
) -> None:
    (home / "sorted" / "green").mkdir(parents=True)
    (home / "sorted" / "green").chmod(0o500)
    watcher = watch(heartbeat_s=0, as_anybody=True)
    drop(home / "inbox", ["a.bmp"], paint)
    until(lambda: reason_of(watcher) == "folder", "it says that it cannot write", 60)
    assert (home / "inbox" / "a.bmp").exists()
    (home / "sorted" / "green").chmod(0o700)
    until(lambda: (home / "sorted/green/a.bmp").exists(), "it goes on by itself", 60)
    assert len(rows()) == 1


@pytest.mark.guarantee("G9")
def test_a_database_that_is_locked_longer_than_anybody_waits_pauses_the_work(
    watch: Watch, home: Path, metrics: Metrics, rows: Rows, until: Until,
    paint: Paint, monkeypatch: pytest.MonkeyPatch, soak: bool,
) -> None:  # fmt: skip
    """G9: SQLite gives up after its busy timeout, here half a second, again and again."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.5)
    watcher = watch(heartbeat_s=0)
    drop(home / "inbox", ["a.bmp"], paint)
    until(lambda: len(rows()) == 1, "it runs", 60)
    with closing(sqlite3.connect(home / "pigeonhole.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        drop(home / "inbox", ["b.bmp", "c.bmp"], paint)
        until(lambda: reason_of(watcher) == "database", "it says who stops it", 60)
        assert is_paused(metrics, "database")
        assert "locked" in str(watcher.checks()["work"]())
        time.sleep(10 if soak else 0)
        blocker.execute("ROLLBACK")
    until(lambda: len(rows()) == 3, "it goes on by itself", 60)
    until(lambda: not visible(home / "inbox"), "all are put away", 60)
    until(lambda: reason_of(watcher) == "", "the pause is over", 60)


def test_a_break_off_between_claim_and_row_costs_no_file_its_attempts(
    watch: Watch, home: Path, rows: Rows, until: Until, paint: Paint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Ten faults in a row must not end as `gave_up`, nor wait for the lease of the dead."""
    record, failures = Store.record, []

    def flaky(self: Store, *arguments: object, **named: object) -> object:
        if len(failures) < 10:
            failures.append(1)
            raise OSError(errno.ENOSPC, "No space left on device", str(home))
        return record(self, *arguments, **named)

    monkeypatch.setattr(Store, "record", flaky)
    monkeypatch.setattr("watcher.gate._PAUSES_S", (0.05,))
    watch(heartbeat_s=0)
    drop(home / "inbox", ["a.bmp"], paint)
    until(lambda: len(rows()) == 1, "it has its row, well before its lease is over", 50)
    assert rows()[0].status == "classified"
    assert len(failures) == 10


def test_an_inbox_whose_mount_is_lost_pauses_the_work_and_kept_files_stay_known(
    watch: Watch, mount: Mount, unmount: Callable[[Path], None], home: Path, rows: Rows,
    until: Until, paint: Paint, store: Store,
) -> None:  # fmt: skip
    disk = home.parent / "disk"
    disk.mkdir()
    mount("--bind", disk, home / "inbox")
    drop(disk, ["a.bmp", "b.bmp"], paint)
    watcher = watch(after="keep", reconcile_s=0.2, heartbeat_s=0)
    until(lambda: len(rows()) == 2, "both are classified", 60)
    unmount(home / "inbox")
    until(lambda: reason_of(watcher) == "inbox", "it says that the mount is gone", 60)
    assert "Mount it again" in str(watcher.checks()["work"]())
    assert len(kept(store)) == 2, "an empty mount point does not say that files are gone"
    mount("--bind", disk, home / "inbox")
    drop(disk, ["c.bmp"], paint)
    until(lambda: "c.bmp" in {row.filename for row in rows()}, "it goes on by itself", 60)
    assert sorted(row.filename for row in rows()) == ["a.bmp", "b.bmp", "c.bmp"]


def test_kept_files_are_known_again_on_a_mount_with_another_device_number(
    watch: Watch, home: Path, rows: Rows, until: Until, paint: Paint, store: Store
) -> None:
    """As after a reboot: the watcher starts before the mount is there, then it comes."""
    (home / "inbox" / "a.bmp").write_bytes(paint("green", (140, 140), "BMP"))
    first = watch(after="keep", reconcile_s=0.2, heartbeat_s=0)
    until(lambda: len(kept(store)) == 1, "it is classified and left", 60)
    first.stop()
    with store.database.write() as connection:
        connection.exec_driver_sql("UPDATE deliveries SET device = device + 1")
    (home / "inbox" / "a.bmp").rename(home / "a.bmp")  # not mounted yet
    second = watch(after="keep", reconcile_s=0.2, heartbeat_s=0)
    until(lambda: second.checks()["inbox"]() is None, "it runs")
    drop(home / "inbox", ["b.bmp"], paint)
    until(lambda: len(rows()) == 2, "it works", 60)
    (home / "a.bmp").rename(home / "inbox" / "a.bmp")
    drop(home / "inbox", ["c.bmp"], paint)
    until(lambda: len(rows()) == 3, "and goes on", 60)
    assert sorted(row.filename for row in rows()) == ["a.bmp", "b.bmp", "c.bmp"]


@pytest.mark.guarantee("G9")
@pytest.mark.parametrize("number", [errno.EIO, errno.EBUSY])
def test_a_file_that_cannot_be_read_for_a_while_is_retried_with_back_off_and_said(
    watch: Watch, home: Path, settings: Settings, store: Store, rows: Rows, metrics: Metrics,
    until: Until, paint: Paint, monkeypatch: pytest.MonkeyPatch, number: int, soak: bool,
) -> None:  # fmt: skip
    """G9: an error of the disk, over after the third attempt, in the long form after 10 s."""
    read, attempts = files.read_once, []
    lasts = timedelta(seconds=10 if soak else 0)

    def flaky(path: str | Path, stamp: object) -> bytes:
        now = datetime.now(UTC)
        is_over = len(attempts) >= 3 and now - attempts[0] >= lasts
        if Path(path).name == "bad luck.bmp" and not is_over:
            attempts.append(now)
            raise OSError(number, os.strerror(number), str(path))
        return read(path, stamp)

    monkeypatch.setattr(files, "read_once", flaky)
    monkeypatch.setattr(batch, "_RETRY_S", (1.6, 2.4, 2.4))
    watch(heartbeat_s=0)
    drop(home / "inbox", ["bad luck.bmp", "neighbour.bmp"], paint)
    seen: set[tuple[str, int]] = set()

    def look() -> bool:
        for each in explain(settings, store, datetime.now(UTC)).files:
            if each.state == "retry":
                seen.add((each.detail, each.attempts))
                assert each.until
        return len(rows()) == 2

    until(look, "both have their rows, without a restart", 60)
    assert {row.status for row in rows()} == {"classified"}
    assert rows()[0].filename == "neighbour.bmp", "it did not wait for the other"
    assert {text for text, _ in seen} == {
        f"{os.strerror(number)}. Check the permissions of the file."
    }
    assert [count for _, count in sorted(seen)] == list(range(1, len(attempts) + 1))
    waits = [after - before for before, after in pairwise(attempts)]
    assert waits[0].total_seconds() >= 1.6
    assert waits[1].total_seconds() >= 2.4, "longer each time"
    value = metrics.registry.get_sample_value("pigeonhole_errors_total", {"code": "cannot_read"})
    assert value == len(attempts)


@pytest.mark.guarantee("G8")
def test_a_bad_file_of_any_kind_is_explained_and_its_neighbours_do_not_suffer(
    watch: Watch, home: Path, settings: Settings, store: Store, rows: Rows, until: Until,
    paint: Paint,
) -> None:  # fmt: skip
    """G8: every kind of thing that can lie in a folder under the name of an image."""
    inbox = home / "inbox"
    good = paint("blue", (64, 64), "JPEG")
    (inbox / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (inbox / "empty.jpg").write_bytes(b"")
    (inbox / "text.jpg").write_bytes(b"I am no image at all.\n")
    (inbox / "bomb.png").write_bytes(_bomb(30_000))
    (inbox / "folder.jpg").mkdir()
    (inbox / "folder.jpg" / "inside.jpg").write_bytes(good)
    os.mkfifo(inbox / "pipe.jpg")
    (inbox / "dangling.jpg").symlink_to(inbox / "nowhere")
    (inbox / "half.part").write_bytes(good)
    (inbox / "secret.jpg").write_bytes(good)
    (inbox / "secret.jpg").chmod(0)
    (inbox / "locked").mkdir()
    (inbox / "locked" / "later.jpg").write_bytes(good)
    (inbox / "locked").chmod(0)
    (inbox / "good.jpg").write_bytes(good)
    watcher = watch(heartbeat_s=0, as_anybody=True)
    until(lambda: len(rows()) == 6, "what can be read has its row", 60)
    found = {row.filename: row for row in rows()}
    assert {name for name, row in found.items() if row.status == "classified"} == {
        "good.jpg",
        "inside.jpg",
    }
    codes = {name: row.error.code for name, row in found.items() if row.error}
    assert codes == {
        "truncated.jpg": "unreadable_image",
        "empty.jpg": "empty_file",
        "text.jpg": "unsupported_format",
        "bomb.png": "too_many_pixels",
    }
    until(lambda: all(row.path for row in rows()), "they are put away")
    for name, code in codes.items():
        reason = json.loads((home / "quarantine" / f"{name}.reason.json").read_text("utf-8"))
        assert (reason["code"], reason["attempts"]) == (code, 1)
        assert reason["detail"]
        assert reason["received_at"] <= reason["quarantined_at"]
        data = (home / "quarantine" / name).read_bytes()
        assert reason["sha256"] == hashlib.sha256(data).hexdigest()
        assert reason["model"]["version"] == found[name].model.version
    why = {each.path: each.state for each in explain(settings, store, datetime.now(UTC)).files}
    assert why.pop("secret.jpg") in ("retry", "claimed")
    why.pop("locked/later.jpg", None)  # we are root, the watcher is not
    assert why == {"pipe.jpg": "special", "dangling.jpg": "special", "half.part": "ignored"}
    assert reason_of(watcher) == "", "none of this stops the work"
    (inbox / "secret.jpg").chmod(0o600)
    (inbox / "locked").chmod(0o700)
    until(lambda: len(rows()) == 8, "what can be read now has its row too, without a restart", 90)


def _bomb(side_px: int) -> bytes:
    """The header of a PNG that would need 2.7 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_pause_and_resume_by_hand_reach_a_running_watcher_and_outlive_it(
    watch: Watch, home: Path, settings: Settings, store: Store, rows: Rows, metrics: Metrics,
    until: Until, paint: Paint,
) -> None:  # fmt: skip
    first = watch()
    drop(home / "inbox", ["a.bmp"], paint)
    until(lambda: len(rows()) == 1, "it runs", 60)
    assert pause(home)
    assert not pause(home), "once is enough"
    until(lambda: reason_of(first) == "user", "it says so", 60)
    assert is_paused(metrics, "user")
    drop(home / "inbox", ["b.bmp"], paint)
    why = explain(settings, store, datetime.now(UTC)).files
    assert [(each.path, each.state) for each in why] == [("b.bmp", "paused")]
    first.stop()
    second = watch()
    until(lambda: reason_of(second) == "user", "so does the next one", 60)
    assert len(rows()) == 1
    assert resume(home)
    assert not resume(home)
    until(lambda: len(rows()) == 2, "it goes on", 60)


def test_once_does_nothing_while_paused_and_fails(
    settings: Settings, home: Path, engine: Engine, paint: Paint
) -> None:
    pause(home)
    (home / "inbox" / "a.png").write_bytes(paint("red"))
    with closing(Store.open(settings.database_url)) as store:
        watcher = Watcher(settings, store, engine, Metrics(CollectorRegistry()))
        try:
            assert watcher.empty_inbox() == 1
        finally:
            watcher.close()
        assert store.count() == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "full", "/home/sorted/a"), "disk"),
        (OSError(errno.EDQUOT, "quota", "/inbox/a", None, "/home/sorted/a"), "disk"),
        (OSError(errno.EROFS, "read-only", "/inbox/a", None, "/home/sorted/a"), "folder"),
        (PermissionError(errno.EACCES, "no", "/home/sorted"), "folder"),
        (OSError(errno.EROFS, "read-only", "/inbox/a"), "inbox"),
        (FileNotFoundError(errno.ENOENT, "gone", "/inbox"), "inbox"),
        (OSError(errno.ESTALE, "stale", "/inbox/trip"), "inbox"),
        (StoreError("no write-ahead log here"), "database"),
        (ModelError("out of memory"), "model"),
    ],
)
def test_the_fault_behind_an_error_is_named_after_what_must_be_mended(
    error: Exception, reason: str
) -> None:
    fault = faults.of(error, Path("/inbox"))
    assert fault.reason == reason
    assert fault.detail
