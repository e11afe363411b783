"""Two child processes, kept alive: either one dying is restarted, later and later if it must be."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import structlog

log = structlog.get_logger(__name__)

_TURN_S = 0.1
_GRACE_S = 15.0  # to finish the batch or the request at hand
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(slots=True)
class Patience:
    """How long to wait before the next start, and when to give up; times are monotonic.

    A child that had answered starts again after `FIRST_S`. One that had not waits twice as long
    each time, up to `LAST_S`; one that ended alone `MOST` times within `WITHIN_S` has no future.
    To be killed from outside is no fault of its own.
    """

    FIRST_S = 0.5
    LAST_S = 30.0
    MOST = 5
    WITHIN_S = 60.0

    wait_s: float
    false_starts_s: list[float]

    @classmethod
    def new(cls) -> "Patience":
        """As nothing has gone wrong yet."""
        return cls(cls.FIRST_S, [])

    def ended(self, now_s: float, *, has_answered: bool, was_killed: bool = False) -> float | None:
        """Seconds to wait before the next start, or None to give up."""
        if has_answered:
            self.wait_s, self.false_starts_s = self.FIRST_S, []
        elif not was_killed:
            recent = [then_s for then_s in self.false_starts_s if now_s - then_s < self.WITHIN_S]
            self.false_starts_s = [*recent, now_s]
            if len(self.false_starts_s) >= self.MOST:
                return None
        wait_s = self.wait_s
        self.wait_s = min(2 * wait_s, self.LAST_S)
        return wait_s


class Child:
    """One command, its process, and when it may be started again."""

    def __init__(self, name: str, command: str, answers: Callable[[], bool]) -> None:
        self.name = name
        self.has_answered = False
        self._command = command
        self._answers = answers
        self._patience = Patience.new()
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at_s: float | None = 0.0  # None: never again

    def tend(self, lifeline: int) -> bool:
        """Start what is due, notice what has ended; False when there is no hope left."""
        if self._process is not None:
            self._look(self._process)
        elif self._start_at_s is not None and time.monotonic() >= self._start_at_s:
            self._start(lifeline)
        return self._start_at_s is not None

    def ask_to_end(self) -> None:
        """SIGTERM, if it runs."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, deadline_s: float) -> None:
        """Wait for its end until `deadline_s`, then kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("killed: it did not end in time", child=self.name)
            self._process.kill()
            self._process.wait()

    def _start(self, lifeline: int) -> None:
        # -P: a folder named `core` where the user stands is not our `core`.
        command = [sys.executable, "-P", "-m", "pigeonhole.child", str(lifeline), self._command]
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(  # noqa: S603 - our own program, no stranger's words
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=[lifeline],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            process_group=0,  # Ctrl-C reaches us alone; we pass it on
        )
        self.has_answered = False

    def _look(self, process: subprocess.Popen[bytes]) -> None:
        code = process.poll()
        if code is None:
            self.has_answered = self.has_answered or self._answers()
            return
        self._process = None
        now_s = time.monotonic()
        wait_s = self._patience.ended(
            now_s, has_answered=self.has_answered, was_killed=code == -signal.SIGKILL
        )
        if wait_s is None:
            self._start_at_s = None
            log.error(
                "given up: it ends as soon as it starts; the reason is above",
                child=self.name,
                ended=_ending(code),
            )
        else:
            self._start_at_s = now_s + wait_s
            log.warning(
                "ended; starting it again", child=self.name, ended=_ending(code), in_s=wait_s
            )


class Supervisor:
    """Keeps children alive until a signal, or until `task` is done; then ends them gracefully."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._signal: int | None = None

    @property
    def is_ready(self) -> bool:
        """Whether every child answers."""
        return all(child.has_answered for child in self._children)

    def run(self, task: Iterator[None]) -> int:
        """Step `task` at every turn. 0 after a signal or when it is done, 1 without hope."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                signal.signal(number, self._on_signal)
        # The children hold the end that is read; that it ends tells them that we did.
        read_end, write_end = os.pipe()
        try:
            return self._turn_until_told(read_end, task)
        finally:
            self._end()
            os.close(write_end)
            os.close(read_end)

    def _turn_until_told(self, lifeline: int, task: Iterator[None]) -> int:
        while self._signal is None:
            if not all(child.tend(lifeline) for child in self._children):
                return 1
            try:
                next(task)
            except StopIteration:
                return 0
            time.sleep(_TURN_S)
        log.info("stopping", signal=signal.Signals(self._signal).name)
        return 0

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = number  # an Event could deadlock: it takes a lock that we may hold

    def _end(self) -> None:
        for child in self._children:
            child.ask_to_end()
        deadline_s = time.monotonic() + _GRACE_S
        for child in self._children:
            child.wait(deadline_s)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
