"""`pigeonhole results`: the filters of REST over what is stored."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]

EARLY = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def rows(record: Call) -> None:
    """Four rows that differ in everything that can be asked for."""
    record("one.png", "red", 0.9, now=EARLY)
    record("Two.png", "green", 0.4)
    record("three.png", None, source="upload")
    record("four.png", "red", 0.6, source="batch")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("", "four three Two one"),
        ("--order asc", "one Two three four"),
        ("--limit 2", "four three"),
        ("--label red", "four one"),
        ("--label red --limit 1 --order asc", "one"),
        ("--status quarantined", "three"),
        ("--status classified", "four Two one"),
        ("--source upload", "three"),
        ("--source batch", "four"),
        ("--model-version 0123456789ab", "four three Two one"),
        ("--model-version another", ""),
        ("--needs-review", "Two"),
        ("--no-needs-review", "four three one"),
        ("--min-confidence 0.6", "four one"),
        ("--max-confidence 0.6", "four Two"),
        ("--q TWO", "Two"),
        ("--since 2026-11-02", "four three Two"),
        ("--until 2026-11-02T00:00:00Z", "one"),
        ("--until 2026-11-01T01:00:00+02:00", ""),
    ],
)
@pytest.mark.usefixtures("rows")
def test_filters_choose_rows(run: Call, filters: str, expected: str) -> None:
    done = run("results", *filters.split())
    assert done.code == 0
    assert [row["filename"].removesuffix(".png") for row in done.lines] == expected.split()


@pytest.mark.parametrize(
    "wrong",
    ["--since yesterday", "--min-confidence 2", "--limit 0", "--status lost", "--format xls", "x"],
)
@pytest.mark.usefixtures("rows")
def test_wrong_usage_ends_with_2(run: Call, wrong: str) -> None:
    done = run("results", *wrong.split())
    assert (done.code, done.out) == (2, b"")
    assert "Try `pigeonhole results --help`" in done.err


@pytest.mark.usefixtures("rows")
def test_a_time_that_is_none_is_explained(run: Call) -> None:
    assert "Write 2026-11-22" in run("results", "--since", "yesterday").err


@pytest.mark.usefixtures("rows")
def test_the_table_says_what_a_person_asks_first(run: Call) -> None:
    lines = run("results", "--format", "table").text.splitlines()
    assert lines[0].split() == ["classified", "file", "label", "confidence"]
    assert lines[2].split()[:4] == ["2026-11-22", "12:00:00Z", "three.png", "unreadable_image:"]
    assert lines[-1].split() == ["2026-11-01", "00:00:00Z", "one.png", "red", "0.900"]


@pytest.mark.parametrize("shown", ["table", "json", "jsonl", "csv", "parquet"])
def test_hostile_names_crash_no_format(
    run: Call, record: Call, hostile: tuple[str, ...], shown: str
) -> None:
    for name in hostile:
        record(name, name)
    done = run("results", "--format", shown)
    assert done.code == 0
    assert shown == "parquet" or b"markup" in done.out
    if shown in ("table", "json", "jsonl"):
        assert {character for character in done.text if not character.isprintable()} == {"\n"}


def test_bytes_that_are_not_utf8_can_be_asked_for(run: Call, record: Call) -> None:
    record("caf\\xe9.png")
    record("tea.png")
    done = run("results", "--q", "caf\udce9")
    assert [row["filename"] for row in done.lines] == ["caf\\xe9.png"]


def test_without_a_database_nothing_is_made_and_the_remedy_is_said(
    run: Call, home: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    before = contents(home.parent)
    done = run("results")
    assert (done.code, done.out) == (1, b"")
    assert "Nothing has been recorded yet" in done.err
    assert "pigeonhole up" in done.err
    assert contents(home.parent) == before


@pytest.mark.usefixtures("run")
def test_a_reader_that_leaves_early_is_no_accident(record: Call) -> None:
    for number in range(200):
        record(f"{number}.png")
    command = f"{sys.executable} -m pigeonhole results | head -n 1"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, shell=True, capture_output=True, check=True, env=environ)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


def test_a_database_that_is_none_is_an_error_without_a_traceback(run: Call, home: Path) -> None:
    (home / "pigeonhole.db").write_bytes(b"this is no database, whatever its name says" * 100)
    done = run("results")
    assert done.code == 1
    assert "file is not a database" in done.err
    assert "pigeonhole doctor" in done.err
