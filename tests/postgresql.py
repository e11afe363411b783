"""A real PostgreSQL of our own: on loopback, in a folder that is deleted afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

_DEBIAN = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True)
class Server:
    """Makes databases; `test` is their owner."""

    port: int

    def create(self, name: str) -> str:
        """The URL of a new database."""
        address = f"postgresql://test@127.0.0.1:{self.port}/postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://test@127.0.0.1:{self.port}/{name}"


@contextmanager
def running() -> Iterator[Server | None]:
    """A server for as long as the block lasts; None where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        yield None
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-")))
        run = _as_somebody_who_may(folder)
        data = folder / "data"
        trusting = ("--auth=trust", "--username=test", "--encoding=UTF8", "--locale=C.UTF-8")
        run([programs / "initdb", "--no-sync", f"--pgdata={data}", *trusting])
        port = _unused_port()
        options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
        control = [programs / "pg_ctl", f"--pgdata={data}", "--wait"]
        run([*control, f"--log={folder / 'log'}", f"--options={options}", "start"])
        stack.callback(run, [*control, "--mode=fast", "stop"])
        yield Server(port)


def _programs() -> Path | None:
    """The folder of `initdb`, which Debian keeps out of PATH."""
    found = [path.parent for path in sorted(_DEBIAN.glob("*/bin/initdb"))]
    on_path = shutil.which("initdb")
    return found[-1] if found else Path(on_path).parent if on_path else None


def _as_somebody_who_may(folder: Path) -> Callable[..., Any]:
    """Run a program; PostgreSQL refuses to be root."""
    run = partial(subprocess.run, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    if os.getuid() != 0:
        return run
    user = pwd.getpwnam("postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return partial(run, user=user.pw_uid, group=user.pw_gid, extra_groups=[])


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
