"""Keys of the API, of which only hashes are kept, and secrets that all processes share.

A key is 32 random bytes, so one round of SHA-256 hides it: there is no list of likely keys to try,
as there is of passwords.
"""

import hashlib
import hmac
import re
import secrets as randomness
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from core.errors import PigeonholeError
from core.ids import uuid7
from storage.database import Database
from storage.schema import api_keys, secrets

Scope = Literal["read", "write", "review", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)


class KeyNameError(PigeonholeError):
    """There is no key of this name, or there is one already, or it is no name."""

    code = "bad_key_name"


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is known by its hash; `admin` may do everything."""

    id: str
    name: str
    scopes: frozenset[Scope]
    sha256: str
    created_at: datetime | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it opens what this scope is for."""
        return scope in self.scopes or "admin" in self.scopes


def add(database: Database, name: str, scopes: Iterable[Scope], now: datetime) -> str:
    """Make a key; the answer is the key itself, which nobody can see again.

    Raises `KeyNameError`.
    """
    if not _NAME.fullmatch(name):
        raise KeyNameError("A name has 1 to 64 letters, digits and . _ - @")
    key = f"ph_{randomness.token_urlsafe(32)}"
    row = {
        "id": str(uuid7()),
        "name": name,
        "scopes": ",".join(scope for scope in SCOPES if scope in set(scopes)),
        "sha256": digest(key),
        "created_at": now,
    }
    try:
        with database.write() as connection:
            connection.execute(api_keys.insert().values(row))
    except IntegrityError:
        raise KeyNameError(
            f"There is a key named {name} already. Choose another name, or revoke that one."
        ) from None
    return key


def every(database: Database) -> list[Key]:
    """All keys that are good, oldest first."""
    with database.read() as connection:
        rows = connection.execute(select(api_keys).order_by(api_keys.c.id)).all()
    return [
        Key(
            row.id,
            row.name,
            frozenset(scope for scope in SCOPES if scope in row.scopes.split(",")),
            row.sha256,
            row.created_at,
        )
        for row in rows
    ]


def revoke(database: Database, name: str) -> None:
    """Let a key open nothing from now on; raises `KeyNameError` where there is none."""
    with database.write() as connection:
        gone = connection.execute(delete(api_keys).where(api_keys.c.name == name)).rowcount
    if not gone:
        raise KeyNameError(f"There is no key named {name}. `pigeonhole keys list` shows them.")


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def match(keys: Iterable[Key], given: str) -> Key | None:
    """The key that was given; takes the same time whichever it is, and if it is none."""
    wanted = digest(given)
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, wanted):
            found = key
    return found


def shared_secret(database: Database, name: str) -> bytes:
    """A random secret that every process of this database knows; made when first asked for."""
    dialect = sqlite if database.is_sqlite else postgresql
    insert: Any = dialect.insert(secrets).values(name=name, value=randomness.token_bytes(32))
    query = select(secrets.c.value).where(secrets.c.name == name)
    with database.read() as connection:
        value = connection.scalar(query)
    if value is None:
        with database.write() as connection:
            connection.execute(insert.on_conflict_do_nothing())
            value = connection.scalar(query)
    return bytes(value or b"")
