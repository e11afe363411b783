"""Every file in the inbox is explained, from the outside, by anybody."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.settings import Settings
from core.types import Failure
from storage.inbox import Walk, backlog, scan
from storage.limbo import Explained, explain
from storage.pause import pause
from storage.rules import Rules
from storage.store import Store
from storage.watchers import Report, publish, reports, withdraw


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "inbox").mkdir()
    return Settings(home=tmp_path, settle_s=60, done_suffix="")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store.open(settings.database_url)
    yield store
    store.close()


def told(settings: Settings, store: Store | None, now: datetime) -> dict[str, Explained]:
    return {each.path: each for each in explain(settings, store, now).files}


def test_a_young_file_is_settling_and_an_old_one_waits_for_its_turn(
    settings: Settings, store: Store
) -> None:
    (settings.inbox / "a.jpg").write_bytes(b"1")
    (settings.inbox / "empty.jpg").write_bytes(b"")
    now = datetime.now(UTC)
    young = told(settings, store, now)
    assert (young["a.jpg"].state, young["empty.jpg"].state) == ("settling", "settling")
    assert young["a.jpg"].until is not None
    assert timedelta(seconds=55) < young["a.jpg"].until - now < timedelta(seconds=65)
    assert "empty" in young["empty.jpg"].detail
    later = told(settings, store, now + timedelta(seconds=70))
    assert (later["a.jpg"].state, later["empty.jpg"].state) == ("waiting", "settling")
    assert told(settings, store, now + timedelta(seconds=700))["empty.jpg"].state == "waiting"
    assert told(settings, None, now)["a.jpg"].state == "settling", "also before the first start"


def test_a_file_with_a_time_in_the_future_is_not_for_ever_young(
    settings: Settings, store: Store
) -> None:
    (settings.inbox / "a.jpg").write_bytes(b"1")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert told(settings, store, yesterday)["a.jpg"].state == "waiting"


def test_what_became_of_a_claim_is_told(settings: Settings, store: Store) -> None:
    for name in ("claimed", "retried", "broken off", "filing", "kept"):
        (settings.inbox / f"{name}.jpg").write_bytes(name.encode())
    now = datetime.now(UTC)
    listed = scan(settings.inbox)
    files = [(path, listed[path]) for path in sorted(listed)]
    held = {item.path: item for item in store.claim(files, "nas|boot|42|7", now, 60)}
    error = Failure("cannot_read", "Permission denied.")
    store.postpone(held["retried.jpg"], now + timedelta(seconds=8), error)
    store.release([held["broken off.jpg"]])
    with store.database.write() as connection:
        for name, state in (("filing", "classified"), ("kept", "kept")):
            connection.exec_driver_sql(
                f"UPDATE deliveries SET state = '{state}' WHERE id = '{held[f'{name}.jpg'].id}'"
            )
    found = told(settings, store, now)
    assert found["claimed.jpg"].state == "claimed"
    assert found["claimed.jpg"].detail == "being worked on by process 42 on nas"
    assert found["claimed.jpg"].until == now + timedelta(seconds=60)
    retried = found["retried.jpg"]
    assert (retried.state, retried.detail, retried.attempts) == ("retry", "Permission denied.", 1)
    assert retried.until == now + timedelta(seconds=8)
    assert found["broken off.jpg"].state == "waiting"
    assert found["filing.jpg"].state == "filing"
    assert "kept.jpg" not in found, "it is done"
    dead = told(settings, store, now + timedelta(seconds=61))
    assert dead["claimed.jpg"].state == "waiting"


def test_a_changed_file_is_a_new_one_whatever_is_known_of_the_old(
    settings: Settings, store: Store
) -> None:
    (settings.inbox / "a.jpg").write_bytes(b"1")
    now = datetime.now(UTC)
    (old,) = store.claim(list(scan(settings.inbox).items()), "me", now, 60)
    store.postpone(old, now + timedelta(seconds=8), Failure("cannot_read", "No."))
    (settings.inbox / "a.jpg").write_bytes(b"12")
    assert told(settings, store, now)["a.jpg"].state == "settling"


def test_what_is_none_of_our_business_is_told_with_the_reason(
    settings: Settings, store: Store
) -> None:
    inbox = settings.inbox
    settings = settings.model_copy(update={"done_suffix": ".done", "ignore": "*.txt"})
    for name in ("a.jpg", "b.jpg", "b.jpg.done", "c.jpg.done", "x.part", "notes.txt"):
        (inbox / name).write_bytes(b"1")
    (inbox / ".pigeonhole-heartbeat,host,boot,1,2.png").write_bytes(b"ours")
    (inbox / "link.jpg").symlink_to(inbox / "a.jpg")
    found = told(settings, store, datetime.now(UTC))
    assert {path: each.state for path, each in found.items()} == {
        "a.jpg": "unmarked",
        "b.jpg": "settling",
        "b.jpg.done": "mark",
        "c.jpg.done": "orphan",
        "x.part": "ignored",
        "notes.txt": "ignored",
        "link.jpg": "special",
    }
    assert found["x.part"].detail == "ignored by the pattern *.part"
    assert found["notes.txt"].detail == "ignored by the pattern *.txt"


def test_while_paused_every_new_file_says_so(settings: Settings, store: Store) -> None:
    (settings.inbox / "a.jpg").write_bytes(b"1")
    pause(settings.home)
    found = explain(settings, store, datetime.now(UTC))
    assert [each.state for each in found.files] == ["paused"]
    assert found.counts == {"paused": 1}
    assert found.waiting == 1


def test_a_limit_bounds_the_names_and_shows_what_somebody_must_see_first(
    settings: Settings, store: Store
) -> None:
    for number in range(50):
        (settings.inbox / f"{number:02}.jpg").write_bytes(b"1")
    now = datetime.now(UTC)
    listed = scan(settings.inbox)
    (item,) = store.claim([("37.jpg", listed["37.jpg"])], "me", now, 60)
    store.postpone(item, now + timedelta(seconds=8), Failure("cannot_read", "No."))
    found = explain(settings, store, now, limit=3)
    assert len(found.files) == 3
    assert found.files[0].path == "37.jpg"
    assert found.counts == {"settling": 49, "retry": 1}
    assert found.waiting == 50


def test_a_missing_inbox_is_an_error(settings: Settings, store: Store) -> None:
    settings.inbox.rmdir()
    with pytest.raises(FileNotFoundError):
        explain(settings, store, datetime.now(UTC))


def test_a_backlog_keeps_the_first_and_counts_all(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}.jpg").write_bytes(b"1")
        os.utime(tmp_path / f"{number:02}.jpg", (1000 - number, 1000 - number))
    started_s = time.time() - 1
    walk = (each for each in Walk(tmp_path, Rules()) if each.path != "24.jpg")
    found = backlog(walk, 3, held={"23.jpg"})
    assert list(found.first) == ["22.jpg", "21.jpg", "20.jpg"]
    assert found.files == 24
    assert found.oldest_s is not None
    assert found.oldest_s >= started_s - 60, "its arrival, not the time that the copy has kept"


def test_a_folder_that_cannot_be_listed_keeps_nobody_else_from_being_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("locked", "open"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_bytes(b"1")
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    walk = Walk(tmp_path, Rules())
    assert [path for path, _ in walk.files()] == ["open/a.jpg"]


def test_watchers_report_and_are_forgotten(store: Store) -> None:
    now = datetime.now(UTC)
    report = Report("nas|boot|42|7", now, None, "native", None, 3, now, None)
    publish(store.database, report)
    news = Report("nas|boot|42|7", now, "paused: disk: full", "polling", "nfs", 4, None, now)
    publish(store.database, news)
    assert reports(store.database) == [news]
    assert (news.host, news.pid) == ("nas", "42")
    assert news.is_alive(now + timedelta(seconds=20))
    assert not news.is_alive(now + timedelta(seconds=60))
    withdraw(store.database, [report.owner])
    assert reports(store.database) == []
