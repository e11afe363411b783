"""Alembic migrations; they run at start, in one write transaction: two processes cannot race."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from core.errors import StoreError
from storage.database import Database


def migrate(database: Database) -> None:
    """Bring the database to the newest schema.

    Raises `StoreError` when it is newer than we are, not ours, or out of reach.
    """
    place = database.url.render_as_string()  # without its password
    database.use_wal()
    try:
        with database.write() as connection:
            command.upgrade(_config(connection), "head")
    except CommandError as error:
        raise StoreError(
            f"{place}: {error}. A newer Pigeonhole wrote this database: install that one, or "
            "point PIGEONHOLE_DATABASE_URL elsewhere."
        ) from error
    except DBAPIError as error:
        raise StoreError(
            f"{place}: {error.orig}. Is this the right PIGEONHOLE_DATABASE_URL, and is the "
            "database up? Try `pigeonhole doctor`."
        ) from error


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
