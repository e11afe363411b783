"""More files at once than the kernel keeps events for (G3)."""

import io
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from storage.store import Store

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
pytestmark = pytest.mark.timeout(1200)  # of a busy machine, or in the long form

Start = Callable[..., subprocess.Popen[bytes]]
Until = Callable[..., None]
Say = Callable[[object], None]


@pytest.mark.guarantee("G3")
def test_a_burst_while_the_watcher_stands_still_loses_no_file(
    start: Start, home: Path, store: Store, until: Until, paint: Callable[..., bytes],
    seed: int, soak: bool, say: Say,
) -> None:  # fmt: skip
    """The kernel has no room for a single event of these files, and no rescan is due."""
    files = 20_000 if soak else 1_000
    chance = random.Random(seed)
    process = start(RECONCILE_S="100000", HEARTBEAT_S="0")
    (home / "inbox" / "first.png").write_bytes(paint("red"))
    until(lambda: store.count() == 1, "it watches")
    until(lambda: not any(path.suffix == ".png" for path in (home / "inbox").iterdir()), "is done")
    time.sleep(3)  # and at rest: a loop that still turns would find them without being woken
    process.send_signal(signal.SIGSTOP)
    fill_the_queue(home / "inbox")
    for number in range(files):
        content = io.BytesIO()
        Image.frombytes("RGB", (4, 4), chance.randbytes(48) if soak else bytes(48)).save(
            content, "PNG"
        )
        (home / "inbox" / f"{number}.png").write_bytes(content.getvalue())
    process.send_signal(signal.SIGCONT)
    started_s = time.monotonic()
    until(lambda: store.count() == files + 1, "all have their row", 600 if soak else 100)
    say(f"G3: {files} of {files} files after SIGCONT, in {time.monotonic() - started_s:.1f} s")


def fill_the_queue(inbox: Path) -> None:
    """Events of two ignored files in turn, since equal ones are merged; those after it are lost."""
    limit = int(QUEUE.read_text("ascii")) if QUEUE.exists() else 0
    if limit > 50_000:
        pytest.skip(f"the kernel's queue holds {limit} events: filling it takes too long")
    for number in range(limit + 100):
        (inbox / f"{number % 2}.part").write_bytes(b"")
