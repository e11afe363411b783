"""A process that is ready leaves what it has loaded out of every later search for garbage."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from benchmarks.measure import free_port

_PROGRAM = """
import atexit, gc
from pigeonhole.__main__ import main
atexit.register(lambda: print(gc.get_freeze_count()))
main()
"""


@pytest.mark.parametrize(
    ("command", "port"),
    [("serve", "PIGEONHOLE_PORT"), ("watch", "PIGEONHOLE_WATCHER_METRICS_PORT")],
)
def test_what_is_loaded_is_frozen_once_a_process_is_ready(
    tmp_path: Path, command: str, port: str
) -> None:
    number = free_port()
    environment = {**os.environ, "PIGEONHOLE_HOME": str(tmp_path), port: str(number)}
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        while not _is_ready(number):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert int(said) > 50_000


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
