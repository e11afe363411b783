"""A home of its own for every test, and the command line in it: in this process or in another."""

import hashlib
import json
import os
import pty
import shutil
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.types import Failure, ImageInfo, ImageRef, LabelScore, ModelRef, Outcome, Prediction
from pigeonhole.__main__ import main
from storage.results import Result, Source
from storage.store import Finished, Store

Call = Callable[..., Any]

_ROOT = str(Path(__file__).resolve().parents[2])
MODEL = ModelRef("rgb", "0123456789ab")
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

# What people, mail programs and attackers put into names.
HOSTILE = (
    "=cmd|' C calc'!A0.png",
    "-2+3.png",
    "+1.png",
    "@SUM(A1).png",
    "\tstarts with a tab.png",
    "\rstarts with a return.png",
    "'quoted'.png",
    "two\nlines.png",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07.png",
    "\x9b31m.png",
    "[bold red]markup[/bold red] :smile:.png",
    "[/].png",
    "\u202egnp.exe.png",
    'comma, "quote" and ; semicolon.png',
    "日本語 🏺.png",
    "\u2028line separator.png",
)
NOT_UTF8 = os.fsdecode(b"caf\xe9.png")


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    """Names that a row may have."""
    return HOSTILE


@pytest.fixture
def hostile_files(tmp_path: Path, paint: Callable[..., bytes]) -> Path:
    """A folder of images under these names, and one more that is not UTF-8."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in (*HOSTILE, NOT_UTF8):
        (folder / name.replace("/", "")).write_bytes(paint("blue"))
    return folder


@dataclass(frozen=True, slots=True)
class Done:
    """A command line that has ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8")

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever JSON holds
        return json.loads(self.out)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def home(tmp_path: Path, rgb_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PIGEONHOLE_HOME with the model of the three colours; the test stands beside it."""
    folder = tmp_path / "home"
    shutil.copytree(rgb_bundle, folder / "models" / "current")
    monkeypatch.setenv("PIGEONHOLE_HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Done]:
    """`run("status", "--json")`: the command line in this process."""

    def run(*arguments: str) -> Done:
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsysbinary.readouterr()
        return Done(int(ended.value.code or 0), out, err.decode("utf-8"))

    return run


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Two free ports, set as those of the API and of the watcher."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        found = one.getsockname()[1], two.getsockname()[1]
    monkeypatch.setenv("PIGEONHOLE_PORT", str(found[0]))
    monkeypatch.setenv("PIGEONHOLE_WATCHER_METRICS_PORT", str(found[1]))
    return found


class Process:
    """A command line in a process of its own; what it says is kept in a file."""

    def __init__(self, arguments: tuple[str, ...], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "pigeonhole", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, "PYTHONPATH": _ROOT},
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8")

    def end(self, number: int | None = None) -> Done:
        """Send a signal, wait for the end."""
        if number is not None:
            self.popen.send_signal(number)
        out, _ = self.popen.communicate(timeout=60)
        return Done(self.popen.returncode, out, self.said)

    def children(self) -> dict[str, int]:
        """The process ids below it, by command."""
        found = {}
        for child in psutil.Process(self.pid).children():
            with suppress(psutil.NoSuchProcess):  # or it is a zombie
                command = child.cmdline()
                if "pigeonhole.child" in command:
                    found[command[-1]] = child.pid
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """`start("up")`: a process; none outlives the test."""
    started: list[Process] = []

    def start(*arguments: str) -> Process:
        process = Process(arguments, tmp_path / f"stderr-{len(started)}.txt")
        started.append(process)
        return process

    yield start
    for process in started:
        process.popen.kill()
        process.popen.communicate()


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], Any]], Any]:
    """`wait_for(claim)`: until it is true; returns what it said."""

    def wait_for(claim: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the claim said
        deadline_s = time.monotonic() + 45
        while not (found := claim()):
            assert time.monotonic() < deadline_s, "it did not happen"
            time.sleep(0.02)
        return found

    return wait_for


def _prediction(label: str = "red", confidence: float = 0.9) -> Prediction:
    scores = (LabelScore(label, confidence), LabelScore("other", round(1 - confidence, 7)))
    return Prediction(label, confidence, scores, MODEL, ImageInfo(4, 3, "PNG"))


FAILURE = Failure("unreadable_image", "=The image\nis damaged.")


@pytest.fixture
def record(home: Path) -> Iterator[Callable[..., Result]]:
    """`record("a.png", "red", 0.9)`: one more row in the database; label None: quarantined."""
    store = Store.open(f"sqlite:///{home / 'pigeonhole.db'}")

    def record(
        filename: str,
        label: str | None = "red",
        confidence: float = 0.9,
        source: Source = "watcher",
        now: datetime = NOW,
    ) -> Result:
        outcome: Outcome = FAILURE if label is None else _prediction(label, confidence)
        digest = hashlib.sha256(filename.encode()).hexdigest()
        finished = Finished(ImageRef(digest, filename, 7), outcome, NOW, 1.5)
        (row,) = store.record([finished], source=source, model=MODEL, min_confidence=0.5, now=now)
        assert row is not None
        return row

    yield record
    store.close()


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """`contents(folder)`: every file below it, with its bytes."""

    def contents(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return contents


@pytest.fixture
def terminal() -> Callable[..., bytes]:
    """`terminal("status")`: all that a command line writes to a terminal of 100 columns."""

    def terminal(*arguments: str, **environ: str) -> bytes:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, 100))
        process = subprocess.Popen(
            [sys.executable, "-m", "pigeonhole", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": _ROOT, **environ},
        )
        os.close(theirs)
        shown = b"".join(_until_closed(ours))
        os.close(ours)
        assert process.wait(timeout=60) in (0, 1)
        return shown

    return terminal


def _until_closed(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(descriptor, 65_536)
        except OSError:  # Linux: EIO when nobody has the other end any more
            return
        if not data:
            return
        yield data
