"""Killed before every single step of a batch, under every policy (G2)."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from storage.results import Result, ResultFilter
from storage.store import Store

pytestmark = pytest.mark.timeout(1200)  # of a busy machine, or in the long form

DRIVER = Path(__file__).parent / "drivers" / "crash.py"
Paint = Callable[..., bytes]
Say = Callable[[object], None]


@pytest.fixture
def template(tmp_path: Path, paint: Paint) -> Path:
    """A home that nobody has worked in yet: a good file, a bad one, a good one further down."""
    home = tmp_path / "template"
    (home / "inbox" / "trip").mkdir(parents=True)
    Store.open(f"sqlite:///{home / 'pigeonhole.db'}").close()
    (home / "inbox" / "a.png").write_bytes(paint("red"))
    (home / "inbox" / "b.png").write_bytes(b"bad")
    (home / "inbox" / "trip" / "c.png").write_bytes(paint("red"))  # the bytes of the first
    return home


@pytest.mark.guarantee("G2")
@pytest.mark.parametrize("policy", ["sort", "archive", "keep", "delete"])
def test_a_kill_before_any_step_costs_nothing(
    policy: str, template: Path, rgb_bundle: Path, tmp_path: Path, paint: Paint,
    seed: int, soak: bool, say: Say,
) -> None:  # fmt: skip
    """Every step in the long form, every fifth one in the short form."""
    first, stride = (0, 1) if soak else (seed % 5, 5)
    homes = tmp_path / "homes"
    homes.mkdir()
    done = subprocess.run(
        [sys.executable, DRIVER, policy, rgb_bundle, template, homes, str(first), str(stride)],
        env={**os.environ, "PYTHONPATH": str(DRIVER.parents[3])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    ends = done.stdout.splitlines()
    assert ends[-1] == "0 0", "the last try was not killed"
    assert set(ends[:-1]) == {f"{-signal.SIGKILL} 0"}
    assert len(ends) * stride > 40, "every step was one to be killed at"
    for home in sorted(homes.iterdir()):
        is_whole(home, policy, paint("red"))
        shutil.rmtree(home)
    say(f"G2 {policy}: {len(ends) - 1} crash points, none of them lost or doubled anything")


def is_whole(home: Path, policy: str, good: bytes) -> None:
    where = home.name
    with closing(Store.open(f"sqlite:///{home / 'pigeonhole.db'}")) as store:
        rows = list(store.stream(ResultFilter(), order="asc"))
        left = [*store.waiting(), *store.owners()]
    assert left == [], where
    assert sorted(row.filename for row in rows) == ["a.png", "b.png", "c.png"], where
    assert len({row.id for row in rows} & {row.duplicate_of for row in rows}) == 1, where
    kept = {
        str(path.relative_to(home)): path.read_bytes()
        for folder in ("inbox", "sorted", "archive", "quarantine")
        for path in (home / folder).rglob("*")
        if path.is_file()
    }
    bad = next(row for row in rows if row.status == "quarantined")
    reason = json.loads(kept.pop("quarantine/b.png.reason.json"))
    assert reason["id"] == bad.id, where
    assert kept.pop("quarantine/b.png") == b"bad", where
    if policy == "keep":
        assert kept.pop("inbox/b.png") == b"bad", where
    assert Counter(kept.values()) == ({} if policy == "delete" else {good: 2}), where
    assert set(kept) == places(rows, policy), where


def places(rows: list[Result], policy: str) -> set[str]:
    """Where the two good files must be, as their rows say it."""
    good = [row for row in rows if row.status == "classified"]
    if policy == "delete":
        assert {row.path for row in good} == {None}
        return set()
    folders = {"sort": "sorted/red", "keep": "inbox"}
    folder = folders.get(policy) or f"archive/{good[0].classified_at:%Y/%m/%d}"
    expected = {f"{folder}/a.png", f"{folder}/trip/c.png"}
    assert {row.path for row in good} == expected
    return expected
