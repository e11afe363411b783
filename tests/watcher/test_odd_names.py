"""Any name that a file system can hold, from the inbox through every door and back (G18)."""

import csv
import io
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from core.names import original
from core.settings import Settings

pytestmark = pytest.mark.timeout(1200)  # of a busy machine, or in the long form

NAMES = [
    b"a\nb.png",
    b"tab\tand \x1b[31mred.png",
    "\N{GRINNING FACE}.png".encode(),
    b"x" * 251 + b".png",
    "\N{CJK UNIFIED IDEOGRAPH-9CE9}".encode() * 83 + b"12.png",
    b"bad\xff.png",
    rb"bad\xff.png",
    rb"back\slash.png",
    b"-rf.png",
    b"--help.png",
    "e\u0301.png".encode(),
    "\u00e9.png".encode(),
    b"=cmd|' C'!A0.png",
    b"<img src=x onerror=alert(1)>.png",
    b"'; DROP TABLE results; --.png",
    b"%2e%2e%2f.png",
    b" .png",
    b"\xe2\x80\xaegnp.exe.png",
]  # fmt: skip
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.mark.guarantee("G18")
def test_every_name_comes_back_exactly_from_database_rest_csv_and_disk(
    start: Start, home: Path, paint: Callable[..., bytes]
) -> None:
    assert unicodedata.normalize("NFC", "e\u0301") == "\u00e9"
    folder = os.fsencode(home / "inbox" / "caf\u00e9") + b"\xe9"
    os.mkdir(folder)  # noqa: PTH102 - bytes
    contents: dict[bytes, bytes] = {}
    for number, name in enumerate(NAMES):
        contents[name] = paint("red", (20 + number, 20))
        for place in (os.fsencode(home / "inbox"), folder):
            Path(os.fsdecode(place + b"/" + name)).write_bytes(contents[name])
    assert start("--once").wait(90) == 0

    sub = os.path.basename(folder)  # noqa: PTH119 - bytes
    kept = [b"sorted/red/" + name for name in NAMES]
    kept += [b"sorted/red/" + sub + b"/" + name for name in NAMES]
    top = os.fsencode(home)
    for path in kept:
        with open(top + b"/" + path, "rb") as file:  # noqa: PTH123 - bytes
            assert file.read() == contents[path.rpartition(b"/")[2]]

    with TestClient(create_app(Settings(home=home, workers=1))) as client:
        items = client.get("/v1/results", params={"limit": 500}).json()["items"]
        exported = client.get("/v1/results/export", params={"format": "csv"})
    assert as_bytes(item["path"] for item in items) == sorted(kept)
    assert as_bytes(item["filename"] for item in items) == sorted(NAMES * 2)
    if exported.status_code == 200:
        assert as_bytes(from_csv(exported.text, "path")) == sorted(kept)

    for shown, read in (("csv", from_csv), ("jsonl", from_jsonl)):
        command = [sys.executable, "-m", "pigeonhole", "results", "--format", shown]
        done = subprocess.run(
            command,
            env={**os.environ, "PIGEONHOLE_HOME": str(home)},
            stdout=subprocess.PIPE,
            check=True,
        )
        assert as_bytes(read(done.stdout.decode(), "path")) == sorted(kept), shown
        assert as_bytes(read(done.stdout.decode(), "filename")) == sorted(NAMES * 2), shown


def as_bytes(texts: object) -> list[bytes]:
    assert not isinstance(texts, str)
    return sorted(os.fsencode(original(text)) for text in texts)  # type: ignore[attr-defined]


def from_csv(text: str, column: str) -> list[str]:
    """As docs/cli.md says: take one leading apostrophe off every text cell that has one."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [row[column].removeprefix("'") for row in rows]


def from_jsonl(text: str, column: str) -> list[str]:
    return [json.loads(line)[column] for line in text.split("\n") if line]
