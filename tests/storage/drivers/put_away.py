"""Put away what somebody who died has left in each HOME, killed before the Nth change of the disk.

HOME number N is tried twice: first the process is killed with SIGKILL before its Nth change, then
once more in peace. Says for each HOME how the first try ended, up to the first that was through
before it could be killed. FOLDER HOME...
"""

import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from storage import files
from storage.database import Database
from storage.store import Filing, Store

STEP = "pigeonhole.step"  # between steps that Python does not announce
NEW_OR_GONE = ("os.link", "os.remove", "os.rename", "os.mkdir", "os.utime", STEP)
FAR_AWAY = datetime(2100, 1, 1, tzinfo=UTC)


def put_away(home: Path, folder: Path) -> None:
    """What a watcher does at its start: link all, sync, unlink all, sync, close."""
    store = Store(Database(f"sqlite:///{home / 'pigeonhole.db'}"))
    filings = store.take_unfinished("heir", FAR_AWAY, 0)
    placed = [(filing, place(home, folder, filing)) for filing in filings]
    files.sync_folders(target.parent for _, target in placed if target)
    for filing in filings:
        files.remove(home / "inbox" / filing.delivery.path, filing.delivery.stamp)
    files.sync_folders([home / "inbox"])
    sys.audit(STEP)
    store.finish([(filing.delivery.id, str(target)) for filing, target in placed])
    sys.audit(STEP)
    store.close()


def place(home: Path, folder: Path, filing: Filing) -> Path | None:
    source = home / "inbox" / filing.delivery.path
    tag = filing.delivery.id[-8:]
    target = files.put(source, filing.delivery.stamp, folder, tag, filing.result.sha256)
    if target and filing.result.error:
        files.put_reason(target, {"code": filing.result.error.code, "id": filing.result.id})
    return target


def killed_before(number: int) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook that ends the process before it changes the disk for the Nth time."""
    left = number

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        # flags of `open`: for reading alone nothing changes
        writes = event == "open" and bool(int(str(arguments[2] or 0)) & (os.O_WRONLY | os.O_RDWR))
        if event in NEW_OR_GONE or writes:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    return hook


def main(folder: str, *homes: str) -> None:
    for number, home in enumerate(homes):
        child = os.fork()
        if child == 0:
            sys.addaudithook(killed_before(number))
            put_away(Path(home), Path(home) / folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write("killed\n" if os.WIFSIGNALED(status) else f"{status}\n")
        put_away(Path(home), Path(home) / folder)
        if not os.WIFSIGNALED(status):
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
