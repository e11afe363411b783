"""Watchers that are up at once: everything is imported here, and each is forked and left alone.

Reads a line per watcher; answers `born PID`, and `up PID` when it begins to watch. Each process
adds one byte per inferred image to the file, before the model runs. FILE LEASE_S
"""

import os
import signal
import sys

import numpy as np

from core.bundle import Bundle
from core.settings import Settings
from monitoring import logs
from watcher import batch, daemon


def watch(counter: int) -> int:
    scores = Bundle.scores
    watching = daemon.Watcher.watch

    def counted(bundle: Bundle, batch: np.ndarray, *, on_all_cores: bool = False) -> object:  # type: ignore[type-arg]
        os.write(counter, b"." * len(batch))
        return scores(bundle, batch, on_all_cores=on_all_cores)

    def announced(watcher: daemon.Watcher) -> int:
        Bundle.scores = counted  # type: ignore[method-assign, assignment] - of files, no warm-up
        say(f"up {os.getpid()}")
        return watching(watcher)

    daemon.Watcher.watch = announced  # type: ignore[method-assign]
    settings = Settings.read()
    logs.configure(settings.log_format, "watcher")
    return daemon.run(settings)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def main(file: str, lease_s: str) -> None:
    batch.LEASE_S = float(lease_s)
    counter = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are nobody's zombies
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                os._exit(watch(counter))
            finally:
                os._exit(99)
        say(f"born {pid}")


if __name__ == "__main__":
    main(*sys.argv[1:])
