"""What leaves the inbox is durable before it leaves, seen from the kernel (G11)."""

import io
import os
import random
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

Say = Callable[[object], None]
CALLS = "openat,pwrite64,fsync,fdatasync,link,linkat,unlink,unlinkat"
_CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$")


class Call(NamedTuple):
    """One finished system call; paths as strace shows them."""

    name: str
    text: str


@pytest.mark.guarantee("G11")
def test_row_and_new_name_are_on_the_disk_before_the_old_name_is_gone(
    home: Path, tmp_path: Path, seed: int, soak: bool, say: Say
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("NOT TESTED: the order of fsync and unlink. Install strace.")
    files = 1_000 if soak else 40
    chance = random.Random(seed)
    for number in range(files):
        content = io.BytesIO()
        Image.frombytes("RGB", (4, 4), chance.randbytes(48)).save(content, "PNG")
        (home / "inbox" / f"{number}.png").write_bytes(content.getvalue())
    trace = tmp_path / "trace"
    subprocess.run(
        [strace, "-f", "-qq", "-y", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", trace,
         sys.executable, "-m", "pigeonhole", "watch", "--once"],
        env={**os.environ, "PIGEONHOLE_HOME": str(home), "PIGEONHOLE_SETTLE_S": "0.1"},
        check=True,
    )  # fmt: skip
    calls = list(finished(trace.read_text("utf-8", "replace").splitlines()))
    gone = violations = 0
    for complaint in leaving(calls, home):
        gone += 1
        violations += complaint is not None
        assert complaint is None
    say(f"G11: {gone} files left the inbox, {violations} before their row was synced")
    assert gone == files


def finished(lines: list[str]) -> Iterator[Call]:
    """The calls in the order of their end; what another thread interrupts is put together."""
    begun: dict[str, str] = {}
    for line in lines:
        found = _CALL.match(line)
        if found is None:
            continue
        pid, name, text = found.groups()
        if text.endswith("<unfinished ...>"):
            begun[pid] = text.removesuffix("<unfinished ...>")
        elif " = -1 " not in text:
            yield Call(name, begun.pop(pid, "") + text)


def leaving(calls: list[Call], home: Path) -> Iterator[str | None]:
    """For every file that leaves the inbox: what is wrong with the order, if anything is.

    After the file was read, a row must be written to the log and synced; after it was linked, its
    new folder must be synced.
    """
    inbox, log = f"{home}/inbox/", f"{home}/pigeonhole.db-wal>"
    read: dict[str, int] = {}
    linked: dict[str, tuple[int, str]] = {}
    last_write = last_sync = -1
    row_synced: list[tuple[int, int]] = []  # (write, the sync after it)
    folder_synced: dict[str, list[int]] = defaultdict(list)
    for moment, (name, text) in enumerate(calls):
        paths = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
        if name == "openat" and paths[0].startswith(inbox) and "O_DIRECTORY" not in text:
            read[paths[0]] = moment
        elif name == "pwrite64" and log in text.split(",")[0]:
            last_write = moment
        elif name in ("fsync", "fdatasync"):
            if log in text:
                last_sync = moment
                row_synced.append((last_write, last_sync))
            elif place := re.search(r"<(.*?)>", text):
                folder_synced[place[1]].append(moment)
        elif name in ("link", "linkat") and paths[0].startswith(inbox):
            linked[paths[0]] = (moment, str(Path(paths[1]).parent))
        elif name in ("unlink", "unlinkat") and paths[0].startswith(inbox):
            source = paths[0]
            if source.rpartition("/")[2].startswith("."):
                continue  # a file of our own, such as a canary
            if not any(write > read[source] for write, _ in row_synced):
                yield f"{source}: no row was synced between reading and unlink"
            elif last_write > last_sync:
                yield f"{source}: the log was not synced"
            elif not any(sync > linked[source][0] for sync in folder_synced[linked[source][1]]):
                yield f"{source}: its new folder was not synced"
            else:
                yield None
