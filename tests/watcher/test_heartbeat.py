"""The watcher's own picture: through every stage, and into nothing that people count."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from core.bundle import Bundle
from core.engine import Engine
from core.errors import ModelError
from core.settings import Settings
from core.types import Failure, Outcome
from monitoring.metrics import Metrics
from storage import files
from storage.results import Result
from storage.store import Store
from watcher import owner, reserved
from watcher.daemon import Watcher

Rows = Callable[[], list[Result]]
Until = Callable[..., None]
Watch = Callable[..., Watcher]
Paint = Callable[..., bytes]

BEAT = "pigeonhole_heartbeat_last_seen_timestamp_seconds"


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_stamps_the_time_and_leaves_nothing_else(
    watch: Watch, home: Path, metrics: Metrics, rows: Rows, until: Until, store: Store
) -> None:
    value = metrics.registry.get_sample_value
    started_s = time.time()
    watcher = watch(heartbeat_s=0.2)
    until(lambda: (value(BEAT) or 0) >= started_s, "the first beat comes through", 60)
    first_s = value(BEAT) or 0
    until(lambda: (value(BEAT) or 0) > first_s, "and the next", 60)
    watcher.stop()
    until(lambda: everything(home / "inbox") == [], "nothing is left in the inbox")
    assert rows() == []
    assert store.waiting() == []
    assert not (home / "sorted").exists() or everything(home / "sorted") == []
    for outcome in ("classified", "quarantined"):
        labels = {"source": "watcher", "outcome": outcome}
        assert value("pigeonhole_images_total", labels) == 0
    for source in ("native", "rescan"):
        assert value("pigeonhole_watch_events_total", {"source": source}) == 0
    assert value("pigeonhole_inbox_files") == 0
    assert value("pigeonhole_drop_to_result_seconds_count", {"source": "watcher"}) == 0


@pytest.mark.parametrize("after", ["sort", "archive", "keep", "delete"])
def test_it_comes_through_with_every_policy(
    watch: Watch, home: Path, metrics: Metrics, until: Until, rows: Rows, after: str
) -> None:
    value = metrics.registry.get_sample_value
    watch(heartbeat_s=0.2, after=after)
    until(lambda: bool(value(BEAT)), "it comes through", 60)
    until(lambda: everything(home / "inbox") == [], "and is gone")
    assert rows() == []


def _cannot() -> None:
    raise OSError(5, "Input/output error")


def _answers_badly() -> list[Future[Outcome]]:
    future: Future[Outcome] = Future()
    future.set_result(Failure("unreadable_image", "The model is ill."))
    return [future]


@pytest.mark.parametrize(
    ("place", "name", "failing"),
    [
        (Path, "rename", _cannot),
        (files, "read_once", _cannot),
        (Engine, "submit_all", _answers_badly),
        (Store, "forget", _cannot),
        (files, "put", _cannot),
    ],
    ids=["writing", "reading", "model", "database", "filing"],
)
def test_when_any_stage_fails_the_time_stands_still_until_it_works_again(
    watch: Watch, metrics: Metrics, until: Until, monkeypatch: pytest.MonkeyPatch,
    place: object, name: str, failing: Callable[[], object],
) -> None:  # fmt: skip
    monkeypatch.setattr("watcher.gate._PAUSES_S", (0.05,))
    monkeypatch.setattr("watcher.batch._RETRY_S", (0.05,))
    monkeypatch.setattr("watcher.daemon._SUPERVISE_S", 0.05)
    beat_s: Callable[[], float] = lambda: metrics.registry.get_sample_value(BEAT) or 0.0  # noqa: E731
    watch(heartbeat_s=0.1, reconcile_s=0.1)
    until(lambda: beat_s() > 0, "it beats", 60)
    calls: list[int] = []

    def broken(*_: object, **__: object) -> object:
        calls.append(1)
        return failing()

    with monkeypatch.context() as patch:
        patch.setattr(place, name, broken)
        until(lambda: bool(calls), "the stage fails", 60)
        still_s = beat_s()  # one picture is under way at a time, and this one failed
        until(lambda: len(calls) >= 3, "again and again", 60)
        assert beat_s() == still_s
    until(lambda: beat_s() > still_s, "it beats again", 60)


def test_a_model_that_raises_stamps_no_time(
    settings: Settings, store: Store, engine: Engine, metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The watcher pauses then; a picture that was not answered is no sign of life."""

    def raising(*_: object, **__: object) -> None:
        raise ModelError("the device is lost")

    monkeypatch.setattr(Bundle, "scores", raising)
    changed = {"settle_s": 0.0, "heartbeat_s": 0.1}
    watcher = Watcher(settings.model_copy(update=changed), store, engine, metrics)
    try:
        watcher._supervise()  # noqa: SLF001 - drops the picture
        with pytest.raises(ModelError, match="the device is lost"):
            watcher._turn(woken=False)  # noqa: SLF001
    finally:
        watcher.close()
    assert metrics.registry.get_sample_value(BEAT) is None


def test_there_is_none_where_it_may_not_write_and_files_are_classified_all_the_same(
    watch: Watch, home: Path, metrics: Metrics, until: Until, rows: Rows, paint: Paint
) -> None:
    (home / "inbox" / "a.png").write_bytes(paint("red"))
    (home / "inbox").chmod(0o500)
    watcher = watch(heartbeat_s=0.1, after="keep", as_anybody=True)
    until(lambda: len(rows()) == 1, "the file has its row", 60)
    watcher.stop()
    (home / "inbox").chmod(0o700)
    assert metrics.registry.get_sample_value(BEAT) is None


def test_what_a_killed_watcher_has_left_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    dead = f"{owner.this_process().rpartition('|')[0]}|0".replace("|", ",")
    gone = [f".pigeonhole-heartbeat,{dead}.png", f".pigeonhole-canary,{dead}"]
    stays = [
        reserved.name("heartbeat", ".png"),
        ".pigeonhole-heartbeat,another-host,boot,1,2.png",
        ".pigeonhole-doctor-x1",
        "photo.png",
    ]
    for name in (*gone, *stays):
        (tmp_path / name).write_bytes(b"1")
    assert reserved.clear_leftovers(tmp_path) == 2
    assert everything(tmp_path) == sorted(stays)


def test_two_watchers_on_one_inbox_leave_the_other_s_alone(
    watch: Watch, home: Path, until: Until, metrics: Metrics, rows: Rows
) -> None:
    theirs = home / "inbox" / ".pigeonhole-heartbeat,another-host,boot,1,2.png"
    theirs.write_bytes(b"not even a picture")
    watch(heartbeat_s=0.1)
    until(lambda: bool(metrics.registry.get_sample_value(BEAT)), "ours comes through", 60)
    assert theirs.exists()
    assert rows() == []


def test_it_beats_where_something_moves_all_the_time(
    watch: Watch, home: Path, metrics: Metrics, until: Until
) -> None:
    """The loop is never left in peace for a second."""
    still_going = threading.Event()

    def move() -> None:
        while not still_going.wait(0.02):
            (home / "inbox" / "growing.part").write_bytes(b"1")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        watch(heartbeat_s=0.2)
        value = metrics.registry.get_sample_value
        until(lambda: bool(value(BEAT)), "it comes through", 60)
        first_s = value(BEAT) or 0
        until(lambda: (value(BEAT) or 0) > first_s, "and again", 60)
    finally:
        still_going.set()
        mover.join()
