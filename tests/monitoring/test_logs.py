"""The log of a real process: one line per event, whatever strangers call their files."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).parent / "drivers" / "talk.py"
EVIL = "a\nERROR forged\x1b[31m\r\x85\u2028\u202e.jpg"
EVENTS = [
    "classified",
    "quarantined",
    f"a library says {EVIL}",
    "broke",
    "a library broke",
    "warning",
    "last",
]


def said(log_format: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, str(DRIVER), log_format], capture_output=True, check=True, timeout=60
    )
    return done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def console() -> tuple[str, str]:
    return said("console")


@pytest.fixture(scope="module")
def as_json() -> tuple[str, str]:
    return said("json")


@pytest.fixture
def entries(as_json: tuple[str, str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in as_json[1].splitlines()]


def test_nothing_is_said_on_stdout(console: tuple[str, str], as_json: tuple[str, str]) -> None:
    assert console[0] == as_json[0] == ""


def test_json_is_one_object_a_line_in_order(entries: list[dict[str, Any]]) -> None:
    assert len(entries) == len(EVENTS)
    for entry, event in zip(entries, EVENTS, strict=True):
        assert entry["event"] == event or "UserWarning: something is old" in entry["event"]
    assert [entry["level"] for entry in entries] == [
        "info",
        "warning",
        "warning",
        "error",
        "error",
        "warning",
        "info",
    ]


def test_every_entry_says_when_and_which_process(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        assert entry["process"] == "watcher"
        when = datetime.fromisoformat(entry["timestamp"])
        assert when.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - when) < timedelta(hours=1)


def test_json_keeps_names_exactly(entries: list[dict[str, Any]]) -> None:
    strange = entries[1]

    assert strange["file"] == EVIL
    assert strange["odd"] == "\udcff"
    assert strange["many"] == [EVIL]


def test_json_is_plain_ascii(as_json: tuple[str, str]) -> None:
    lines = as_json[1].split("\n")

    assert all(line.isascii() and line.isprintable() for line in lines)


def test_json_shows_where_an_exception_came_from_but_no_values(
    entries: list[dict[str, Any]], as_json: tuple[str, str]
) -> None:
    for entry in (entries[3], entries[4]):
        (error,) = entry["exception"]
        assert error["exc_type"] == "StoreError"
        assert "the key has 11 letters" in error["exc_value"]
        assert [frame["name"] for frame in error["frames"]] == ["main", "fail"]
    assert "open sesame" not in as_json[1]


def test_a_line_of_the_console_begins_with_a_time_or_goes_on_with_a_traceback(
    console: tuple[str, str],
) -> None:
    lines = console[1].removesuffix("\n").split("\n")

    begun = [line for line in lines if not line.startswith("    ")]
    assert len(begun) == len(EVENTS)
    assert all(datetime.fromisoformat(line.split()[0]).utcoffset() is not None for line in begun)
    for line, event in zip(begun, EVENTS, strict=True):
        assert repr(event)[1:-1] in line


def test_the_console_shows_no_escapes_of_strangers(console: tuple[str, str]) -> None:
    assert all(line.isprintable() for line in console[1].split("\n"))
    assert r"file='a\nERROR forged\x1b[31m\r\x85\u2028\u202e.jpg'" in console[1]


def test_the_console_shows_tracebacks_but_no_values(console: tuple[str, str]) -> None:
    assert console[1].count("Traceback (most recent call last):") == 2
    assert console[1].count("StoreError: cannot read a\n    ERROR forged") == 2
    assert "open sesame" not in console[1].replace('fail("open sesame")', "")


def test_a_pipe_gets_no_colours(console: tuple[str, str]) -> None:
    assert "\x1b" not in console[1]
