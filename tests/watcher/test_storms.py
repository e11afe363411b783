"""Killed with -9 at any moment, alone or among others: one row for every file (G1, G6)."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.results import Result
from storage.store import Store
from tests.watcher.storm import Nursery, Sender, check, storm

pytestmark = pytest.mark.timeout(1200)  # of a busy machine, or in the long form

Rows = Callable[[], list[Result]]
Say = Callable[[object], None]


@pytest.mark.guarantee("G1")
def test_kill_9_at_any_moment_and_every_file_has_one_row(
    home: Path, tmp_path: Path, store: Store, rows: Rows, seed: int, soak: bool, say: Say
) -> None:
    files, kills = (10_000, 200) if soak else (1_000, 40)
    sender = Sender(home / "inbox", random.Random(seed))
    with Nursery(home, tmp_path / "watcher.log") as nursery:
        figures = storm(nursery, sender, store, files=files, kills=kills)
    say(f"G1 seed {seed}: {figures}")
    check(figures, home, rows(), sender)
    say("G1: sha256 of files and rows equal, every file where its row says, integrity_check ok")


@pytest.mark.guarantee("G6")
def test_four_watchers_share_an_inbox_while_any_of_them_is_killed(
    home: Path, tmp_path: Path, store: Store, rows: Rows, seed: int, soak: bool, say: Say
) -> None:
    files, kills, at_once = (10_000, 100, 1_000) if soak else (400, 8, 200)
    batch = 16
    sender = Sender(home / "inbox", random.Random(seed))
    log = tmp_path / "watcher.log"
    with Nursery(home, log, lease_s=2.0, BATCH_SIZE=str(batch)) as nursery:
        figures = storm(
            nursery, sender, store, files=files, kills=kills, watchers=4, at_once=at_once
        )
    say(f"G6 seed {seed}, 4 watchers: {figures}")
    say(f"G6: {at_once} more at once with nobody killed, {figures.inferred_at_once} inferences")
    check(figures, home, rows(), sender)
    assert figures.inferred <= figures.files + kills * batch, "nobody does what another has done"
    assert figures.inferred_at_once <= at_once, "nor what another does in this moment"
