"""`pigeonhole pause`, `resume` and `retry`, as they are typed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("home", "ports")


def test_pause_and_resume_say_what_they_did_and_status_shows_it(run: Call, home: Path) -> None:
    assert run("pause").code == 0
    assert (home / "paused").exists()
    assert "paused already" in run("pause").err.lower()
    assert run("status", "--json").json["inbox"]["paused_since"]
    assert "pigeonhole resume" in run("status").text
    assert run("resume").code == 0
    assert run("status", "--json").json["inbox"]["paused_since"] is None
    assert "Nothing was paused" in run("resume").err


def test_a_quarantined_file_can_be_tried_again_by_any_of_its_names(
    run: Call, start: Call, home: Path
) -> None:
    (home / "inbox").mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png", "e.png"):
        (home / "inbox" / name).write_bytes(name.encode())
    assert start("watch", "--once").end().code == 1
    (home.parent / "elsewhere").symlink_to(home / "quarantine")
    names = [
        "a.png",
        "quarantine/b.png",
        str(home / "quarantine" / "c.png"),
        str(home.parent / "elsewhere" / "d.png"),
    ]
    done = run("retry", *names)
    assert done.code == 0
    back = [str(home / "inbox" / name) for name in ("a.png", "b.png", "c.png", "d.png")]
    assert done.text.splitlines() == back
    assert run("retry", "a.png").code == 1, "it is no longer there"
    assert run("retry", str(home / "inbox" / ".." / "pigeonhole.db")).code == 1, "not from there"
    assert run("retry", "--all").text.splitlines() == [str(home / "inbox" / "e.png")]
    assert run("retry").code == 2, "nothing was named"
    assert start("watch", "--once").end().code == 1
    quarantined = run("results", "--status", "quarantined", "--format", "json").json
    assert len(quarantined) == 10, "the old rows stay"
    assert sum(row["path"] is None for row in quarantined) == 5
    assert sum(row["duplicate_of"] is not None for row in quarantined) == 5
