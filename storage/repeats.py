"""Answers that are given again: a client that repeats its request gets no second result.

After the draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key-header).
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from core.errors import PigeonholeError
from storage.database import Database
from storage.schema import repeatable

KEPT = timedelta(days=1)
GIVEN_UP = timedelta(minutes=1)  # whoever worked on it has died


class KeyReusedError(PigeonholeError):
    """The same key came with another request before."""

    code = "idempotency_key_reused"


class InProgressError(PigeonholeError):
    """The first request with this key is still being worked on."""

    code = "request_in_progress"


def fingerprint(*parts: str) -> str:
    """One hash of several words."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode() + part.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def claim(
    database: Database, key_sha256: str, request_sha256: str, now: datetime
) -> dict[str, Any] | None:
    """The answer that was given before; None: it is ours to `finish` or to `abandon`.

    Raises `KeyReusedError` and `InProgressError`.
    """
    dialect = sqlite if database.is_sqlite else postgresql
    columns = repeatable.c
    insert: Any = dialect.insert(repeatable).values(
        sha256=key_sha256, request_sha256=request_sha256, created_at=now
    )
    with database.write() as connection:
        connection.execute(delete(repeatable).where(columns.created_at < now - KEPT))
        is_dead = columns.answer.is_(None) & (columns.created_at < now - GIVEN_UP)
        connection.execute(delete(repeatable).where(columns.sha256 == key_sha256, is_dead))
        if connection.execute(insert.on_conflict_do_nothing()).rowcount:
            return None
        row = connection.execute(select(repeatable).where(columns.sha256 == key_sha256)).one()
    if row.request_sha256 != request_sha256:
        raise KeyReusedError(
            "This Idempotency-Key came with another request before. Take a new one."
        )
    if row.answer is None:
        raise InProgressError("The first request with this Idempotency-Key is not done yet.")
    answer: dict[str, Any] = row.answer
    return answer


def finish(database: Database, key_sha256: str, answer: Mapping[str, Any]) -> None:
    """Keep the answer for a day."""
    with database.write() as connection:
        mine = repeatable.c.sha256 == key_sha256
        connection.execute(update(repeatable).where(mine).values(answer=dict(answer)))


def abandon(database: Database, key_sha256: str) -> None:
    """It came to nothing: the next request with this key starts anew."""
    with database.write() as connection:
        connection.execute(delete(repeatable).where(repeatable.c.sha256 == key_sha256))
