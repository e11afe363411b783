"""`pigeonhole doctor`: what could go wrong here, with the fix for each."""

import json
import os
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.registry import Registry
from tests import namespace

Call = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("home", "ports")


@pytest.fixture
def examine(run: Call) -> Call:
    """`examine()`: the exit code, and (level, text, fix) by check."""

    def examine() -> tuple[int, dict[str, tuple[str, str, str]]]:
        done = run("doctor", "--json")
        found = {
            item["check"]: (item["level"], item["text"], item["fix"])
            for item in done.json["findings"]
        }
        assert all(fix or level == "ok" for level, _, fix in found.values())
        assert done.json["ok"] == (done.code == 0)
        return done.code, found

    return examine


def test_a_healthy_machine_has_no_problem_and_nothing_is_left_behind(
    examine: Call, home: Path, record: Call
) -> None:
    record("one.png")
    (home / "inbox").mkdir()
    before = sorted(home.rglob("*"))
    code, found = examine()
    assert code == 0
    assert {level for level, _, _ in found.values()} <= {"ok", "warning"}
    assert {"system", "clock", "home", "inbox", "inbox to home", "mounts"} < set(found)
    assert {"disk of home", "file events", "database", "model"} < set(found)
    assert found["database"][0] == found["model"][0] == found["home"][0] == "ok"
    assert sorted(home.rglob("*")) == before


def test_before_the_first_start_no_folder_is_made(
    examine: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIGEONHOLE_HOME", str(tmp_path / "not" / "yet"))
    before = sorted(tmp_path.rglob("*"))
    code, found = examine()
    assert code == 0
    assert f"will be made in {tmp_path}" in found["home"][1]
    assert found["database"][0] == "ok"
    assert sorted(tmp_path.rglob("*")) == before


def test_people_read_the_fix_below_the_finding(run: Call, home: Path) -> None:
    (home / "pigeonhole.db").write_bytes(b"no database" * 1000)
    done = run("doctor")
    assert done.code == 1
    assert "fix: Stop Pigeonhole and restore the file from a backup." in done.text
    assert "1 problem, 0 warnings." in done.err


def test_a_folder_that_cannot_be_written_is_a_problem(
    examine: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("in the way")
    monkeypatch.setenv("PIGEONHOLE_INBOX", str(home / "file" / "inbox"))
    code, found = examine()
    assert code == 1
    assert found["inbox"][0] == "problem"
    assert "PIGEONHOLE_INBOX" in found["inbox"][2]


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a read-only folder, also for root")
def test_a_read_only_inbox_is_fine_for_policy_keep_alone(
    examine: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIGEONHOLE_INBOX", "/sys/kernel")
    assert examine()[1]["inbox"][0] == "problem"
    monkeypatch.setenv("PIGEONHOLE_AFTER", "keep")
    assert examine()[1]["inbox"][0] == "ok"


@pytest.mark.skipif(
    not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == os.stat("/tmp").st_dev,  # noqa: PTH116
    reason="needs a second file system",
)
def test_an_inbox_on_another_file_system_is_a_warning(
    examine: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIGEONHOLE_INBOX", "/dev/shm/pigeonhole-inbox")
    code, found = examine()
    assert code == 0
    assert found["inbox to home"][0] == "warning"
    assert "copied" in found["inbox to home"][1]


def test_a_database_without_wal_is_a_warning(examine: Call, home: Path) -> None:
    with closing(sqlite3.connect(home / "pigeonhole.db")) as connection:
        connection.execute("CREATE TABLE any (thing)")
    assert examine()[1]["database"][0] == "warning"


def test_a_damaged_database_is_a_problem(examine: Call, home: Path, record: Call) -> None:
    for number in range(60):
        record(f"{number}.png")
    with closing(sqlite3.connect(home / "pigeonhole.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (home / "pigeonhole.db").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(8 * 4096))
    code, found = examine()
    assert code == 1
    assert found["database"][0] == "problem"


def test_a_server_that_does_not_answer_is_a_problem(
    examine: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://me:swordfish@127.0.0.1:1/pigeonhole"
    monkeypatch.setenv("PIGEONHOLE_DATABASE_URL", url)
    code, found = examine()
    assert code == 1
    assert found["database"][0] == "problem"
    assert "swordfish" not in str(found)


def test_a_model_that_does_not_load_is_a_problem(examine: Call, home: Path) -> None:
    (home / "models" / "current" / "model.onnx").write_bytes(b"altered")
    code, found = examine()
    assert code == 1
    assert found["model"][0] == "problem"


def test_a_result_of_tomorrow_betrays_the_clock(examine: Call, record: Call) -> None:
    record("early.png", now=datetime.now(UTC) + timedelta(days=1))
    assert examine()[1]["clock"][0] == "warning"


def test_a_port_that_a_stranger_has_is_a_problem(examine: Call, ports: tuple[int, int]) -> None:
    with socket.create_server(("127.0.0.1", ports[0])):
        code, found = examine()
    assert code == 1
    assert found[f"port {ports[0]}"][0] == "problem"
    assert "PIGEONHOLE_PORT" in found[f"port {ports[0]}"][2]
    assert found[f"port {ports[1]}"][0] == "ok"


def test_it_runs_where_no_inotify_instance_is_left() -> None:
    """Not one more may be had; the finding is a problem, with its fix."""
    program = "from pigeonhole.__main__ import main\nmain(['doctor', '--json'])\n"
    done = namespace.run(program, max_inotify_instances=0)
    (found,) = [
        item for item in json.loads(done.stdout)["findings"] if item["check"] == "file events"
    ]
    assert found["level"] == "problem", done.stderr
    assert "max_user_instances" in found["fix"]


def test_a_damaged_model_that_could_be_gone_back_to_is_a_warning(
    examine: Call, home: Path, french_bundle: Path
) -> None:
    registry = Registry(home)
    registry.install(french_bundle)
    (item,) = registry.installed()
    (item.folder / "labels.txt").unlink()
    _, found = examine()
    level, text, fix = found[f"model {item.version}"]
    assert level == "warning"
    assert "labels.txt is missing" in text
    assert str(item.folder) in fix
