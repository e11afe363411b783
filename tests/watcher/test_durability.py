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

pytestmark = pytest.mark.timeout(1200)  # of a busy machine, or in the long form

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
    """For every file that leaves the inbox: what is wrong with the order, if anything is."""
    order = Order(f"{home}/inbox/", f"{home}/pigeonhole.db-wal>")
    for moment, call in enumerate(calls):
        paths = re.findall(r'"((?:[^"\\]|\\.)*)"', call.text)
        source = paths[0] if paths else ""
        if call.name in ("fsync", "fdatasync"):
            order.sync(moment, call.text)
        elif call.name == "pwrite64":
            order.write(moment, call.text)
        elif not source.startswith(order.inbox) or "/." in source.removeprefix(order.inbox[:-1]):
            continue  # not in the inbox, or a file of our own there
        elif call.name == "openat":
            order.read[source] = moment
        elif call.name in ("link", "linkat"):
            order.linked[source] = (moment, str(Path(paths[1]).parent))
        else:
            yield order.complaint(source)


class Order:
    """What happened when: a row must be synced after its file was read, a folder after a link."""

    def __init__(self, inbox: str, log: str) -> None:
        self.inbox = inbox
        self.read: dict[str, int] = {}
        self.linked: dict[str, tuple[int, str]] = {}
        self._log = log
        self._written = self._synced = self._row_synced = -1
        self._folders: dict[str, int] = defaultdict(lambda: -1)

    def write(self, moment: int, text: str) -> None:
        if self._log in text.split(",", maxsplit=1)[0]:
            self._written = moment

    def sync(self, moment: int, text: str) -> None:
        if self._log in text:
            self._synced, self._row_synced = moment, self._written
        elif place := re.search(r"<(.*?)>", text):
            self._folders[place[1]] = moment

    def complaint(self, source: str) -> str | None:
        linked, folder = self.linked[source]
        if self._row_synced < self.read[source]:
            return f"{source}: no row was synced between reading and unlink"
        if self._written > self._synced:
            return f"{source}: the log was not synced"
        if self._folders[folder] < linked:
            return f"{source}: its new folder was not synced"
        return None
