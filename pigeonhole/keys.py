"""`pigeonhole keys`: who may use the API, and for what."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime

from core.settings import Settings
from pigeonhole.talk import say
from pigeonhole.terminal import cell, plain_table, print_json, print_table
from storage import keys
from storage.database import Database
from storage.keys import SCOPES, Key, Scope
from storage.store import Store


def add(name: str, scopes: Sequence[str]) -> int:
    """Make a key and print it: the only time that anybody sees it."""
    with _database() as database:
        wanted: list[Scope] = [scope for scope in SCOPES if scope in scopes]
        key = keys.add(database, name, wanted, datetime.now(UTC))
    print(key)  # noqa: T201 - the data of this command
    say("Keep it well: it is not shown again. Send it as the header X-API-Key.")
    return 0


def listing(*, as_json: bool) -> int:
    """Print every key: its name, its scopes and its age, never itself."""
    with _database() as database:
        found = keys.every(database)
    if as_json:
        print_json([_to_dict(key) for key in found])
        return 0
    table = plain_table("name", "scopes", "made")
    for key in found:
        scopes = " ".join(scope for scope in SCOPES if scope in key.scopes)
        table.add_row(cell(key.name), scopes, f"{key.created_at:%Y-%m-%d %H:%MZ}")
    print_table(table)
    return 0


def revoke(name: str) -> int:
    """Let a key open nothing any more, within two seconds."""
    with _database() as database:
        keys.revoke(database, name)
    say(f"{name} opens nothing any more.")
    return 0


@contextmanager
def _database() -> Iterator[Database]:
    with closing(Store.open(Settings.read().database_url)) as store:
        yield store.database


def _to_dict(key: Key) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": [scope for scope in SCOPES if scope in key.scopes],
        "created_at": key.created_at.isoformat() if key.created_at else None,
    }
