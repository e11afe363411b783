"""G17: the clock of the machine jumps, and nothing stands still."""

import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.types import Failure
from storage.inbox import scan
from storage.results import Result
from storage.store import Store
from watcher.daemon import Watcher

Rows = Callable[[], list[Result]]
Paint = Callable[..., bytes]
Until = Callable[..., None]
Start = Callable[..., subprocess.Popen[bytes]]

LIBRARIES = ("/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")


@pytest.fixture(scope="module")
def libfaketime() -> str:
    """Debian's package `faketime`."""
    if shutil.which("faketime") is None:
        pytest.skip("needs libfaketime: apt install faketime")
    found = (path for top in LIBRARIES for path in Path(top).rglob("libfaketimeMT.so.1"))
    library = next(found, None)
    if library is None:
        pytest.skip("faketime is installed, but not its libfaketimeMT.so.1")
    return str(library)


@pytest.fixture
def clock(tmp_path: Path, libfaketime: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is written into this file shifts the wall clock of processes that start from now on."""
    file = tmp_path / "clock"
    file.write_text("+0")
    monkeypatch.setenv("LD_PRELOAD", libfaketime)
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(file))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")  # the kernel's does not jump either
    monkeypatch.setenv("NO_FAKE_STAT", "1")  # files of an earlier time stay as they are
    return file


@pytest.mark.guarantee("G17")
def test_files_are_classified_at_once_whatever_the_clock_does(
    start: Start, home: Path, tmp_path: Path, clock: Path, rows: Rows, until: Until, paint: Paint
) -> None:
    process = start(RECONCILE_S="3600")
    log = tmp_path / "watcher.log"
    until(lambda: "watching" in log.read_text(), "it has started", 90)
    for number, shift in enumerate(["+0", "-3600", "+86400", "-86400", "+0"]):
        clock.write_text(shift)
        (home / "inbox" / f"{number}.png").write_bytes(paint("red", (20 + number, 20)))
        until(lambda number=number: len(rows()) == number + 1, f"at {shift} it has its row", 30)
        wanted = datetime.now(UTC) + timedelta(seconds=int(shift))
        off = rows()[-1].classified_at - wanted
        assert abs(off) < timedelta(minutes=5), "the clock has jumped for the watcher indeed"
    process.terminate()
    assert process.wait(60) == 0


@pytest.mark.guarantee("G17")
def test_a_retry_and_the_claim_of_another_host_outlive_a_clock_that_is_set_back(
    watch: Callable[..., Watcher], home: Path, rows: Rows, until: Until, paint: Paint, store: Store
) -> None:
    """Both are held until a time that would now come in an hour."""
    for name in ("retried.png", "claimed.png"):
        (home / "inbox" / name).write_bytes(paint("red"))
    listed = scan(home / "inbox")
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    (retried,) = store.claim([("retried.png", listed["retried.png"])], "me", in_an_hour, 60)
    store.postpone(retried, in_an_hour, Failure("cannot_read", "Input/output error."))
    other = "another-host|boot|1|2"
    store.claim([("claimed.png", listed["claimed.png"])], other, in_an_hour, 60)
    watch(heartbeat_s=0)
    until(lambda: len(rows()) == 2, "both have their rows", 60)
