"""`pigeonhole up`, `watch` and `serve` as real processes."""

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

Call = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("home")


Process = Any  # what `start` returns


def answers(port: int) -> bool:
    """Whether somebody at this port is ready."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture
def running(start: Call, wait_for: Call, ports: tuple[int, int]) -> Process:
    """`pigeonhole up`, both children ready."""
    process = start("up")
    wait_for(lambda: "Pigeonhole is ready." in process.said)
    assert all(map(answers, ports))
    return process


def test_ctrl_c_ends_both_gracefully(running: Process, ports: tuple[int, int], home: Path) -> None:
    children = running.children()
    done = running.end(signal.SIGINT)
    assert (done.code, done.out) == (0, b"")
    assert f"http://127.0.0.1:{ports[0]}/docs" in done.err
    assert f"http://127.0.0.1:{ports[1]}/metrics" in done.err
    assert str(home / "inbox") in done.err
    assert done.err.count("stopped") == 2  # each child said so: neither was killed
    assert "Traceback" not in done.err
    assert set(children) == {"watch", "serve"}
    assert not any(map(psutil.pid_exists, children.values()))


def test_a_child_that_dies_is_started_again_and_works(
    running: Process,
    wait_for: Call,
    ports: tuple[int, int],
    home: Path,
    paint: Call,
) -> None:
    children = running.children()
    for pid in children.values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(new := running.children()) == 2 and new != children)
    wait_for(lambda: all(map(answers, ports)))
    (home / "inbox" / "red.png").write_bytes(paint("red"))
    wait_for((home / "sorted" / "red" / "red.png").exists)
    done = running.end(signal.SIGTERM)
    assert done.code == 0
    for name in ("watcher", "api"):
        assert f"child='{name}' ended='SIGKILL' in_s=0.5" in done.err
    assert done.err.count("Pigeonhole is ready.") == 1


def test_children_end_when_their_supervisor_is_killed(running: Process, wait_for: Call) -> None:
    children = running.children()
    assert len(children) == 2
    running.end(signal.SIGKILL)
    wait_for(lambda: not any(map(psutil.pid_exists, children.values())))


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_taken_port_is_said_before_anything_starts(
    start: Call, ports: tuple[int, int], home: Path, command: str
) -> None:
    variables = {"up": "PIGEONHOLE_PORT", "demo": "PIGEONHOLE_WATCHER_METRICS_PORT"}
    port = dict(zip(variables, ports, strict=True))[command]
    with socket.create_server(("127.0.0.1", port)):
        done = start(command).end()
    assert done.code == 1
    assert f"port {port} is in use" in done.err
    assert f"set {variables[command]}" in done.err
    assert not (home / "inbox").exists()


def test_a_json_log_is_json_in_every_line(
    start: Call, wait_for: Call, ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIGEONHOLE_LOG_FORMAT", "json")
    process = start("up")
    wait_for(lambda: '"ready"' in process.said)
    done = process.end(signal.SIGHUP)
    assert done.code == 0
    lines = [json.loads(line) for line in done.err.splitlines()]
    (ready,) = [line for line in lines if line["event"] == "ready"]
    assert ready["docs"] == f"http://127.0.0.1:{ports[0]}/docs"
    assert {line["process"] for line in lines} == {"up", "watcher", "api"}


def test_a_folder_named_core_where_the_user_stands_is_not_ours(
    start: Call, wait_for: Call, ports: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise RuntimeError('a stranger')")
    process = start("up")
    wait_for(lambda: all(map(answers, ports)))
    assert process.end(signal.SIGTERM).code == 0


def test_doctor_and_status_know_that_we_run(
    running: Process,
    run: Call,
    ports: tuple[int, int],
) -> None:
    states = run("status", "--json").json["processes"]
    assert {process["state"] for process in states.values()} == {"ready"}
    findings = {item["check"]: item for item in run("doctor", "--json").json["findings"]}
    for port in ports:
        assert findings[f"port {port}"]["level"] == "ok"
        assert "a running Pigeonhole has it" in findings[f"port {port}"]["text"]
    assert running.end(signal.SIGTERM).code == 0


def test_watch_once_empties_the_inbox_and_tells_by_its_exit_code(
    start: Call, home: Path, paint: Call
) -> None:
    inbox = home / "inbox"
    inbox.mkdir()
    (inbox / "green.png").write_bytes(paint("green"))
    assert start("watch", "--once").end().code == 0
    assert (home / "sorted" / "green" / "green.png").exists()
    (inbox / "broken.png").write_bytes(b"\x89PNG broken")
    assert start("watch", "--once").end().code == 1
    assert (home / "quarantine" / "broken.png").exists()


def test_serve_serves(start: Call, wait_for: Call, ports: tuple[int, int]) -> None:
    process = start("serve")
    wait_for(lambda: answers(ports[0]))
    done = process.end(signal.SIGTERM)
    assert done.code == 0
    assert "listening" in done.err


def test_an_open_door_needs_a_key(start: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIGEONHOLE_HOST", "0.0.0.0")
    done = start("serve").end()
    assert done.code == 1
    assert "PIGEONHOLE_API_KEY" in done.err
    assert "Traceback" not in done.err
