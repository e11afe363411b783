"""From an empty file, or an older one, to the schema that the code speaks of."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from core.errors import StoreError
from storage import migrations
from storage.database import Database
from storage.migrations import migrate
from storage.schema import metadata
from storage.store import Store

AtOnce = Callable[..., list[tuple[int, str, str]]]


def newest() -> str | None:
    folder = Path(migrations.__file__).parent
    return ScriptDirectory(str(folder)).get_current_head()


def schema_of(url: str) -> list[str]:
    """Every statement that made this database, but for Alembic's own table."""
    query = text(
        "SELECT sql FROM sqlite_schema "
        "WHERE sql IS NOT NULL AND name != 'alembic_version' ORDER BY name"
    )
    database = Database(url)
    with database.read() as connection:
        found = [" ".join(statement.split()) for statement in connection.scalars(query)]
    database.close()
    return found


def test_an_empty_file_gets_the_newest_schema(store: Store) -> None:
    with store.database.read() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == newest()
        assert set(inspect(connection).get_table_names()) == {
            "alembic_version",
            *metadata.tables,
        }


def test_a_database_of_the_newest_schema_is_opened_without_alembic(
    url: str, store: Store, tmp_path: Path
) -> None:
    store.close()
    code = (
        "import sys; from storage.store import Store; Store.open(sys.argv[1]).close(); "
        "sys.exit('alembic' in sys.modules)"
    )

    def opens_with_alembic(url: str) -> int:
        return subprocess.run([sys.executable, "-c", code, url], check=False).returncode

    assert opens_with_alembic(url) == 0
    assert opens_with_alembic(f"sqlite:///{tmp_path}/new.db") == 1


def test_the_migrations_make_what_the_schema_says(store: Store) -> None:
    with store.database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )

        assert compare_metadata(context, metadata) == []


def test_the_migrations_make_what_the_schema_would_make(url: str, tmp_path: Path) -> None:
    # `compare_metadata` does not see everything: constraint names, AUTOINCREMENT, column order.
    Store.open(url).close()
    other = f"sqlite:///{tmp_path / 'other.db'}"
    database = Database(other)
    with database.write() as connection:
        metadata.create_all(connection)
    database.close()

    assert schema_of(url) == schema_of(other)


def test_to_migrate_twice_changes_nothing(store: Store, url: str) -> None:
    before = schema_of(url)

    migrate(store.database)

    assert schema_of(url) == before


def test_rows_stay_when_the_program_starts_again(
    url: str, record: Callable[..., object], finished: Callable[..., object]
) -> None:
    record(finished("a.jpg"))

    again = Store.open(url)

    assert again.count() == 1
    again.close()


def test_four_processes_that_start_at_once_on_a_new_file_all_succeed(
    url: str, at_once: AtOnce
) -> None:
    answers = at_once("migrate.py", *[(url,)] * 4)

    assert answers == [(0, "", "")] * 4  # and none of them has a word to say
    assert len([line for line in schema_of(url) if "CREATE TABLE results" in line]) == 1


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(
    url: str, store: Store, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "pigeonhole.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(StoreError, match="A newer Pigeonhole wrote this database: install") as told:
        Store.open(url)

    assert "pigeonhole.db" in str(told.value)
    with store.database.read() as reading:
        assert reading.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


def test_a_migration_that_fails_leaves_nothing_behind(url: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "pigeonhole.db")) as connection, connection:
        connection.execute("CREATE TABLE results (of_somebody_else TEXT)")

    with pytest.raises(StoreError, match="already exists"):
        Store.open(url)

    assert schema_of(url) == ["CREATE TABLE results (of_somebody_else TEXT)"]


def test_what_a_migration_makes_its_downgrade_takes_back(store: Store) -> None:
    from alembic import command  # noqa: PLC0415 - the one test that needs it

    with store.database.write() as connection:
        command.downgrade(migrations._config(connection), "base")  # noqa: SLF001

        assert inspect(connection).get_table_names() == ["alembic_version"]
