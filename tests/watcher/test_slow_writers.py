"""G5: nothing is read half-written, whatever the writer does."""

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from storage.results import Result
from watcher.daemon import Watcher

Rows = Callable[[], list[Result]]
Until = Callable[..., None]
Watch = Callable[..., Watcher]

SETTLE_S = 1.5
WRITERS, CHUNKS = 40, 16


@dataclass
class Writer:
    """Writes in pieces, and closes the file four times on the way, as scanners do."""

    path: Path
    data: bytes
    longest_gap_s: float = 0.0

    def write(self) -> None:
        step = -(-len(self.data) // CHUNKS)
        pieces = [self.data[at : at + step] for at in range(0, len(self.data), step)]
        last_s = time.monotonic()
        for number, piece in enumerate(pieces):
            with self.path.open("ab", buffering=0) as file:
                file.write(piece)
                now_s = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now_s - last_s)
                last_s = now_s
                if number % 4:
                    time.sleep(0.1)
            time.sleep(0.4 if number % 4 == 0 else 0)


@pytest.mark.guarantee("G5")
def test_a_file_that_is_written_in_pieces_and_reopened_is_read_when_it_is_whole(
    watch: Watch, home: Path, rows: Rows, until: Until
) -> None:
    noise = np.random.default_rng(20261125)
    writers = []
    for number in range(WRITERS):
        pixels = noise.integers(0, 256, (40, 3 * (40 + number)), np.uint8).tobytes()
        data = f"P6 {40 + number} 40 255\n".encode() + pixels
        writers.append(Writer(home / "inbox" / f"{number}.ppm", data))
    watch(settle_s=SETTLE_S, heartbeat_s=0)
    threads = [threading.Thread(target=writer.write) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {writer.path.name: writer for writer in writers}
    # On a machine so busy that a writer stood still for longer than a file must settle, its file
    # may rightly be read in the middle; then it says nothing about us.
    fair = {name for name, writer in names.items() if writer.longest_gap_s < 0.8 * SETTLE_S}
    assert len(fair) > WRITERS / 2, "this machine is too busy to say anything"
    until(lambda: fair <= {row.filename for row in rows()}, "every file has its row", 90)
    found = [row for row in rows() if row.filename in fair]
    assert len(found) == len(fair), "one row each"
    for row in found:
        assert row.sha256 == hashlib.sha256(names[row.filename].data).hexdigest(), row.filename
        assert row.size_bytes == len(names[row.filename].data)


def test_a_file_that_is_renamed_in_need_not_settle(
    watch: Watch, home: Path, rows: Rows, until: Until, paint: Callable[..., bytes]
) -> None:
    """It was whole before it got its name: an hour of patience is for others."""
    watcher = watch(settle_s=3600.0, heartbeat_s=0)
    until(lambda: watcher.stalled() is None, "it runs")
    time.sleep(0.5)
    (home / "a.png").write_bytes(paint("red"))
    (home / "a.png").rename(home / "inbox" / "a.png")
    (home / "inbox" / "b.png").write_bytes(paint("blue"))
    until(lambda: len(rows()) == 1, "it has its row", 60)
    assert rows()[0].filename == "a.png"
