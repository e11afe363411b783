"""A backup is taken while rows are written, and what is restored is what was saved."""

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.types import Failure, ImageRef, ModelRef
from monitoring.exporter import Exporter
from monitoring.metrics import Metrics
from pigeonhole.__main__ import main
from storage.store import Finished, Store

MODEL = ModelRef("rgb", "1")


@pytest.fixture
def home(tmp_path: Path, rgb_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    shutil.copytree(rgb_bundle, home / "models/current")
    monkeypatch.setenv("PIGEONHOLE_HOME", str(home))
    monkeypatch.setenv("PIGEONHOLE_PORT", "1")
    monkeypatch.setenv("PIGEONHOLE_WATCHER_METRICS_PORT", "1")
    monkeypatch.chdir(tmp_path)
    return home


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{home}/pigeonhole.db")
    yield store
    store.close()


def record(store: Store, count: int) -> None:
    now = datetime.now(UTC)
    finished = [
        Finished(ImageRef(f"{number:064}", f"{number}.png", 1), Failure("x", "y"), now, 1.0)
        for number in range(count)
    ]
    store.record(finished, source="batch", model=MODEL, min_confidence=0.5, now=now)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def save(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run("backup", str(folder)) == 0
    return Path(capsys.readouterr().out.strip())


def rows(home: Path) -> int:
    store = Store.open(f"sqlite:///{home}/pigeonhole.db")
    count = store.count()
    store.close()
    return count


def test_what_is_saved_is_what_comes_back(
    home: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(store, 5)
    saved = save(tmp_path / "backups", capsys)
    record(store, 3)
    store.close()
    (home / "models/current/labels.txt").write_text("spoilt\n")

    assert run("restore", str(saved)) == 0

    assert rows(home) == 5
    assert (home / "models/current/labels.txt").read_text() == "red\ngreen\nblue\n"
    (aside,) = home.glob("pigeonhole.db.before-*")
    with closing(sqlite3.connect(aside)) as before:
        assert before.execute("SELECT count(*) FROM results").fetchone() == (8,)
    assert list(home.glob("models.before-*"))


def test_a_backup_is_one_file_and_needs_no_journal(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(store, 1)
    saved = save(tmp_path / "backups", capsys)

    assert {file.name for file in saved.iterdir()} == {"pigeonhole.db", "models", "backup.json"}


def test_backups_while_rows_are_written_are_whole(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping = threading.Event()

    def write() -> None:
        while not stopping.is_set():
            record(store, 7)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        saved = [save(tmp_path / "backups", capsys) for _ in range(5)]
    finally:
        stopping.set()
        writer.join()

    for backup in saved:
        with closing(sqlite3.connect(backup / "pigeonhole.db")) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            (count,) = copy.execute("SELECT count(*) FROM results").fetchone()
            assert count % 7 == 0, "a batch is one transaction: it is there or not"


def test_the_journal_of_the_old_database_does_not_touch_the_new_one(
    home: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(store, 2)
    saved = save(tmp_path / "backups", capsys)
    record(store, 40)
    # As after a power cut: nobody closed it, so its journal is still there.
    left = {name: (home / name).read_bytes() for name in ("pigeonhole.db", "pigeonhole.db-wal")}
    store.close()
    for name, content in left.items():
        (home / name).write_bytes(content)

    assert run("restore", str(saved)) == 0

    assert rows(home) == 2


@pytest.mark.parametrize("runs", ["PIGEONHOLE_WATCHER_METRICS_PORT", "PIGEONHOLE_PORT"])
def test_nothing_is_restored_under_a_running_pigeonhole(
    home: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runs: str,
) -> None:
    record(store, 1)
    saved = save(tmp_path / "backups", capsys)
    record(store, 1)
    with Exporter("127.0.0.1", 0, Metrics(), live={}, ready={}) as exporter:
        monkeypatch.setenv(runs, str(exporter.address[1]))
        assert run("restore", str(saved)) == 1

    assert "Stop it first" in capsys.readouterr().err
    assert rows(home) == 2


def test_a_damaged_backup_is_refused_and_nothing_is_touched(
    home: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(store, 300)
    saved = save(tmp_path / "backups", capsys)
    file = saved / "pigeonhole.db"
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 9000] = bytes(9000)
    file.write_bytes(content)
    store.close()

    assert run("restore", str(saved)) == 1

    assert "Traceback" not in capsys.readouterr().err
    assert rows(home) == 300


@pytest.mark.parametrize("what", ["nothing there", "not a backup"])
def test_says_what_is_missing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    command = ("backup", "b") if what == "nothing there" else ("restore", str(tmp_path))

    assert run(*command) == 1
    assert capsys.readouterr().err.startswith("Error: ")
    assert not list(home.glob("*.before-*"))


@pytest.mark.usefixtures("home")
def test_postgres_has_tools_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIGEONHOLE_DATABASE_URL", "postgresql+psycopg://a@b/c")

    assert run("backup", "b") == 1
    assert "pg_dump" in capsys.readouterr().err
