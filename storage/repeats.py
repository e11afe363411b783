"""Answers that are given again: a client that repeats its request gets no second result.

After the draft "The Idempotency-Key HTTP Header Field" (draft-ietf-httpapi-idempotency-key-header).
An answer is kept in the transaction that commits the results it tells of: whoever dies has either
committed both, and the answer is given again, or neither, and the request starts anew.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, select, update
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


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to answer the requests with one key, until somebody takes it over."""

    key_sha256: str
    since: datetime

    @property
    def is_held(self) -> ColumnElement[bool]:
        """Whether a row is this claim: not answered yet, and not taken over."""
        columns = repeatable.c
        return and_(
            columns.sha256 == self.key_sha256,
            columns.created_at == self.since,
            columns.answer.is_(None),
        )


def claim(
    database: Database, key_sha256: str, request_sha256: str, now: datetime
) -> Claim | dict[str, Any]:
    """The answer that was given before, or the claim that is ours to `finish` or to `abandon`.

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
            return Claim(key_sha256, now)
        row = connection.execute(select(repeatable).where(columns.sha256 == key_sha256)).one()
    if row.request_sha256 != request_sha256:
        raise KeyReusedError(
            "This Idempotency-Key came with another request before. Take a new one."
        )
    if row.answer is None:
        raise InProgressError("The first request with this Idempotency-Key is not done yet.")
    answer: dict[str, Any] = row.answer
    return answer


def finish(connection: Connection, claimed: Claim, answer: Mapping[str, Any]) -> None:
    """Keep the answer for a day, in the transaction of this connection.

    Raises `InProgressError` when the claim was taken over; then nothing else may be committed.
    """
    kept = update(repeatable).where(claimed.is_held).values(answer=dict(answer))
    if not connection.execute(kept).rowcount:
        raise InProgressError("Another request with this Idempotency-Key has taken over.")


def abandon(database: Database, claimed: Claim) -> None:
    """It came to nothing, unless it is finished: the next request with this key starts anew."""
    with database.write() as connection:
        connection.execute(delete(repeatable).where(claimed.is_held))
