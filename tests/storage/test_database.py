"""The connections: what SQLite promises through them, and which URLs are none of ours."""

import importlib.util
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from core.errors import StoreError
from storage.database import Database

AtOnce = Callable[..., list[tuple[int, str, str]]]


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    database.use_wal()
    with database.write() as connection:
        connection.execute(text("CREATE TABLE counter (number INTEGER NOT NULL)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))
    yield database
    database.close()


def number_in(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(text("SELECT number FROM counter")).scalar_one())


def test_the_file_is_in_wal_mode(database: Database) -> None:
    with database.read() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"


def test_to_switch_to_wal_again_changes_nothing(database: Database) -> None:
    database.use_wal()

    assert number_in(database) == 0


@pytest.mark.parametrize("way_in", ["read", "write"])
def test_every_connection_syncs_fully_and_keeps_foreign_keys(
    way_in: str, database: Database
) -> None:
    with (
        getattr(database, way_in)() as first,
        database.read() as second,
    ):  # two at once: no connection of the pool is used twice
        for connection in (first, second):
            assert connection.scalar(text("PRAGMA synchronous")) == 2  # FULL
            assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_a_reader_cannot_write(database: Database) -> None:
    with (
        pytest.raises(OperationalError, match="readonly"),
        database.read() as connection,
    ):
        connection.execute(text("UPDATE counter SET number = 5"))

    assert number_in(database) == 0


def test_a_transaction_that_reads_first_may_write_although_others_wrote_before(
    url: str, database: Database
) -> None:
    # Two Database objects are like two processes. A deferred BEGIN would fail here at once with
    # SQLITE_BUSY_SNAPSHOT: it would read, somebody else would commit, and then it would write.
    other = Database(url)
    for _ in range(20):
        for each in (database, other):
            with each.write() as connection:
                number = connection.execute(text("SELECT number FROM counter")).scalar_one()
                connection.execute(text("UPDATE counter SET number = :next"), {"next": number + 1})
    other.close()

    assert number_in(database) == 40


def test_a_write_transaction_has_the_lock_before_its_first_statement(
    tmp_path: Path, database: Database
) -> None:
    with database.write(), closing(sqlite3.connect(tmp_path / "pigeonhole.db", timeout=0)) as other:
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN")  # what reads is let in


def test_an_exception_takes_the_whole_transaction_back(database: Database) -> None:
    def half_way() -> None:
        with database.write() as connection:
            connection.execute(text("UPDATE counter SET number = 5"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_way()

    assert number_in(database) == 0
    with database.write() as connection:  # and the next one can begin
        connection.execute(text("UPDATE counter SET number = 6"))
    assert number_in(database) == 6


def test_readers_go_on_while_a_writer_holds_its_transaction_and_see_what_was(
    database: Database,
) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE counter SET number = 5"))

        assert number_in(database) == 0

    assert number_in(database) == 5


def test_a_reader_keeps_its_view_while_others_commit(database: Database) -> None:
    with database.read() as connection:
        before = connection.scalar(text("SELECT number FROM counter"))
        with database.write() as writing:
            writing.execute(text("UPDATE counter SET number = 5"))

        assert connection.scalar(text("SELECT number FROM counter")) == before


def test_two_processes_of_four_threads_write_at_once_and_nobody_is_locked_out(
    url: str, database: Database, at_once: AtOnce
) -> None:
    answers = at_once("count_up.py", (url, 4, 100), (url, 4, 100))

    assert answers == [(0, "", ""), (0, "", "")]
    assert number_in(database) == 800  # no step of anybody was lost


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "pigeonhole.db",
        "/var/lib/pigeonhole.db",
        "mysql://user@host/name",
        "sqlite+aiosqlite:///pigeonhole.db",
        "nosuch://host/name",
        "postgresql://host:port/name",
        "postgresql+asyncpg://host/name",
        "://",
    ],
)
def test_a_url_of_nothing_that_we_can_use_is_refused_with_examples(wrong: str) -> None:
    with pytest.raises(StoreError, match="PIGEONHOLE_DATABASE_URL") as caught:
        Database(wrong)

    assert "Use sqlite:////folder/file.db or postgresql+psycopg://" in str(caught.value)


@pytest.mark.parametrize(
    "memory",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:x?mode=memory&uri=true",
    ],
)
def test_sqlite_without_a_file_is_refused(memory: str) -> None:
    with pytest.raises(StoreError, match=r"SQLite needs one.*Use sqlite:////folder/file\.db"):
        Database(memory)


def test_a_refused_url_is_quoted_without_its_password() -> None:
    with pytest.raises(StoreError) as caught:
        Database("postgres://user:a@secret/word@host/name")

    assert "secret" not in str(caught.value)
    assert "postgres:***@host/name" in str(caught.value)


def test_a_missing_driver_is_refused_with_the_command_that_installs_it() -> None:
    if importlib.util.find_spec("psycopg2"):
        pytest.skip("psycopg2 is installed here")

    with pytest.raises(StoreError, match="pip install 'psycopg"):
        Database("postgresql+psycopg2://user@host/name")


def test_the_folder_of_the_file_is_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/a/b/pigeonhole.db")
    database.use_wal()
    database.close()

    assert (tmp_path / "a/b/pigeonhole.db").is_file()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file, not a folder")

    with pytest.raises(StoreError, match="Choose a folder"):
        Database(f"sqlite:///{tmp_path}/a/pigeonhole.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"not a database at all" * 100)
    database = Database(f"sqlite:///{tmp_path}/holiday.jpg")

    with pytest.raises(StoreError, match=r"not a database\. Try `pigeonhole doctor`"):
        database.use_wal()
    database.close()


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}")

    with pytest.raises(StoreError, match="pigeonhole doctor"):
        database.use_wal()
    database.close()


def test_small_and_capital_letters_are_those_of_every_language(database: Database) -> None:
    with database.read() as connection:
        assert connection.scalar(text("SELECT lower('ÄRGER ÉTÉ ИЮНЬ')")) == "ärger été июнь"
        assert connection.scalar(text("SELECT lower(NULL)")) is None
