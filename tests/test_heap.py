"""A process that is ready leaves what it has loaded out of every later search for garbage."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.measure import free_port, until_ready

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
        until_ready(f"http://127.0.0.1:{number}/readyz", psutil.Process(process.pid))
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert int(said) > 50_000
