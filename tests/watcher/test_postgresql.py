"""PostgreSQL instead of SQLite: the same watchers, the same promises."""

import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from storage.results import ResultFilter
from storage.store import Store


def visible(folder: Path) -> list[str]:
    """What people see there: not the watcher's own hidden files."""
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def test_two_watchers_on_postgresql_share_an_inbox_and_one_of_them_is_killed(
    empty_in_postgresql: str,
    start: Callable[..., subprocess.Popen[bytes]],
    home: Path,
    until: Callable[..., None],
    paint: Callable[..., bytes],
) -> None:
    url = empty_in_postgresql
    store = Store.open(url)
    watchers = [start(DATABASE_URL=url, RECONCILE_S="1", BATCH_SIZE="4") for _ in range(2)]
    for number in range(120):
        (home / "inbox" / f"{number}.png").write_bytes(paint("red", (20 + number, 20)))
    (home / "inbox" / "broken.png").write_bytes(paint("red")[:40])
    until(lambda: store.count() > 20, "some rows are there", 90)
    watchers[0].send_signal(signal.SIGKILL)

    until(lambda: not visible(home / "inbox"), "the inbox is empty", 90)
    until(lambda: all(row.path for row in store.stream(ResultFilter())), "all is filed", 90)
    rows = list(store.stream(ResultFilter()))
    store.close()

    assert Counter(row.status for row in rows) == {"classified": 120, "quarantined": 1}
    assert len({row.filename for row in rows}) == 121
    assert all(row.path is not None and (home / row.path).is_file() for row in rows)
