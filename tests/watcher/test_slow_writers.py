"""G5: nothing is read half-written, whatever the writer does."""

import hashlib
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from storage.results import Result
from watcher.daemon import Watcher

Rows = Callable[[], list[Result]]
Until = Callable[..., None]
Watch = Callable[..., Watcher]

SETTLE_S = 1.5
WRITERS, WRITERS_SOAK, ROUNDS_SOAK = 40, 200, 5
CHUNKS, LENGTH_S = 64, 3.0
REOPENED, REOPENED_S = 3, 0.8


class Whole(NamedTuple):
    """A file as it was when its writer was done."""

    sha256: str
    size_bytes: int
    done_at: datetime


@dataclass
class Writer:
    """64 pieces in three seconds, and on the way three times closed for 0.8 s, as scanners do."""

    path: Path
    data: bytes
    longest_gap_s: float = 0.0
    done_at: datetime = field(init=False)

    def write(self) -> None:
        step = -(-len(self.data) // CHUNKS)
        pieces = [self.data[at : at + step] for at in range(0, len(self.data), step)]
        per_opening = -(-len(pieces) // (REOPENED + 1))
        last_s = time.monotonic()
        for opening in range(0, len(pieces), per_opening):
            if opening:
                time.sleep(REOPENED_S)
            with self.path.open("ab", buffering=0) as file:
                for piece in pieces[opening : opening + per_opening]:
                    file.write(piece)
                    now_s = time.monotonic()
                    self.longest_gap_s = max(self.longest_gap_s, now_s - last_s)
                    last_s = now_s
                    time.sleep(LENGTH_S / CHUNKS)
        self.done_at = datetime.now(UTC)


@pytest.mark.guarantee("G5")
@pytest.mark.timeout(1200)
def test_a_file_that_is_written_in_pieces_and_reopened_is_read_when_it_is_whole(
    watch: Watch, home: Path, rows: Rows, until: Until, soak: bool, say: Callable[[object], None]
) -> None:
    """Pictures of a megabyte; 40 at once, in the long form five times 200."""
    noise = np.random.default_rng(20261125).integers(0, 256, 3 * 700 * 600, np.uint8).tobytes()
    writers, rounds = (WRITERS_SOAK, ROUNDS_SOAK) if soak else (WRITERS, 1)
    watch(settle_s=SETTLE_S, heartbeat_s=0, after="delete")
    fair: dict[str, Whole] = {}  # what was written under which name
    for beginning in range(0, writers * rounds, writers):
        fair |= write_at_once(home / "inbox", noise, range(beginning, beginning + writers))
    until(lambda: fair.keys() <= {row.filename for row in rows()}, "each has its row", 200)
    found = [row for row in rows() if row.filename in fair]
    assert len(found) == len(fair), "one row each"
    for row in found:
        assert (row.sha256, row.size_bytes) == fair[row.filename][:2], row.filename
    waits_s = [(row.classified_at - fair[row.filename].done_at).total_seconds() for row in found]
    say(
        f"G5: {len(found)} of {len(found)} read whole, {writers} writers at once; row "
        f"{statistics.median(waits_s):.2f} s after the last byte (median; {SETTLE_S} s to settle)"
    )


def write_at_once(inbox: Path, noise: bytes, numbers: range) -> dict[str, Whole]:
    """What was written under which name, of those writers of whom something can be said.

    On a machine so busy that a writer stood still for nearly as long as a file must settle, its
    file may rightly be read in the middle; then it says nothing about us.
    """
    writers = []
    for number in numbers:
        data = f"P6 {600 - number % 200} 583 255\n".encode()
        data += noise[number : number + 3 * (600 - number % 200) * 583]
        writers.append(Writer(inbox / f"{number}.ppm", data))
    threads = [threading.Thread(target=writer.write) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fair = [writer for writer in writers if writer.longest_gap_s < 0.8 * SETTLE_S]
    assert len(fair) > len(writers) / 2, "this machine is too busy to say anything"
    return {
        each.path.name: Whole(hashlib.sha256(each.data).hexdigest(), len(each.data), each.done_at)
        for each in fair
    }


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
