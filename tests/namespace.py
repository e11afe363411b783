"""Limits of the kernel for one program alone: in a user namespace of its own."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

_LOWER = "import pathlib\npathlib.Path('/proc/sys/user/{}').write_text('{}')\n"


def run(program: str, *arguments: object, **limits: int) -> subprocess.CompletedProcess[str]:
    """A Python program of which the kernel grants no more than, say, `max_inotify_watches=3`.

    The test is skipped where namespaces are not allowed.
    """
    lower = "".join(_LOWER.format(name, limit) for name, limit in limits.items())
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", lower + program,
         *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    if "unshare" in done.stderr:
        pytest.skip(f"user namespaces are not allowed here: {done.stderr.strip()}")
    return done
