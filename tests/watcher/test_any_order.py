"""People, faults and kills in any order, against a dict (G16)."""

import errno
import hashlib
import io
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal
from unittest import mock

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as how_often
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from PIL import Image
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import OperationalError

from core.bundle import Bundle
from core.engine import Engine
from core.settings import Settings
from monitoring.metrics import Metrics
from storage import files, pause
from storage.database import Database
from storage.results import ResultFilter
from storage.store import Store
from watcher import daemon, waker
from watcher.daemon import Watcher

NAMES = st.sampled_from(["a.png", "b.png", "trip/c.png", "trip/d.png"])
COLORS = st.sampled_from(["red", "green", "bad"])
STEPS = st.integers(0, 30)
CALLS = (
    (Store, ("claim", "record", "finish")),
    (Engine, ("submit_all",)),
    (files, ("read_once", "put_at_once", "put", "sync_folders", "remove")),
)
SETTLE_S = 1.0


Full = Literal["folder", "database"] | None  # where there is no room


class Killed(BaseException):
    """What kill -9 does to a process, without the process."""


@dataclass
class Version:
    """One content that was in the inbox under one name at one time."""

    most: int = 1  # rows it may have: one, and one more for each new name that it got
    must: bool = True  # have a row in the end; not if it was overwritten or removed by its owner


class Inbox(RuleBasedStateMachine):
    """The inbox as its users see it, and the watcher that works on it, turn by turn."""

    template: ClassVar[Path]
    bundle: ClassVar[Bundle]
    examples: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).examples += 1
        self.home = self.template.with_name(f"{self.examples}")
        shutil.copytree(self.template, self.home)
        self.inbox = self.home / "inbox"
        self.there: dict[str, str] = {}  # the model: name -> sha256 of what its owner put there
        self.versions: dict[str, Version] = {}
        self.made = 0
        self.monotonic_s = 1000.0
        self.days = 0.0
        self.process = 0
        self.full: Full = None
        self.countdown, self.action = -1, lambda: None
        self.store = Store(Database(f"sqlite:///{self.home / 'pigeonhole.db'}"))
        self.engine = Engine(self.bundle, 1, 1_000_000)
        self.patches = mock.patch.multiple(
            daemon, time=self, datetime=SimpleNamespace(now=self.now)
        )
        self.patches.start()
        for target, value in (
            ("watcher.batch._now", self.now),
            ("watcher.waker.start", lambda _: waker.Clock()),
            ("watcher.owner.this_process", lambda: f"process {self.process}"),
            ("watcher.owner.is_dead", lambda name: name != f"process {self.process}"),
        ):
            mock.patch(target, value).start()
        for place, names in CALLS:
            for name in names:
                wrapped = self.interrupted(name, getattr(place, name))
                mock.patch.object(place, name, wrapped).start()
        self.watcher = self.begin()

    # --- time, as the daemon sees it ---------------------------------------------------------

    def monotonic(self) -> float:
        return self.monotonic_s

    def time(self) -> float:
        return time.time() + self.days * 86_400

    def now(self, _: object = None) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.days)

    # --- the watcher -------------------------------------------------------------------------

    def begin(self) -> Watcher:
        self.process += 1
        settings = Settings(
            home=self.home, settle_s=SETTLE_S, reconcile_s=5, heartbeat_s=0, batch_size=2, workers=1
        )
        return Watcher(settings, self.store, self.engine, Metrics(CollectorRegistry()))

    def interrupted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever it wraps
            self.countdown -= 1
            if self.countdown == 0:
                self.action()
            if name == "put_at_once" and self.full == "folder":
                return False
            if name == "put" and self.full == "folder":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "sorted")
            if name == "record" and self.full == "database":
                reason = sqlite3.OperationalError("database or disk is full")
                raise OperationalError("INSERT", {}, reason)
            if name == "read_once" and self.is_forbidden(Path(arguments[0])):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(arguments[0]))
            return call(*arguments, **named)

        return wrapped

    def is_forbidden(self, path: Path) -> bool:
        """Whether anybody but root could not read it."""
        return path.exists() and not path.stat().st_mode & 0o400

    def run_a_turn(self) -> None:
        try:
            self.watcher._attempt(woken=False)  # noqa: SLF001 - one round of its loop, and no sleep
        finally:
            self.look_around()

    def look_around(self) -> None:
        """What left the inbox, also in a turn that ended with a kill, is no more there."""
        rows = self.rows()
        for name, sha256 in list(self.there.items()):
            if not (self.inbox / name).exists():
                assert rows[sha256], "what left the inbox has its row"
                del self.there[name]

    def rows(self) -> Counter[str]:
        return Counter(row.sha256 for row in self.store.stream(ResultFilter()))

    # --- what people do ----------------------------------------------------------------------

    @rule(name=NAMES, color=COLORS)
    def drop(self, name: str, color: str) -> None:
        self.put(name, self.content(color))

    @rule(name=NAMES, color=COLORS)
    def replace(self, name: str, color: str) -> None:
        data = self.content(color)
        new = self.inbox / ".new.part"
        new.write_bytes(data)
        self.path(name).parent.mkdir(exist_ok=True)
        new.rename(self.path(name))
        self.note(name, data)

    @rule(name=NAMES)
    def append(self, name: str) -> None:
        if name in self.there:
            self.path(name).chmod(0o600)
            with self.path(name).open("ab") as file:
                file.write(b"\0")
            self.note(name, self.path(name).read_bytes())

    @rule(name=NAMES, new=NAMES)
    def rename(self, name: str, new: str) -> None:
        if name in self.there and name != new:
            self.path(new).parent.mkdir(exist_ok=True)
            self.path(name).rename(self.path(new))
            self.forget(new)
            self.there[new] = self.there.pop(name)
            self.versions[self.there[new]].most += 1

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if name in self.there:
            self.path(name).unlink()
            self.forget(name)

    @rule(name=NAMES, mode=st.sampled_from([0o000, 0o400, 0o644]))
    def chmod(self, name: str, mode: int) -> None:
        if name in self.there:
            self.path(name).chmod(mode)

    # --- what happens to the watcher ---------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.5, SETTLE_S, 6.0]))
    def turn(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.run_a_turn()

    @rule(step=STEPS)
    def killed(self, step: int) -> None:
        def die() -> None:
            raise Killed

        self.monotonic_s += SETTLE_S
        self.countdown, self.action = step, die
        try:
            self.run_a_turn()
        except Killed:
            self.watcher.close()
            self.watcher = self.begin()
        self.countdown = -1

    @rule(step=STEPS, name=NAMES, new=NAMES, deed=st.sampled_from(["replace", "delete", "rename"]))
    def meddled_with(self, step: int, name: str, new: str, deed: str) -> None:
        deeds: dict[str, Callable[[], None]] = {
            "replace": lambda: self.replace(name, "red"),
            "delete": lambda: self.delete_if_there(name),
            "rename": lambda: self.rename_if_there(name, new),
        }
        self.monotonic_s += SETTLE_S
        self.countdown, self.action = step, deeds[deed]
        self.run_a_turn()
        self.countdown = -1

    @rule(days=st.sampled_from([-1.0, 1.0, -1 / 24]))
    def clock_jumps(self, days: float) -> None:
        self.days += days

    @rule()
    def paused(self) -> None:
        pause.pause(self.home)

    @rule()
    def resumed(self) -> None:
        pause.resume(self.home)

    @rule(full=st.sampled_from([None, "folder", "database"]))
    def disk_is_full(self, full: Full) -> None:
        self.full = full

    @invariant()
    def nothing_is_doubled_or_made_up(self) -> None:
        for sha256, number in self.rows().items():
            assert number <= self.versions[sha256].most

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            mock.patch.stopall()
            self.watcher.close()
            self.engine.close()
            self.store.close()
            shutil.rmtree(self.home)

    def finish(self) -> None:
        """All is well again: in the end everything has its row, and its file is kept."""
        pause.resume(self.home)
        self.full = None
        for name in self.there:
            self.path(name).chmod(0o600)
        for _ in range(40):
            self.monotonic_s += 6
            self.days += 100 / 86_400
            self.run_a_turn()
            if not self.there and not self.store.owners():
                break
        assert self.there == {}
        assert self.store.owners() == []
        rows = self.rows()
        kept = {
            hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in ("sorted", "quarantine")
            for path in (self.home / folder).rglob("*")
            if path.is_file()
        }
        for sha256, version in self.versions.items():
            assert version.must <= rows[sha256] <= version.most
            assert not version.must or sha256 in kept

    # --- helpers -----------------------------------------------------------------------------

    def delete_if_there(self, name: str) -> None:
        if self.path(name).exists():
            self.delete(name)

    def rename_if_there(self, name: str, new: str) -> None:
        if self.path(name).exists():
            self.rename(name, new)

    def path(self, name: str) -> Path:
        return self.inbox / name

    def content(self, color: str) -> bytes:
        """Bytes that nobody has dropped before."""
        self.made += 1
        if color == "bad":
            return b"bad" * self.made
        file = io.BytesIO()
        Image.new("RGB", (self.made, 1), color).save(file, "PNG")
        return file.getvalue()

    def put(self, name: str, data: bytes) -> None:
        self.path(name).parent.mkdir(exist_ok=True)
        self.path(name).write_bytes(data)
        self.note(name, data)

    def note(self, name: str, data: bytes) -> None:
        self.forget(name)
        sha256 = hashlib.sha256(data).hexdigest()
        self.there[name] = sha256
        self.versions[sha256] = Version()

    def forget(self, name: str) -> None:
        """Its owner has taken it back: it may have a row by now, or never get one."""
        if name in self.there:
            self.versions[self.there.pop(name)].must = False


@pytest.mark.guarantee("G16")
@pytest.mark.timeout(1800)
def test_in_any_order_every_file_that_stays_gets_one_row(
    tmp_path: Path, rgb_bundle: Path, soak: bool, say: Callable[[object], None]
) -> None:
    Inbox.template = tmp_path / "template"
    (Inbox.template / "inbox").mkdir(parents=True)
    Store.open(f"sqlite:///{Inbox.template / 'pigeonhole.db'}").close()
    Inbox.bundle, Inbox.examples = Bundle.load(rgb_bundle), 0
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Inbox,
        settings=how_often(
            max_examples=1_000 if soak else 25,
            stateful_step_count=30 if soak else 20,
            derandomize=not soak,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    say(f"G16: {Inbox.examples} lives of an inbox, none lost or doubled anything")
