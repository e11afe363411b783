"""One batch from the inbox to rows and folders, also when it stops between any two steps."""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core.bundle import Bundle
from core.engine import Engine
from core.settings import After, Settings
from core.types import Batch, Delivery, ImageRef, Outcome, Scores, Stamp
from monitoring.metrics import Metrics
from storage import files
from storage.inbox import Walk, backlog, scan
from storage.results import Result
from storage.rules import Rules
from storage.store import Finished, Store
from watcher import owner
from watcher.batch import LEASE_S, MAX_ATTEMPTS, SHARED_ATTEMPTS, Tally, Worker
from watcher.faults import PausedError

Rows = Callable[[], list[Result]]
Paint = Callable[..., bytes]
Drop = Callable[[str, bytes], Path]
Work = Callable[[], Tally]


@pytest.fixture
def drop(home: Path) -> Callable[[str, bytes], Path]:
    def drop(name: str, data: bytes) -> Path:
        path = home / "inbox" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return drop


@pytest.fixture
def work(worker: Worker, home: Path) -> Callable[[], Tally]:
    return lambda: worker.work(scan(home / "inbox"), {})


def claim_all(store: Store, home: Path, who: str = "a-host|boot|1|1") -> list[Delivery]:
    return store.claim(list(scan(home / "inbox").items()), who, datetime.now(UTC), LEASE_S)


def record(store: Store, engine: Engine, home: Path, claimed: list[Delivery]) -> None:
    """The steps up to the commit, as a watcher that dies right after it has done them."""
    contents = [files.read_once(home / "inbox" / item.path, item.stamp) for item in claimed]
    hashes = [files.hash_file(home / "inbox" / item.path, item.stamp) for item in claimed]
    now = datetime.now(UTC)
    store.record(
        [
            Finished(ImageRef(digest, item.path, item.stamp.size_bytes), outcome, now, 1.0, item)
            for digest, item, outcome in zip(
                hashes, claimed, engine.classify(contents), strict=True
            )
        ],
        source="watcher",
        model=engine.bundle.ref,
        min_confidence=0.5,
        now=now,
    )


def everything(home: Path) -> dict[str, bytes]:
    """All files that are kept or still in the inbox, by path; not the database and the model."""
    folders = ("inbox", "sorted", "archive", "quarantine")
    return {
        str(path.relative_to(home)): path.read_bytes()
        for folder in folders
        for path in sorted((home / folder).rglob("*"))
        if path.is_file()
    }


def test_an_image_is_sorted_under_its_label(
    drop: Drop, work: Work, rows: Rows, home: Path, paint: Paint
) -> None:
    data = paint("red", (40, 30), "JPEG")
    drop("a.jpg", data)
    assert work() == Tally(classified=1)
    assert everything(home) == {"sorted/red/a.jpg": data}
    (row,) = rows()
    assert (row.filename, row.source, row.status, row.label) == (
        "a.jpg",
        "watcher",
        "classified",
        "red",
    )
    assert (row.path, row.width_px, row.height_px, row.format) == (
        "sorted/red/a.jpg",
        40,
        30,
        "JPEG",
    )
    assert row.size_bytes == len(data)


def test_sub_folders_keep_their_path_under_the_label(
    drop: Drop, work: Work, home: Path, paint: Paint
) -> None:
    drop("trip/day 1/a.png", paint("blue"))
    work()
    assert list(everything(home)) == ["sorted/blue/trip/day 1/a.png"]


@pytest.mark.parametrize("after", ["archive", "delete", "keep"])
def test_every_policy_files_as_it_says(
    after: After, store: Store, engine: Engine, metrics: Metrics, drop: Drop, rows: Rows,
    home: Path, paint: Paint,
) -> None:  # fmt: skip
    drop("a.png", paint("green"))
    worker = Worker(Settings(home=home, after=after), store, engine, metrics)
    assert worker.work(scan(home / "inbox"), {}).classified == 1
    today = rows()[0].classified_at
    expected = {
        "archive": [f"archive/{today:%Y/%m/%d}/a.png"],
        "delete": [],
        "keep": ["inbox/a.png"],
    }
    assert list(everything(home)) == expected[after]
    assert rows()[0].path == next(iter(expected[after]), None)
    assert worker.work(scan(home / "inbox"), {}).done == 0
    assert len(rows()) == 1


def test_a_bad_file_is_quarantined_with_its_reason_and_its_neighbours_are_sorted(
    drop: Drop, work: Work, rows: Rows, home: Path, paint: Paint
) -> None:
    drop("a.jpg", paint("red"))
    drop("bad.jpg", b"\xff\xd8\xff not a picture")
    drop("c.jpg", paint("blue"))
    assert work() == Tally(classified=2, quarantined=1)
    assert set(everything(home)) == {
        "sorted/red/a.jpg",
        "sorted/blue/c.jpg",
        "quarantine/bad.jpg",
        "quarantine/bad.jpg.reason.json",
    }
    reason = json.loads((home / "quarantine/bad.jpg.reason.json").read_text())
    (row,) = [row for row in rows() if row.error]
    assert row.error is not None
    assert (reason["code"], reason["id"], reason["sha256"]) == (
        row.error.code,
        row.id,
        row.sha256,
    )
    assert row.error.code == "unreadable_image"
    assert row.path == "quarantine/bad.jpg"


def test_policy_keep_leaves_a_bad_file_and_puts_a_second_name_into_quarantine(
    store: Store, engine: Engine, metrics: Metrics, drop: Drop, home: Path
) -> None:
    drop("bad.jpg", b"text")
    worker = Worker(Settings(home=home, after="keep"), store, engine, metrics)
    assert worker.work(scan(home / "inbox"), {}).quarantined == 1
    assert set(everything(home)) == {
        "inbox/bad.jpg",
        "quarantine/bad.jpg",
        "quarantine/bad.jpg.reason.json",
    }


def test_the_same_bytes_are_inferred_once_and_give_two_rows(
    drop: Drop, work: Work, rows: Rows, metrics: Metrics, paint: Paint
) -> None:
    drop("a.png", paint("red"))
    drop("b.png", paint("red"))
    work()
    drop("c.png", paint("red"))
    work()
    first, second, third = rows()
    assert first.duplicate_of is None
    assert (second.duplicate_of, third.duplicate_of) == (first.id, first.id)
    assert third.scores == first.scores
    assert metrics.registry.get_sample_value("pigeonhole_batch_images_sum") == 1


def test_a_file_that_changed_after_it_was_listed_gets_no_row_for_half_of_it(
    worker: Worker, drop: Drop, rows: Rows, home: Path, paint: Paint
) -> None:
    path = drop("a.png", paint("red"))
    listing = scan(home / "inbox")
    path.write_bytes(paint("blue", (99, 99)))
    assert worker.work(listing, {}) == Tally(put_off=1)
    assert rows() == []
    assert worker.work(scan(home / "inbox"), {}).classified == 1
    assert rows()[0].label == "blue"


def test_a_newer_file_of_the_same_name_is_never_filed_for_the_old_one(
    store: Store, engine: Engine, worker: Worker, drop: Drop, rows: Rows, home: Path, paint: Paint
) -> None:
    path = drop("a.png", paint("red"))
    record(store, engine, home, claim_all(store, home))
    newer = paint("blue", (99, 99))
    path.with_name("new").write_bytes(newer)
    path.with_name("new").rename(path)
    store.end_leases(["a-host|boot|1|1"])
    worker.recover()
    assert everything(home) == {"inbox/a.png": newer}
    worker.work(scan(home / "inbox"), {})
    assert [row.label for row in rows()] == ["red", "blue"]
    assert everything(home) == {"sorted/blue/a.png": newer}


def test_a_watcher_that_died_before_the_commit_is_followed_by_one_that_starts_over(
    store: Store, worker: Worker, drop: Drop, rows: Rows, home: Path, paint: Paint
) -> None:
    drop("a.png", paint("red"))
    dead = owner.this_process().replace(owner.this_process().split("|")[3], "1")
    claim_all(store, home, dead)
    assert worker.work(scan(home / "inbox"), {}) == Tally(put_off=1)
    worker.recover()
    assert worker.work(scan(home / "inbox"), {}).classified == 1
    assert len(rows()) == 1


@pytest.mark.parametrize("step", ["committed", "linked", "unlinked"])
@pytest.mark.parametrize("color", ["red", None])
def test_a_watcher_that_died_after_the_commit_is_finished_without_a_second_inference(
    step: str, color: str | None, store: Store, engine: Engine, worker: Worker,
    metrics: Metrics, drop: Drop, rows: Rows, home: Path, paint: Paint,
) -> None:  # fmt: skip
    data = paint(color) if color else b"bad"
    path = drop("a.png", data)
    (delivery,) = claim_all(store, home)
    record(store, engine, home, [delivery])
    inferred = metrics.registry.get_sample_value("pigeonhole_batch_images_sum")
    folder = home / "sorted" / "red" if color else home / "quarantine"
    if step in ("linked", "unlinked"):
        files.put(path, delivery.stamp, folder, delivery.id[-8:], rows()[0].sha256)
    if step == "unlinked":
        path.unlink()
    store.end_leases(["a-host|boot|1|1"])

    assert worker.recover() == 1

    (row,) = rows()
    assert row.path == str((folder / "a.png").relative_to(home))
    assert everything(home).pop(row.path) == data
    assert not path.exists()
    assert (folder / "a.png.reason.json").exists() == (color is None)
    assert worker.recover() == 0
    assert metrics.registry.get_sample_value("pigeonhole_batch_images_sum") == inferred


def test_a_lease_that_was_taken_over_leaves_the_row_to_the_new_owner(
    store: Store, engine: Engine, worker: Worker, drop: Drop, rows: Rows, home: Path, paint: Paint
) -> None:
    drop("a.png", paint("red"))
    slow = claim_all(store, home)
    store.end_leases(["a-host|boot|1|1"])
    assert worker.work(scan(home / "inbox"), {}).classified == 1
    path = home / "sorted" / "red" / "a.png"
    path.rename(home / "inbox" / "a.png")  # so that the slow one could read it still
    record(store, engine, home, slow)
    assert len(rows()) == 1


@pytest.mark.parametrize("after", ["sort", "delete", "keep"])
def test_when_the_inbox_is_lost_after_the_commit_its_files_are_filed_when_it_is_back(
    settings: Settings, store: Store, engine: Engine, metrics: Metrics, drop: Drop, rows: Rows,
    home: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch, after: After,
) -> None:  # fmt: skip
    """As when its disk is unmounted: an empty folder lies there then, on the disk below."""
    worker = Worker(settings.model_copy(update={"after": after}), store, engine, metrics)
    drop("a.png", paint("red"))
    record = Store.record

    def lost(store: Store, *images: Any, **how: Any) -> list[Result | None]:  # noqa: ANN401
        answers = record(store, *images, **how)
        (home / "inbox").rename(home / "disk")
        (home / "inbox").mkdir()
        return answers

    with monkeypatch.context() as patch:
        patch.setattr(Store, "record", lost)
        if after == "keep":
            assert worker.work(scan(home / "inbox"), {}) == Tally(classified=1)
        else:
            with pytest.raises(PausedError, match="not the folder that it was"):
                worker.work(scan(home / "inbox"), {})
    (home / "inbox").rmdir()
    (home / "disk").rename(home / "inbox")
    worker.recover(after_fault=True)
    left = backlog(store.without_kept(Walk(home / "inbox")), 10)
    assert (left.files, len(rows())) == (0, 1)
    shown = {"sort": "sorted/red/a.png", "delete": None, "keep": "inbox/a.png"}
    assert rows()[0].path == shown[after]
    assert store.waiting() == []


def test_a_file_whose_disk_is_away_for_a_moment_is_filed_later(
    worker: Worker, drop: Drop, rows: Rows, home: Path, paint: Paint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is there again when we ask why it was not to be found."""
    path = drop("a.png", paint("red"))
    put, remove = files.put, files.remove

    def away(source: Path, *how: Any) -> Path | None:  # noqa: ANN401
        path.rename(home / "away")
        return put(source, *how)

    def back(*what: Any) -> bool:  # noqa: ANN401
        is_out = remove(*what)
        (home / "away").rename(path)
        return is_out

    with monkeypatch.context() as patch:
        patch.setattr(files, "put_at_once", lambda *_: False)
        patch.setattr(files, "put", away)
        patch.setattr(files, "remove", back)
        patch.setattr("watcher.batch._RETRY_S", (0, 0, 0))
        worker.work(scan(home / "inbox"), {})
    assert worker.work(scan(home / "inbox"), {}) == Tally(put_off=1), "it has its row"
    assert worker.recover() == 1
    assert [row.path for row in rows()] == ["sorted/red/a.png"]
    assert not path.exists()


def test_a_file_that_could_not_be_read_many_times_is_not_taken_for_a_killer(
    worker: Worker, drop: Drop, rows: Rows, home: Path, paint: Paint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its permissions were wrong, or its disk was ill, for longer than the longest back-off."""
    drop("a.png", paint("red"))
    monkeypatch.setattr("watcher.batch._RETRY_S", (0.0,))

    def refusing(path: str | Path, _: object) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "read_once", refusing)
        for _ in range(2 * MAX_ATTEMPTS):
            assert worker.work(scan(home / "inbox"), {}) == Tally(put_off=1)
    assert worker.work(scan(home / "inbox"), {}) == Tally(classified=1)
    assert rows()[0].label == "red"


def test_a_file_that_was_there_at_every_death_is_worked_on_alone_and_then_given_up(
    store: Store, worker: Worker, drop: Drop, rows: Rows, home: Path, paint: Paint
) -> None:
    drop("killer.png", paint("red"))
    for _ in range(MAX_ATTEMPTS):
        claim_all(store, home)
        store.end_leases(["a-host|boot|1|1"])
    drop("innocent.png", paint("blue"))
    assert worker.work(scan(home / "inbox"), {}) == Tally(classified=1, quarantined=1)
    by_name = {row.filename: row for row in rows()}
    assert by_name["innocent.png"].label == "blue"
    error = by_name["killer.png"].error
    assert error is not None
    assert error.code == "gave_up"
    assert (home / "quarantine" / "killer.png").exists()


def test_an_innocent_file_survives_some_deaths(
    store: Store, worker: Worker, drop: Drop, rows: Rows, home: Path, paint: Paint
) -> None:
    drop("a.png", paint("red"))
    for _ in range(SHARED_ATTEMPTS):
        claim_all(store, home)
        store.end_leases(["a-host|boot|1|1"])
    drop("b.png", paint("blue"))
    assert worker.work(scan(home / "inbox"), {}).classified == 2
    assert len(rows()) == 2


def test_a_file_that_is_larger_than_its_pixels_can_be_is_not_read_into_memory(
    store: Store, engine: Engine, metrics: Metrics, drop: Drop, rows: Rows, home: Path
) -> None:
    drop("film.jpg", b"x" * 900)
    worker = Worker(Settings(home=home, max_pixels=100), store, engine, metrics)
    assert worker.work(scan(home / "inbox"), {}).quarantined == 1
    error = rows()[0].error
    assert error is not None
    assert error.code == "too_large"


def test_a_file_that_cannot_be_put_away_keeps_its_row_and_is_put_away_later(
    store: Store, work: Work, worker: Worker, drop: Drop, rows: Rows, home: Path, paint: Paint
) -> None:
    drop("a.png", paint("red"))
    (home / "sorted").write_text("a file where a folder should be")
    work()
    assert (home / "inbox" / "a.png").exists()
    assert [row.path for row in rows()] == [None]
    (home / "sorted").unlink()
    store.end_leases([owner.this_process()])
    worker.recover()
    assert [row.path for row in rows()] == ["sorted/red/a.png"]
    assert list(everything(home)) == ["sorted/red/a.png"]


def test_hostile_names_are_filed_as_they_are(
    drop: Drop, work: Work, rows: Rows, home: Path, paint: Paint
) -> None:
    names = [
        "a\nb.png",
        "-rf.png",
        "<img src=x onerror=alert(1)>.png",
        "=cmd|' C'!A0.png",
        "\N{GRINNING FACE}.png",
        "x" * 251 + ".png",
        os.fsdecode(b"bad\xff.png"),
    ]
    for number, name in enumerate(names):
        drop(name, paint("red", (20 + number, 20)))
    assert work() == Tally(classified=len(names))
    assert set(everything(home)) == {f"sorted/red/{name}" for name in names}
    assert len(rows()) == len(names)


def test_a_done_file_leaves_with_its_file(
    store: Store, engine: Engine, metrics: Metrics, drop: Drop, home: Path, paint: Paint
) -> None:
    drop("a.png", paint("red"))
    drop("a.png.done", b"")
    drop("b.png", paint("blue"))
    settings = Settings(home=home, done_suffix=".done")
    worker = Worker(settings, store, engine, metrics)
    assert worker.work(scan(home / "inbox", Rules.of(settings)), {}) == Tally(classified=1)
    assert set(everything(home)) == {"sorted/red/a.png", "inbox/b.png"}


def test_the_done_file_of_a_newer_file_stays(
    store: Store, engine: Engine, metrics: Metrics, drop: Drop, home: Path, paint: Paint
) -> None:
    path = drop("a.png", paint("red"))
    record(store, engine, home, claim_all(store, home))
    drop("a.png.done", b"")
    path.unlink()
    newer = paint("blue", (99, 99))
    drop("a.png", newer)
    store.end_leases(["a-host|boot|1|1"])
    Worker(Settings(home=home, done_suffix=".done"), store, engine, metrics).recover()
    assert everything(home) == {"inbox/a.png": newer, "inbox/a.png.done": b""}


def test_metrics_count_each_image_once(
    worker: Worker, drop: Drop, home: Path, metrics: Metrics, paint: Paint
) -> None:
    drop("a.png", paint("red"))
    drop("bad.png", b"bad")
    listing: dict[str, Stamp] = scan(home / "inbox")
    worker.work(listing, dict.fromkeys(listing, 0.0))
    value = metrics.registry.get_sample_value
    for outcome in ("classified", "quarantined"):
        labels = {"source": "watcher", "outcome": outcome}
        assert value("pigeonhole_images_total", labels) == 1
    assert value("pigeonhole_predictions_total", {"label": "red"}) == 1
    assert value("pigeonhole_drop_to_result_seconds_count", {"source": "watcher"}) == 2
    for stage in ("decode", "infer", "store", "file", "queue"):
        assert value("pigeonhole_stage_duration_seconds_count", {"stage": stage}), stage


# Batches that overlap


class Gated(Bundle):
    """A real bundle that lets no more images through than `allowed`."""

    def __init__(self, *loaded: Any) -> None:  # noqa: ANN401 - whatever `load` gives
        super().__init__(*loaded)
        self.allowed = threading.Semaphore(1000)  # for what is tried while it is loaded

    def scores(self, images: Batch, *, on_all_cores: bool = False) -> Scores:
        for _ in images:
            assert self.allowed.acquire(timeout=90)
        return super().scores(images, on_all_cores=on_all_cores)


@pytest.fixture
def gated(rgb_bundle: Path) -> Iterator[Gated]:
    bundle = Gated.load(rgb_bundle)
    bundle.allowed = threading.Semaphore(0)
    yield bundle
    bundle.allowed.release(1000)


def one_by_one(home: Path) -> Iterator[tuple[dict[str, Stamp], dict[str, float]]]:
    for path, stamp in sorted(scan(home / "inbox").items()):
        yield {path: stamp}, {}


def test_a_batch_is_filed_while_the_next_is_classified(
    settings: Settings, store: Store, gated: Gated, metrics: Metrics, drop: Drop, rows: Rows,
    home: Path, paint: Paint, until: Callable[..., None],
) -> None:  # fmt: skip
    for name, color in (("1.png", "red"), ("2.png", "lime"), ("3.png", "blue")):
        drop(name, paint(color))
    gated.allowed.release(1)
    with Engine(gated, 1, 1_000_000) as engine, ThreadPoolExecutor(1) as pool:
        worker = Worker(settings, store, engine, metrics)
        work = pool.submit(lambda: sum(worker.work_through(one_by_one(home)), Tally()))
        try:
            until((home / "sorted/red/1.png").exists, "the first is filed")
            until(lambda: not (home / "inbox/1.png").exists(), "and has left the inbox")
            assert [row.label for row in rows()] == ["red"]
        finally:
            gated.allowed.release(2)
        assert work.result() == Tally(classified=3)
    assert [row.label for row in rows()] == ["red", "green", "blue"]


def test_the_same_bytes_are_inferred_once_though_their_batches_overlap(
    settings: Settings, store: Store, gated: Gated, metrics: Metrics, drop: Drop, rows: Rows,
    home: Path, paint: Paint,
) -> None:  # fmt: skip
    for number in range(6):
        drop(f"{number}.png", paint("red"))
    gated.allowed.release(1)
    with Engine(gated, 1, 1_000_000) as engine:
        worker = Worker(settings, store, engine, metrics)
        total = sum(worker.work_through(one_by_one(home)), Tally())
    assert total == Tally(classified=6)
    first, *others = rows()
    assert first.duplicate_of is None
    assert {row.duplicate_of for row in others} == {first.id}


@pytest.mark.parametrize("name", ["1.png", "2.png", "3.png"])
def test_a_suspect_is_worked_on_when_nothing_else_is_under_way(
    name: str,
    settings: Settings, store: Store, engine: Engine, metrics: Metrics, drop: Drop, home: Path,
    paint: Paint, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for number, color in enumerate(("red", "lime", "blue"), start=1):
        drop(f"{number}.png", paint(color))
    suspect = {name: scan(home / "inbox")[name]}
    for _ in range(SHARED_ATTEMPTS):  # it was there so often when the process died
        assert store.claim(list(suspect.items()), "a-host|boot|1|1", datetime.now(UTC), 0.0)
    worker = Worker(settings, store, engine, metrics)
    claimed_beside = []
    submit_all = engine.submit_all

    def look_first(images: Iterable[bytes]) -> list[Future[Outcome]]:
        held = [item.path for item in store.waiting() if item.until > datetime.now(UTC)]
        claimed_beside.append(held)
        return submit_all(images)

    monkeypatch.setattr(engine, "submit_all", look_first)
    total = sum(worker.work_through(one_by_one(home)), Tally())
    assert total == Tally(classified=3)
    assert [beside for beside in claimed_beside if name in beside] == [[name]]


def test_when_one_batch_fails_those_under_way_are_finished_and_the_error_is_told(
    worker: Worker, drop: Drop, rows: Rows, home: Path, paint: Paint
) -> None:
    for name, color in (("1.png", "red"), ("2.png", "lime")):
        drop(name, paint(color))

    def then_the_disk_fails() -> Iterator[tuple[dict[str, Stamp], dict[str, float]]]:
        yield from one_by_one(home)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(worker.work_through(then_the_disk_fails()))
    assert [row.label for row in rows()] == ["red", "green"]
    assert set(everything(home)) == {"sorted/red/1.png", "sorted/green/2.png"}
