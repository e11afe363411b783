"""`pigeonhole results`: what is stored, filtered as REST filters it, in any format."""

from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from core.errors import StoreError
from core.settings import Settings
from pigeonhole import output
from storage.export import PIECE_BYTES
from storage.results import Order, ResultFilter
from storage.store import Store


def run(
    wanted: ResultFilter,
    *,
    order: Order,
    limit: int | None,
    shown: output.Shown | None,
    out: Path | None,
) -> int:
    """Write all matching rows, or the first `limit`, as they are read."""
    settings = Settings.read()
    shown = output.chosen(shown, out)
    with closing(open_existing(settings)) as store:
        output.write(
            store.stream(wanted, order=order, limit=limit),
            shown,
            out,
            name=lambda result: result.filename,
            with_times=True,
            piece_bytes=PIECE_BYTES,
        )
    return 0


def open_existing(settings: Settings) -> Store:
    """The database of this HOME; raises `StoreError` where nothing was ever recorded."""
    missing = missing_database(settings)
    if missing is not None:
        raise StoreError(
            f"Nothing has been recorded yet: {missing} does not exist. Start `pigeonhole up`, or "
            "set PIGEONHOLE_HOME to the folder that you mean."
        )
    return Store.open(settings.database_url)


def missing_database(settings: Settings) -> Path | None:
    """The file that would be made by opening the database, or None when it is there."""
    file = database_file(settings)
    return None if file is None or file.exists() else file


def database_file(settings: Settings) -> Path | None:
    """Where SQLite keeps the database; None for a server, and for what is no address at all."""
    try:
        url = make_url(settings.database_url)
    except ArgumentError:
        return None
    is_file = url.get_backend_name() == "sqlite" and url.database
    return Path(url.database or "").absolute() if is_file else None
