"""Alembic migrations; they run at start, in one write transaction: two processes cannot race."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from core.errors import StoreError
from storage.database import Database

_POSTGRES_LOCK = 7_164_332  # any number, the same in every Pigeonhole process


def migrate(database: Database) -> None:
    """Bring the database to the newest schema; raises `StoreError` when it is newer than we are."""
    database.use_wal()
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRES_LOCK})
        try:
            command.upgrade(_config(connection), "head")
        except CommandError as error:
            raise StoreError(
                f"{database.url.render_as_string()}: {error}. A newer Pigeonhole wrote "
                "this database: install that one, or point PIGEONHOLE_DATABASE_URL elsewhere."
            ) from error


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
