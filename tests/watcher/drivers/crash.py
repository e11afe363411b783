"""One batch, killed before its Nth step, for every N; then finished by the next process in peace.

N counts from FIRST by STRIDE. A step is a change of the disk, an SQL statement, a commit, or either
side of a call that the worker makes. HOME number N is a copy of TEMPLATE. Says for each how the
first try ended, up to the first that was through before it could be killed.
POLICY BUNDLE TEMPLATE FOLDER FIRST STRIDE
"""

import functools
import gc
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine as SqlEngine
from sqlalchemy import event

from core.bundle import Bundle
from core.engine import Engine
from core.settings import After, Settings
from monitoring import logs
from monitoring.metrics import Metrics
from storage import files
from storage.database import Database
from storage.inbox import Walk, backlog
from storage.store import Store
from watcher import owner
from watcher.batch import Worker

STEP = "pigeonhole.step"
CHANGES = ("os.link", "os.remove", "os.rename", "os.mkdir", "os.utime", STEP)
CALLS = (
    (Store, ("claim", "record", "finish", "forget")),
    (Engine, ("submit_all",)),
    (files, ("read_once", "put_at_once", "put", "put_reason", "sync_folders", "remove")),
)


def killed_before(number: int) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook that ends the process before its step of this number."""
    left = number

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        # flags of `open`: for reading alone nothing changes
        writes = name == "open" and bool(int(str(arguments[2] or 0)) & (os.O_WRONLY | os.O_RDWR))
        if name in CHANGES or writes:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    return hook


def announce_steps() -> None:
    """Let the calls of the worker, and what they tell the database, be steps."""
    for place, names in CALLS:
        for name in names:
            setattr(place, name, stepping(getattr(place, name)))
    event.listen(SqlEngine, "before_cursor_execute", lambda *_: sys.audit(STEP))
    event.listen(SqlEngine, "commit", lambda _: sys.audit(STEP))


def stepping(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapped(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever it wraps
        sys.audit(STEP)
        answer = call(*arguments, **named)
        sys.audit(STEP)
        return answer

    return wrapped


def work(settings: Settings, store: Store, bundle: Bundle) -> None:
    """What a watcher does from its start to an empty inbox, without its threads."""
    metrics = Metrics(CollectorRegistry())
    with Engine(bundle, 1, settings.max_pixels) as engine:
        worker = Worker(settings, store, engine, metrics)
        worker.recover()
        worker.work(backlog(store.without_kept(Walk(settings.inbox)), 100).first, {})
    store.close()


def in_a_process_of_its_own(task: Callable[[], None]) -> int:
    """The exit status of a fork that does this; negative when it was killed."""
    child = os.fork()
    if child == 0:
        owner.this_process.cache_clear()
        task()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(policy: After, model: str, template: str, folder: str, *steps: str) -> None:
    logs.configure("json", "test")
    logging.disable(logging.CRITICAL)
    home = Path(folder) / "home"
    shutil.copytree(template, home)
    settings = Settings(home=home, after=policy)
    store = Store(Database(settings.database_url))
    peaceful = functools.partial(work, settings, store, Bundle.load(Path(model)))
    peaceful()  # so that forks need not compile every statement anew
    shutil.rmtree(home)
    gc.freeze()
    first, stride = map(int, steps)
    for number in range(first, 1000, stride):

        def doomed(number: int = number) -> None:
            announce_steps()
            sys.addaudithook(killed_before(number))
            peaceful()

        shutil.copytree(template, home)
        status, after = in_a_process_of_its_own(doomed), in_a_process_of_its_own(peaceful)
        home.rename(home.with_name(f"{number:03}"))
        sys.stdout.write(f"{status} {after}\n")
        if status == 0:
            return


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:])  # type: ignore[arg-type]
