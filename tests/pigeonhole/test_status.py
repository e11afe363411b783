"""`pigeonhole status`: what is where, right now."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.types import Failure
from storage.inbox import scan
from storage.store import Store

Call = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("home", "ports")


def test_before_the_first_start_it_says_so_and_makes_nothing(
    run: Call, home: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    before = contents(home.parent)
    done = run("status")
    assert done.code == 0
    assert "nothing has been recorded yet" in done.text
    assert "the watcher makes it when it starts" in done.text
    found = run("status", "--json").json
    assert found["results"] is None
    assert found["inbox"]["error"]
    assert {process["state"] for process in found["processes"].values()} == {"silent"}
    assert found["model"]["name"] == "rgb"
    assert contents(home.parent) == before


def test_rows_are_counted_by_status_and_time(run: Call, record: Call) -> None:
    now = datetime.now(UTC)
    record("old.png", now=now - timedelta(days=1))
    record("an hour.png", now=now - timedelta(minutes=30))
    record("new.png", now=now)
    record("bad.png", None, now=now)
    assert run("status", "--json").json["results"] == {
        "classified": 3,
        "quarantined": 1,
        "last_minute": 2,
        "last_hour": 3,
    }


def test_the_last_errors_are_shown(run: Call, record: Call, hostile: tuple[str, ...]) -> None:
    for name in hostile:
        record(name, None)
    errors = run("status", "--json").json["last_errors"]
    assert [row["filename"] for row in errors] == list(hostile[:-6:-1])
    text = run("status").text
    assert "unreadable_image: =The image\\nis damaged." in text
    assert {character for character in text if not character.isprintable()} == {"\n"}


def test_the_inbox_is_counted_and_its_oldest_file_dated(run: Call, home: Path) -> None:
    started = datetime.now(UTC).replace(microsecond=0)
    (home / "inbox" / "deep").mkdir(parents=True)
    (home / "inbox" / "one.png").write_bytes(b"1")
    os.utime(home / "inbox" / "one.png", (0, 0))  # a copy with the time of the original
    (home / "inbox" / "deep" / "two.png").write_bytes(b"2")
    (home / "inbox" / ".hidden.png").write_bytes(b"3")
    inbox = run("status", "--json").json["inbox"]
    assert inbox["files"] == 2
    assert datetime.fromisoformat(inbox["oldest_at"]) >= started
    assert "2 files without a row, the oldest for 0:00:0" in run("status").text


def test_waiting_files_are_shown_with_their_reason(run: Call, home: Path, record: Call) -> None:
    record("any.png")
    name = os.fsdecode(b"caf\xe9\n\x1b[31m.png")
    (home / "inbox").mkdir()
    (home / "inbox" / name).write_bytes(b"1")
    store = Store.open(f"sqlite:///{home / 'pigeonhole.db'}")
    now = datetime.now(UTC)
    (delivery,) = store.claim(list(scan(home / "inbox").items()), "me", now, 60)
    store.postpone(delivery, now, Failure("cannot_read", "Permission denied."))
    store.close()
    (waiting,) = run("status", "--json").json["waiting"]
    assert waiting["path"] == "caf\\xe9\n\x1b[31m.png"
    assert (waiting["state"], waiting["reason"]) == ("retry", "Permission denied.")
    text = run("status").text
    assert "caf\\xe9\\n\\x1b[31m.png" in text
    assert "Permission denied." in text


def test_files_that_policy_keep_has_left_are_not_waiting(
    run: Call, start: Call, home: Path, paint: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIGEONHOLE_AFTER", "keep")
    (home / "inbox").mkdir()
    (home / "inbox" / "red.png").write_bytes(paint("red"))
    assert start("watch", "--once").end().code == 0
    assert (home / "inbox" / "red.png").exists()
    assert run("status", "--json").json["inbox"]["files"] == 0


def test_a_broken_model_is_said_and_the_rest_is_shown(run: Call, home: Path) -> None:
    (home / "models" / "current" / "bundle.json").write_text("{")
    done = run("status", "--json")
    assert done.code == 0
    assert "make train" in done.json["model"]["error"]
