"""Many files of every kind, and watchers that are killed while they work on them."""

import hashlib
import io
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from PIL import Image

from storage.results import Result, ResultFilter
from storage.store import Store
from watcher.batch import LEASE_S

SETTLE_S = 0.1
_CHUNKS = 5
_GAP_S = 0.004  # between the chunks of a slow writer
_DRIVER = Path(__file__).parent / "drivers" / "nursery.py"
KEPT = ("sorted", "archive", "quarantine")


@dataclass
class Sender:
    """Drops files as programs do: 10 % the same bytes, 5 % renamed in, 5 % slow, 2 % corrupt.

    A slow writer that this machine held up for so long that it looked finished is in `stalled`:
    what stood still for the settle time counts as a file of its own.
    """

    inbox: Path
    chance: random.Random
    hashes: Counter[str] = field(default_factory=Counter)
    bad: set[str] = field(default_factory=set)
    stalled: int = 0
    sent: int = 0
    _earlier: list[bytes] = field(default_factory=list)

    def drop(self, files: int) -> None:
        for _ in range(files):
            self._drop_one()

    def drop_at_once(self, files: int) -> None:
        """A folder of files is renamed in: whoever watches sees them all in the same moment."""
        inbox, self.inbox = self.inbox, self.inbox.with_name("at once")
        self.inbox.mkdir()
        self.drop(files)
        self.inbox.rename(inbox / self.inbox.name)
        self.inbox = inbox

    def _drop_one(self) -> None:
        kind = self.chance.random()
        data = self._content()
        path = self.inbox / f"{self.sent:05}.png"
        self.sent += 1
        self.hashes[hashlib.sha256(data).hexdigest()] += 1
        if kind < 0.05:
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(data)
            part.rename(path)
        elif kind < 0.10:
            self._write_slowly(path, data)
        else:
            path.write_bytes(data)

    def _content(self) -> bytes:
        if self._earlier and self.chance.random() < 0.10:
            return self.chance.choice(self._earlier)
        file = io.BytesIO()
        Image.frombytes("RGB", (8, 8), self.chance.randbytes(192)).save(file, "PNG")
        data = file.getvalue()
        if self.chance.random() < 0.02:
            data = data[: len(data) // 2]
            self.bad.add(hashlib.sha256(data).hexdigest())
        self._earlier.append(data)
        return data

    def _write_slowly(self, path: Path, data: bytes) -> None:
        step = -(-len(data) // _CHUNKS)
        longest_s = 0.0
        with path.open("wb", buffering=0) as file:
            for offset in range(0, len(data), step):
                before_s = time.monotonic()
                file.write(data[offset : offset + step])
                time.sleep(_GAP_S)
                longest_s = max(longest_s, time.monotonic() - before_s)
        self.stalled += longest_s > SETTLE_S / 2


class Nursery:
    """Real watcher processes of one HOME, forked from one that has imported everything."""

    def __init__(self, home: Path, log: Path, *, lease_s: float = LEASE_S, **settings: str) -> None:
        defaults = {
            "HOME": str(home),
            "SETTLE_S": str(SETTLE_S),
            "RECONCILE_S": "0.5",
            "HEARTBEAT_S": "0",
            "WATCHER_METRICS_PORT": "0",
            "WORKERS": "1",
        }
        named = {f"PIGEONHOLE_{name}": value for name, value in (defaults | settings).items()}
        self._counter = home / "inferred"
        self._counter.touch()
        self._alive: set[int] = set()
        self._up: set[int] = set()
        self._changed = threading.Condition()
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, str(_DRIVER), str(self._counter), str(lease_s)],
            env={**os.environ, **named, "PYTHONPATH": str(_DRIVER.parents[3])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._born: list[int] = []
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in list(self._alive):
            self.kill(pid)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    @property
    def alive(self) -> list[int]:
        return sorted(self._alive)

    @property
    def inferred(self) -> int:
        """How many images were given to the model, by all processes together."""
        return self._counter.stat().st_size

    def start(self) -> int:
        """A new watcher, which is up when this returns."""
        assert self._process.stdin is not None
        with self._changed:
            before = len(self._born)
            self._process.stdin.write(b"watch\n")
            self._process.stdin.flush()
            assert self._changed.wait_for(lambda: len(self._born) > before, 90), "not born"
            pid = self._born[-1]
            self._alive.add(pid)
            assert self._changed.wait_for(lambda: pid in self._up, 90), "not up"
        return pid

    def wait_for_work(self, limit_s: float) -> None:
        """Until one more image is given to the model, or the time is over."""
        before, deadline_s = self.inferred, time.monotonic() + limit_s
        while self.inferred == before and time.monotonic() < deadline_s:
            time.sleep(0.002)

    def kill(self, pid: int) -> None:
        self._alive.discard(pid)
        os.kill(pid, signal.SIGKILL)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, pid = line.split()
            with self._changed:
                if word == b"born":
                    self._born.append(int(pid))
                else:
                    self._up.add(int(pid))
                self._changed.notify_all()


@dataclass(frozen=True)
class Figures:
    """What came out of a storm."""

    files: int
    kills: int
    rows: int
    lost: int
    duplicated: int
    given_up: int
    inferred: int
    inferred_at_once: int  # of those that came when nobody was killed any more
    stalled: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.files} files, {self.kills} kills: {self.rows} rows, {self.lost} lost, "
            f"{self.duplicated} duplicated, {self.inferred} inferences, {self.given_up} given up, "
            f"{self.stalled} writers held up, {self.seconds:.0f} s"
        )


@contextmanager
def raining(sender: Sender, files: int) -> Iterator[None]:
    """Files come in while the block runs."""
    thread = threading.Thread(target=sender.drop, args=(files,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def storm(
    nursery: Nursery, sender: Sender, store: Store, *, files: int, kills: int, watchers: int = 1,
    at_once: int = 0,
) -> Figures:  # fmt: skip
    """Files pour in while watchers are killed with -9.

    Every other one 20 to 400 ms after it has come up, the others so long after they have begun to
    work: on a busy machine most would die before that. At the end watchers that nobody kills do the
    rest, and some more that come `at_once`; then everything is counted.
    """
    started_s = time.monotonic()
    for kill in range(kills):
        while len(nursery.alive) < watchers:
            nursery.start()
        with raining(sender, files * (kill + 1) // kills - sender.sent):
            if kill % 2:
                nursery.wait_for_work(limit_s=3)
            time.sleep(sender.chance.uniform(0.02, 0.4))
            nursery.kill(sender.chance.choice(nursery.alive))
    while len(nursery.alive) < watchers:
        nursery.start()
    _wait_until_done(store, sender, limit_s=600)
    inferred = nursery.inferred
    if at_once:
        sender.drop_at_once(at_once)
        _wait_until_done(store, sender, limit_s=600)
    rows = list(store.stream(ResultFilter()))
    hashes = Counter(row.sha256 for row in rows)
    wrong = [row for row in rows if row.status == "quarantined" and row.sha256 not in sender.bad]
    return Figures(
        files=sender.sent,
        kills=kills,
        rows=len(rows),
        lost=(sender.hashes - hashes).total(),
        duplicated=(hashes - sender.hashes).total(),
        given_up=sum(row.error is not None and row.error.code == "gave_up" for row in wrong),
        inferred=nursery.inferred,
        inferred_at_once=nursery.inferred - inferred,
        stalled=sender.stalled,
        seconds=time.monotonic() - started_s,
    )


def _wait_until_done(store: Store, sender: Sender, limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while any(path.is_file() for path in sender.inbox.rglob("*")) or store.owners():
        assert time.monotonic() < deadline_s, f"{store.count()} of {sender.sent} rows, and no end"
        time.sleep(0.1)


def check(figures: Figures, home: Path, rows: list[Result], sender: Sender) -> None:
    """Nothing lost, nothing twice, every row's file where the row says, the database whole."""
    assert figures.lost == 0
    assert figures.duplicated <= sender.stalled, "only what stood still may be a file of its own"
    assert figures.rows == figures.files + figures.duplicated
    if not sender.stalled:
        kept = Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in kept_files(home))
        assert kept == sender.hashes
    assert len({row.path for row in rows}) == len(rows)
    assert all(row.path and (home / row.path).is_file() for row in rows)
    with closing(sqlite3.connect(home / "pigeonhole.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM deliveries").fetchone() == (0,)


def kept_files(home: Path) -> list[Path]:
    return [
        path
        for name in KEPT
        for path in (home / name).rglob("*")
        if path.is_file() and not path.name.endswith(".reason.json")
    ]
