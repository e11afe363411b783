"""The watcher's own picture: through every stage, and into nothing that people count."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.engine import Engine
from core.types import Failure
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


def _cannot(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def test_when_any_stage_fails_the_time_stands_still(
    watch: Watch, metrics: Metrics, until: Until, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stage after the other is broken: writing, reading, the model, the database, filing."""
    monkeypatch.setattr("watcher.gate._PAUSES_S", (0.05,))
    value = metrics.registry.get_sample_value
    watch(heartbeat_s=0.1)
    bad = [Failure("unreadable_image", "The model is ill.")]
    broken: list[tuple[object, str, object]] = [
        (Path, "rename", _cannot),
        (files, "read_once", _cannot),
        (engine, "classify", lambda _: bad),
        (Store, "forget", _cannot),
        (files, "put", _cannot),
    ]
    for place, name, failing in broken:
        before_s = value(BEAT) or 0
        until(lambda before_s=before_s: (value(BEAT) or 0) > before_s, "it beats", 60)
        with monkeypatch.context() as patch:
            patch.setattr(place, name, failing)
            time.sleep(0.3)  # what was under way comes through
            still_s = value(BEAT)
            time.sleep(0.5)
            assert value(BEAT) == still_s, f"with {name} broken nothing can come through"


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
