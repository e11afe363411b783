"""`pigeonhole demo`: everything at once, on the real samples and the starter model."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings but the ports, and nothing there: as after `git clone`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("fresh", "ports")
def test_once_shows_every_sample_and_ends_well_also_the_second_time(start: Call, run: Call) -> None:
    first, second = start("demo", "--once").end(), start("demo", "--once").end()
    for done in (first, second):
        assert done.code == 0
        heading, *lines = done.text.splitlines()
        assert heading.split() == ["sample", "label", "confidence"]
        assert len(lines) == 10
        assert "10 samples classified" in done.err
    rows = run("results", "--order", "asc").lines
    assert len(rows) == 20
    assert {row["status"] for row in rows} == {"classified"}
    assert [bool(row["duplicate_of"]) for row in rows] == [False] * 10 + [True] * 10
    wanted = sorted(row["filename"] for row in rows)
    shown = [line.split()[0] for done in (first, second) for line in done.text.splitlines()[1:]]
    assert sorted(shown) == wanted


@pytest.mark.usefixtures("fresh")
def test_without_once_it_stays_until_a_signal(
    start: Call, wait_for: Call, ports: tuple[int, int]
) -> None:
    process = start("demo")
    wait_for(lambda: "Pigeonhole is ready." in process.said)
    done = process.end(signal.SIGINT)
    assert done.code == 0
    assert len(done.text.splitlines()) == 11
    assert f"http://127.0.0.1:{ports[0]}/" in done.err


@pytest.mark.usefixtures("ports")
def test_once_fails_when_a_sample_has_no_classified_row(
    start: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIGEONHOLE_MAX_PIXELS", "1")
    done = start("demo", "--once").end()
    assert done.code == 1
    assert "10 samples not classified" in done.err
    assert "Raise PIGEONHOLE_MAX_PIXELS" in done.text
    assert home.exists()
