"""Promote or roll back in each HOME, killed before the Nth change of the disk.

HOME number N is killed with SIGKILL before its Nth change. Says for each HOME how it ended, up to
the first that was through before it could be killed. ACTION BUNDLE HOME...
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from core.registry import Registry

CHANGES = ("os.rename", "os.mkdir", "os.symlink", "os.remove", "os.rmdir", "os.chmod", "os.link")


def act(action: str, bundle: Path, home: Path) -> None:
    registry = Registry(home)
    if action == "promote":
        registry.promote(registry.install(bundle).version, "a test")
    else:
        registry.rollback("a test")


def killed_before(number: int) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook that ends the process before it changes the disk for the Nth time."""
    left = number

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        writes = event == "open" and bool(int(str(arguments[2] or 0)) & (os.O_WRONLY | os.O_RDWR))
        if event in CHANGES or writes:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    return hook


def main(action: str, bundle: str, *homes: str) -> None:
    for number, home in enumerate(homes):
        child = os.fork()
        if child == 0:
            sys.addaudithook(killed_before(number))
            act(action, Path(bundle), Path(home))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write("killed\n" if os.WIFSIGNALED(status) else f"{status}\n")
        if not os.WIFSIGNALED(status):
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
