"""`pigeonhole classify`: files and folders where they are."""

import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

Call = Callable[..., Any]

Paint = Callable[..., bytes]

# The command, and at its end the most memory that it had, in KiB. Not ru_maxrss: that begins with
# what the parent had when it started us.
SAY_PEAK = """
import atexit, runpy, sys
from pathlib import Path

def say_peak():
    status = Path("/proc/self/status").read_text()
    print(status.partition("VmHWM:")[2].split()[0], file=sys.stderr)

atexit.register(say_peak)
runpy.run_module("pigeonhole", run_name="__main__")
"""


@pytest.fixture
def pictures(home: Path, paint: Paint) -> Path:
    """Three colours, a broken file, a text, a hidden file, a link and a sub-folder."""
    folder = home.parent / "pictures"
    (folder / "more").mkdir(parents=True)
    for color in ("blue", "green", "red"):
        (folder / f"{color}.png").write_bytes(paint(color))
    (folder / "more" / "deep.JPG").write_bytes(paint("red", file_format="JPEG"))
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(paint("red"))
    (folder / "link.png").symlink_to("red.png")
    return folder


def test_a_folder_gives_one_line_per_image(run: Call, pictures: Path) -> None:
    done = run("classify", "pictures")
    assert done.code == 0
    assert [(row["filename"], row["label"]) for row in done.lines] == [
        ("blue.png", "blue"),
        ("green.png", "green"),
        ("red.png", "red"),
    ]
    first = done.lines[0]
    assert first["path"] == str(pictures / "blue.png")
    assert (first["source"], first["status"], first["format"]) == ("batch", "classified", "PNG")
    assert (first["width"], first["height"]) == (32, 24)


def test_what_is_left_out_is_said(run: Call, pictures: Path) -> None:
    done = run("classify", str(pictures))
    assert "3 other files left out" in done.err
    assert "1 folder not entered: give --recursive" in done.err
    assert "3 of 3 images classified." in done.err


def test_recursive_takes_sub_folders(run: Call, pictures: Path) -> None:
    done = run("classify", "--recursive", str(pictures))
    assert [row["filename"] for row in done.lines][-2:] == ["deep.JPG", "red.png"]
    assert "not entered" not in done.err


def test_a_named_file_is_always_tried(run: Call, pictures: Path) -> None:
    files = [str(pictures / name) for name in ("link.png", ".hidden.png", "notes.txt")]
    done = run("classify", *files)
    assert done.code == 1
    assert [row["status"] for row in done.lines] == ["classified", "classified", "quarantined"]
    assert done.lines[2]["error"]["code"] == "unsupported_format"
    assert "1 could not be" in done.err


def test_a_named_link_to_a_folder_is_followed(run: Call, pictures: Path) -> None:
    (pictures.parent / "elsewhere").symlink_to(pictures)
    assert len(run("classify", "elsewhere").lines) == 3


@pytest.mark.usefixtures("pictures")
def test_a_file_that_cannot_be_read_is_a_row_and_the_others_go_on(run: Call) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("pictures/odd.png")
        done = run("classify", "--store", "pictures/odd.png", "pictures/red.png")
    assert done.code == 1
    assert [row["error"] and row["error"]["code"] for row in done.lines] == ["cannot_read", None]
    assert "1 could not even be read, and were not recorded." in done.err
    assert [row["filename"] for row in run("results").lines] == ["red.png"]


def test_nothing_is_written_without_store(
    run: Call, pictures: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    before = contents(pictures.parent)
    run("classify", "--recursive", "pictures")
    assert contents(pictures.parent) == before


def test_store_records_rows_and_leaves_the_files(run: Call, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG broken")
    shutil.copy(pictures / "red.png", pictures / "red again.png")
    done = run("classify", "--store", "pictures")
    assert done.code == 1
    assert (pictures / "broken.png").exists()
    stored = run("results", "--order", "asc").lines
    assert [row["id"] for row in stored] == [row["id"] for row in done.lines]
    assert [row["source"] for row in stored] == ["batch"] * 5
    by_name = {row["filename"]: row for row in stored}
    assert by_name["broken.png"]["status"] == "quarantined"
    assert by_name["red.png"]["duplicate_of"] == by_name["red again.png"]["id"]


@pytest.mark.usefixtures("pictures")
def test_what_was_stored_once_is_recognised(run: Call) -> None:
    first = run("classify", "--store", "pictures/red.png").lines[0]
    second = run("classify", "--store", "pictures/red.png").lines[0]
    assert second["duplicate_of"] == first["id"]
    assert second["label"] == "red"


@pytest.mark.usefixtures("pictures")
def test_json_is_one_array(run: Call) -> None:
    assert len(run("classify", "pictures", "--format", "json").json) == 3


def test_an_empty_folder_is_no_failure(run: Call, home: Path) -> None:
    (home.parent / "empty").mkdir()
    done = run("classify", "empty", "--format", "json")
    assert (done.code, done.json) == (0, [])
    assert "0 of 0 images" in done.err


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
@pytest.mark.usefixtures("pictures")
def test_the_suffix_of_out_chooses_the_format(run: Call, suffix: str) -> None:
    done = run("classify", "pictures", "--out", f"found.{suffix}")
    assert (done.code, done.out) == (0, b"")
    data = Path(f"found.{suffix}").read_bytes()
    rows = {
        "csv": lambda: list(csv.DictReader(io.StringIO(data.decode(), newline=""))),
        "json": lambda: json.loads(data),
        "jsonl": lambda: [json.loads(line) for line in data.splitlines()],
        "parquet": lambda: pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist(),
    }[suffix]()
    assert [row["label"] for row in rows] == ["blue", "green", "red"]


@pytest.mark.usefixtures("pictures")
def test_out_replaces_the_target_of_a_link_and_leaves_nothing_else(run: Call) -> None:
    Path("old.csv").write_text("old")
    Path("link.csv").symlink_to("old.csv")
    assert run("classify", "pictures", "--out", "link.csv").code == 0
    assert Path("link.csv").is_symlink()
    assert Path("old.csv").read_text().startswith("id,")
    assert {path.name for path in Path().iterdir()} == {"home", "link.csv", "old.csv", "pictures"}


@pytest.mark.usefixtures("pictures")
def test_out_into_a_device_does_not_replace_it(run: Call) -> None:
    assert run("classify", "pictures", "--out", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.usefixtures("pictures")
def test_out_into_nowhere_says_what_to_do(run: Call) -> None:
    done = run("classify", "pictures", "--out", "no/such/folder.csv")
    assert done.code == 1
    assert "Choose another folder" in done.err


def test_an_interrupted_run_leaves_no_half_file(start: Call, wait_for: Call, home: Path) -> None:
    os.mkfifo(home.parent / "endless.png")  # nobody will ever write to it
    process = start("classify", "endless.png", "--out", "found.csv")
    wait_for(lambda: list(home.parent.glob(".pigeonhole-*.part")))
    assert process.end(signal.SIGINT).code == 130
    assert {
        path.name for path in home.parent.iterdir() if path.suffix in (".csv", ".part")
    } == set()


@pytest.mark.usefixtures("home")
def test_a_path_that_is_not_there_is_wrong_usage(run: Call) -> None:
    done = run("classify", "gone\x1b[31m.png")
    assert done.code == 2
    assert "gone\\x1b[31m.png: there is no such file or folder" in done.err


@pytest.mark.usefixtures("home")
def test_a_file_name_that_looks_like_an_option_is_not_obeyed(run: Call) -> None:
    done = run("classify", "--\x1b]0;evil\x07.png")
    assert done.code == 2
    assert "\x1b" not in done.err
    assert "a lone --" in done.err


@pytest.mark.parametrize("shown", ["table", "json", "jsonl", "csv", "parquet"])
@pytest.mark.usefixtures("home")
def test_hostile_names_crash_no_format(run: Call, hostile_files: Path, shown: str) -> None:
    done = run("classify", str(hostile_files), "--format", shown)
    assert done.code == 0
    if shown != "parquet":
        assert b"markup" in done.out
        assert b"caf\\xe9.png" in done.out.replace(b"\\\\", b"\\")
    if shown in ("table", "json", "jsonl"):
        assert {character for character in done.text if not character.isprintable()} == {"\n"}


@pytest.mark.usefixtures("home")
def test_all_bytes_in_hand_are_bounded() -> None:
    for number in range(10):
        with Path(f"{number}.png").open("wb") as file:
            file.truncate(60 * 1024**2)
    done = subprocess.run(
        [sys.executable, "-c", SAY_PEAK, "classify", *map(str, Path().glob("*.png"))],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert int(done.stderr.split()[-1]) * 1024 < 450 * 1024**2  # ten files are 600 MiB


@pytest.mark.usefixtures("pictures")
def test_bars_and_colors_are_for_terminals_alone(terminal: Call, run: Call) -> None:
    shown = terminal("classify", "pictures")
    assert b"classifying" in shown
    assert b"\x1b[32m" in shown
    done = run("classify", "pictures", "--format", "table")
    assert "classifying" not in done.err
    assert "\x1b" not in done.text + done.err


@pytest.mark.usefixtures("home")
def test_no_name_reaches_a_terminal_raw(terminal: Call, hostile_files: Path) -> None:
    for shown in ("table", "csv"):
        text = terminal("classify", str(hostile_files), "--format", shown).decode()
        for control in ("\x1b]", "\x1b[31mred", "\x9b", "\x07", "\u202e", "\rstarts", "two\r\n"):
            assert control not in text
    assert "[bold red]markup[bold red] :smile:.png" in text


@pytest.mark.usefixtures("pictures")
def test_no_color_is_respected(terminal: Call) -> None:
    assert b"\x1b[32m" not in terminal("classify", "pictures", NO_COLOR="1")


@pytest.mark.usefixtures("pictures")
def test_parquet_is_not_thrown_at_a_terminal(terminal: Call) -> None:
    assert b"give --out FILE" in terminal("classify", "pictures", "--format", "parquet")
