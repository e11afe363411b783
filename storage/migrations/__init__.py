"""Alembic migrations; they run at start, in one write transaction: two processes cannot race."""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from core.errors import StoreError
from storage.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

_FOLDER = Path(__file__).parent


def migrate(database: Database) -> None:
    """Bring the database to the newest schema.

    Raises `StoreError` when it is newer than we are, not ours, or out of reach.
    """
    database.use_wal()
    if not _is_newest(database):
        _upgrade(database)


def _is_newest(database: Database) -> bool:
    """Nearly every start: then Alembic, a quarter of what a start costs, is not even imported."""
    newest = max(path.name for path in _FOLDER.glob("versions/[0-9]*.py")).partition("_")[0]
    try:
        with database.read() as connection:
            found = connection.scalars(text("SELECT version_num FROM alembic_version")).all()
    except DBAPIError:
        return False  # there is no such table yet; of anything worse, `_upgrade` tells
    return found == [newest]


def _upgrade(database: Database) -> None:
    from alembic import command  # noqa: PLC0415 - see `_is_newest`
    from alembic.util import CommandError  # noqa: PLC0415

    place = database.url.render_as_string()  # without its password
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


def _config(connection: Connection) -> "Config":
    from alembic.config import Config  # noqa: PLC0415 - see `_is_newest`

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
