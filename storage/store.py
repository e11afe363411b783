"""Claims, results and queries: the queue and the table behind a few verbs.

Two processes meet only here. Every verb that changes something is one transaction; what it says is
durable when it returns.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    func,
    insert,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from core.ids import uuid7
from core.types import (
    Delivery,
    Failure,
    ImageInfo,
    ImageRef,
    LabelScore,
    ModelRef,
    Outcome,
    Prediction,
    Stamp,
)
from storage import outbox
from storage.audit import is_audited
from storage.database import Database
from storage.inbox import Found
from storage.migrations import migrate
from storage.results import (
    Order,
    Page,
    Result,
    ResultFilter,
    Source,
    conditions,
    encode_cursor,
    from_mapping,
    from_row,
    input_statistics,
    page_query,
)
from storage.schema import deliveries, results

_T = TypeVar("_T")
_Lasting = tuple[bytes, int, int, int]  # path, inode, size, mtime
LONGEST_HOLD = timedelta(minutes=3)  # no lease and no back-off is longer
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_STREAM_ROWS = 500
_LOOKUP_ROWS = 500  # values in one IN (...)
_IDENTITY = (
    deliveries.c.path,
    deliveries.c.device,
    deliveries.c.inode,
    deliveries.c.size_bytes,
    deliveries.c.mtime_ns,
)


# Statements of every batch. Made once: to build one takes longer than to execute it.
_CLAIMED_BY_US = and_(
    tuple_(deliveries.c.id, deliveries.c.attempts).in_(bindparam("claims", expanding=True)),
    deliveries.c.state == "claimed",
)
_MARK_CLASSIFIED = (
    update(deliveries).where(_CLAIMED_BY_US).values(state="classified").returning(deliveries.c.id)
)
_FIRST_ANSWERS = select(results).where(
    results.c.seq.in_(
        select(func.min(results.c.seq))
        .where(
            results.c.status == "classified",
            results.c.model_name == bindparam("name"),
            results.c.model_version == bindparam("version"),
            results.c.sha256.in_(bindparam("hashes", expanding=True)),
        )
        .group_by(results.c.sha256)
    )
)
_ORIGINALS = select(results.c.sha256, results.c.id).where(
    results.c.seq.in_(
        select(func.min(results.c.seq))
        .where(results.c.sha256.in_(bindparam("hashes", expanding=True)))
        .group_by(results.c.sha256)
    )
)
_AMONG = deliveries.c.id.in_(bindparam("ids", expanding=True))
_OPEN = select(deliveries.c.id).where(deliveries.c.state == "classified", _AMONG)
_FILE = (
    update(results)
    .where(results.c.delivery_id == bindparam("whose"))
    .values(path=bindparam("place"))
)
_KEEP = update(deliveries).where(_AMONG).values(state="kept")
_CLOSE = delete(deliveries).where(_AMONG)


@dataclass(frozen=True, slots=True)
class Finished:
    """One image with its outcome, ready to be recorded. `delivery` is None for uploads.

    `path`: where the file is kept already, relative to PIGEONHOLE_HOME.
    """

    image: ImageRef
    outcome: Outcome
    received_at: datetime
    latency_ms: float
    delivery: Delivery | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Filing:
    """A row that is committed while its file still waits in the inbox to be filed."""

    delivery: Delivery
    result: Result


@dataclass(frozen=True, slots=True)
class Waiting:
    """A delivery that is not finished: who has it until when, and what went wrong before."""

    path: str
    stamp: Stamp
    state: str  # claimed | waiting | classified
    owner: str
    attempts: int
    until: datetime
    error: str | None


class Store:
    """The database of one Pigeonhole; `open` migrates it.

    With `with_outbox`, every new result is also noted for the webhook (see `storage.outbox`).
    """

    def __init__(self, database: Database, *, with_outbox: bool = False) -> None:
        self.database = database
        self._with_outbox = with_outbox
        dialect: Any = sqlite if database.is_sqlite else postgresql
        self._insert_new = (
            dialect.insert(deliveries).on_conflict_do_nothing().returning(*deliveries.c)
        )

    @classmethod
    def open(cls, url: str, *, with_outbox: bool = False) -> "Store":
        """Connect and migrate; raises `StoreError`."""
        database = Database(url)
        migrate(database)
        return cls(database, with_outbox=with_outbox)

    def close(self) -> None:
        """Give every connection back."""
        self.database.close()

    # --- the queue ---------------------------------------------------------------------------

    def claim(
        self, files: Sequence[tuple[str, Stamp]], owner: str, now: datetime, lease_s: float
    ) -> list[Delivery]:
        """Take files for this owner: new ones, due retries and those whose lease has run out.

        Files that somebody else holds, or that have their row already, are left out. The answer is
        in the order of `files`.
        """
        until = now + timedelta(seconds=lease_s)
        mine: dict[tuple[bytes, Stamp], Delivery] = {}
        with self.database.write() as connection:
            rows = [
                {
                    "id": str(uuid7()),
                    **_identity(path, stamp),
                    "state": "claimed",
                    "owner": owner,
                    "lease_until": until,
                    "attempts": 1,
                    "received_at": now,
                }
                for path, stamp in files
            ]
            for chunk in _chunks(rows):
                for row in connection.execute(self._insert_new, chunk):
                    mine[bytes(row.path), _stamp(row)] = _delivery(row)
            rest = [file for file in files if (os.fsencode(file[0]), file[1]) not in mine]
            for part in _chunks(rest):
                for row in connection.execute(_take_over(part, owner, now, until)):
                    mine[bytes(row.path), _stamp(row)] = _delivery(row)
        keys = dict.fromkeys((os.fsencode(path), stamp) for path, stamp in files)
        return [mine[key] for key in keys if key in mine]

    def release(self, taken: Iterable[Delivery]) -> None:
        """Give claims back untouched: this attempt did not count."""
        with self.database.write() as connection:
            for chunk in _chunks(list(taken)):
                connection.execute(
                    update(deliveries)
                    .where(_held(chunk))
                    .values(lease_until=_LONG_AGO, attempts=deliveries.c.attempts - 1)
                )

    def release_all(self, owner: str) -> None:
        """Give back everything that this owner holds, as `release` does; it does nothing now."""
        mine = deliveries.c.owner == owner
        with self.database.write() as connection:
            connection.execute(
                update(deliveries)
                .where(mine, deliveries.c.state == "claimed", deliveries.c.lease_until > _LONG_AGO)
                .values(lease_until=_LONG_AGO, attempts=deliveries.c.attempts - 1)
            )
            connection.execute(
                update(deliveries)
                .where(mine, deliveries.c.state == "classified")
                .values(lease_until=_LONG_AGO)
            )

    def forget(self, gone: Iterable[Delivery]) -> None:
        """Drop claims on files that vanished or changed; what is there now is a new delivery."""
        with self.database.write() as connection:
            for chunk in _chunks(list(gone)):
                connection.execute(delete(deliveries).where(_held(chunk)))

    def postpone(self, delivery: Delivery, until: datetime, error: Failure) -> None:
        """Try this file again, not before `until`."""
        with self.database.write() as connection:
            connection.execute(
                update(deliveries)
                .where(_held([delivery]))
                .values(
                    state="waiting",
                    lease_until=until,
                    postponed=deliveries.c.postponed + 1,
                    error_code=error.code,
                    error_detail=error.detail,
                )
            )

    def owners(self) -> list[str]:
        """Everybody who holds a claim or has a file left to put away."""
        with self.database.read() as connection:
            return list(
                connection.scalars(
                    select(deliveries.c.owner)
                    .where(deliveries.c.state.in_(("claimed", "classified")))
                    .distinct()
                )
            )

    def end_leases(self, dead: Sequence[str]) -> None:
        """End every lease of owners that are known to be dead."""
        with self.database.write() as connection:
            connection.execute(
                update(deliveries)
                .where(
                    deliveries.c.owner.in_(dead),
                    deliveries.c.state.in_(("claimed", "classified")),
                )
                .values(lease_until=_LONG_AGO)
            )

    def postpone_filing(self, failed: Iterable[Delivery], until: datetime) -> None:
        """Their rows stand; put the files away later, not before `until`."""
        with self.database.write() as connection:
            for chunk in _chunks([delivery.id for delivery in failed]):
                connection.execute(
                    update(deliveries)
                    .where(deliveries.c.id.in_(chunk), deliveries.c.state == "classified")
                    .values(lease_until=until)
                )

    def without_kept(self, found: Iterable[Found]) -> Iterator[Found]:
        """The same without the files that policy `keep` has left there, and nobody changed since.

        The database is asked piece by piece: memory is the same for any number of kept files.
        """
        if not self._has_kept():
            yield from found
            return
        rest = iter(found)
        while piece := list(islice(rest, _LOOKUP_ROWS)):
            kept = self._kept_of(piece)
            yield from (each for each in piece if _lasting(each) not in kept)

    def forget_kept(self, path: str) -> bool:
        """Take up again a file that policy `keep` has left; False if it has left none there."""
        mine = and_(deliveries.c.state == "kept", deliveries.c.path == os.fsencode(path))
        with self.database.write() as connection:
            return connection.execute(delete(deliveries).where(mine)).rowcount > 0

    def absent(self, is_gone: Callable[[str, Stamp], bool], now: datetime) -> list[str]:
        """The ids of ownerless deliveries whose file is gone, as `is_gone` says."""
        query = select(deliveries.c.id, *_IDENTITY).where(_is_ownerless(now))
        with self.database.read() as connection:
            rows: Iterable[Any] = connection.execute(
                query, execution_options={"yield_per": _STREAM_ROWS}
            )
            return [row.id for row in rows if is_gone(_path(row.path), _stamp(row))]

    def drop(self, absent: Sequence[str], now: datetime) -> int:
        """Forget these deliveries, if nobody has taken them meanwhile; returns how many."""
        with self.database.write() as connection:
            return sum(
                connection.execute(
                    delete(deliveries).where(deliveries.c.id.in_(chunk), _is_ownerless(now))
                ).rowcount
                for chunk in _chunks(absent)
            )

    def held(self, now: datetime) -> set[str]:
        """Paths that nobody may claim now: in work, or waiting for their retry."""
        query = select(deliveries.c.path).where(deliveries.c.state != "kept", not_(_is_free(now)))
        with self.database.read() as connection:
            return {_path(path) for path in connection.scalars(query)}

    def waiting(self) -> list[Waiting]:
        """Every delivery whose file should still be in the inbox, those of policy `keep` aside."""
        query = select(deliveries).where(deliveries.c.state != "kept")
        with self.database.read() as connection:
            return [
                Waiting(
                    _path(row.path),
                    _stamp(row),
                    row.state,
                    row.owner,
                    row.attempts,
                    row.lease_until,
                    row.error_detail,
                )
                for row in connection.execute(query)
            ]

    # --- results -----------------------------------------------------------------------------

    def record(
        self,
        finished: Sequence[Finished],
        *,
        source: Source,
        model: ModelRef,
        min_confidence: float,
        now: datetime,
        audit_share: float = 0.0,
        within: Callable[[Connection, list[Result | None]], None] | None = None,
    ) -> list[Result | None]:
        """Commit a batch of outcomes in one transaction; returns one row for each, in order.

        None stands for a delivery that somebody else has taken over meanwhile: the row is theirs.
        `model` is what was loaded, for rows that have no prediction. `audit_share` of all
        predictions need review, however sure they are (see `storage.audit`). `within` is called
        with what will be returned, before the commit and in its transaction; what it raises undoes
        all of it.
        """
        with self.database.write() as connection:
            held = self._mark_classified(connection, finished)
            rows = [
                _result_row(item, source, model, now, _Doubt(min_confidence, audit_share))
                if item.delivery is None or item.delivery.id in held
                else None
                for item in finished
            ]
            new = [row for row in rows if row is not None]
            if new:
                _name_originals(connection, new)
                connection.execute(insert(results), new)
                if self._with_outbox:
                    outbox.add(connection, [row["id"] for row in new], now)
            recorded = [from_mapping(row) if row else None for row in rows]
            if within:
                within(connection, recorded)
        return recorded

    def finish(self, filed: Sequence[tuple[str, str | None]], *, keep: bool = False) -> None:
        """Close deliveries whose files are put away: (delivery id, where the file is now).

        Those that somebody else has closed already are left as they are.
        """
        where = {each: None if path is None else _text(path) for each, path in filed}
        with self.database.write() as connection:
            for chunk in _chunks(list(where)):
                ours = connection.scalars(_OPEN, {"ids": chunk}).all()
                if not ours:
                    continue
                places = [{"whose": each, "place": where[each]} for each in ours]
                connection.execute(_FILE, places)
                connection.execute(_KEEP if keep else _CLOSE, {"ids": ours})

    def take_unfinished(self, owner: str, now: datetime, lease_s: float) -> list[Filing]:
        """Rows that were committed by somebody who died before the file was put away."""
        until = now + timedelta(seconds=lease_s)
        with self.database.write() as connection:
            taken = connection.execute(
                update(deliveries)
                .where(deliveries.c.state == "classified", _is_free(now))
                .values(owner=owner, lease_until=until)
                .returning(*deliveries.c)
            ).all()
            mine = {row.id: _delivery(row) for row in taken}
            filings = []
            for chunk in _chunks(list(mine)):
                query = select(results).where(results.c.delivery_id.in_(chunk))
                filings += [
                    Filing(mine[row.delivery_id], from_row(row))
                    for row in connection.execute(query)
                ]
        return filings

    def known(self, hashes: Iterable[str], model: ModelRef) -> dict[str, Prediction]:
        """What this very model has said of these bytes before, by sha256."""
        found: dict[str, Prediction] = {}
        with self.database.read() as connection:
            for chunk in _chunks(sorted(set(hashes))):
                whose = {"hashes": chunk, "name": model.name, "version": model.version}
                for row in connection.execute(_FIRST_ANSWERS, whose):
                    found[row.sha256] = _prediction(row)
        return found

    def result(self, identifier: str) -> Result | None:
        """One row, or None."""
        with self.database.read() as connection:
            row = connection.execute(select(results).where(results.c.id == identifier)).first()
        return from_row(row) if row else None

    def page(
        self, wanted: ResultFilter, *, order: Order = "desc", limit: int, cursor: str | None = None
    ) -> Page:
        """Up to `limit` rows after `cursor`; raises `CursorError`."""
        query = page_query(wanted, order, cursor).limit(limit + 1)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        more = len(rows) > limit
        rows = rows[:limit]
        cursor = encode_cursor(rows[-1].seq, order) if more else None
        return Page(tuple(from_row(row) for row in rows), cursor)

    def stream(
        self, wanted: ResultFilter, *, order: Order = "desc", limit: int | None = None
    ) -> Iterator[Result]:
        """All matching rows, in constant memory and with no view of the database held open."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = _STREAM_ROWS if left is None else min(left, _STREAM_ROWS)
            page = self.page(wanted, order=order, limit=size, cursor=cursor)
            yield from page.items
            left = None if left is None else left - len(page.items)
            cursor = page.next_cursor
            if cursor is None:
                return

    def count(self, wanted: ResultFilter | None = None) -> int:
        """How many rows match."""
        query = (
            select(func.count()).select_from(results).where(*conditions(wanted or ResultFilter()))
        )
        with self.database.read() as connection:
            return connection.scalar(query) or 0

    def filename_of(self, path: str) -> str | None:
        """The name that a quarantined file came under, by where its row says it is now."""
        query = select(results.c.filename).where(_quarantined_at(path))
        with self.database.read() as connection:
            name: str | None = connection.scalar(query.order_by(results.c.seq.desc()).limit(1))
        return name

    def forget_path(self, path: str) -> None:
        """The quarantined file has left this place; its rows stand without one."""
        with self.database.write() as connection:
            connection.execute(update(results).where(_quarantined_at(path)).values(path=None))

    def ping(self) -> None:
        """Raise when the database cannot answer."""
        with self.database.read() as connection:
            connection.execute(select(1))

    # --- helpers -----------------------------------------------------------------------------

    def _has_kept(self) -> bool:
        query = select(deliveries.c.id).where(deliveries.c.state == "kept").limit(1)
        with self.database.read() as connection:
            return connection.scalar(query) is not None

    def _kept_of(self, piece: Sequence[Found]) -> set[_Lasting]:
        """Which of these policy `keep` has left; no condition on the state, so by their paths."""
        c = deliveries.c
        query = select(c.state, c.path, c.inode, c.size_bytes, c.mtime_ns)
        query = query.where(c.path.in_([os.fsencode(found.path) for found in piece if found.stamp]))
        with self.database.read() as connection:
            return {
                (bytes(path), inode, size_bytes, mtime_ns)
                for state, path, inode, size_bytes, mtime_ns in connection.execute(query)
                if state == "kept"
            }

    def _mark_classified(self, connection: Connection, finished: Sequence[Finished]) -> set[str]:
        """The deliveries among these that are still ours, now in state `classified`."""
        claims = [item.delivery for item in finished if item.delivery is not None]
        held: set[str] = set()
        for chunk in _chunks(claims):
            held |= set(
                connection.scalars(
                    _MARK_CLASSIFIED, {"claims": [(each.id, each.attempts) for each in chunk]}
                )
            )
        return held


def _is_free(now: datetime) -> ColumnElement[bool]:
    """Whether nobody holds a delivery any more: also when the clock was set back since."""
    until = deliveries.c.lease_until
    return or_(until <= now, until > now + LONGEST_HOLD)


def _is_ownerless(now: datetime) -> ColumnElement[bool]:
    """Whether nobody works on a delivery, and none of its file is left to be put away."""
    unclaimed = and_(deliveries.c.state.in_(("claimed", "waiting")), _is_free(now))
    return or_(deliveries.c.state == "kept", unclaimed)


def _quarantined_at(path: str) -> ColumnElement[bool]:
    return and_(results.c.status == "quarantined", results.c.path == path)


def _held(claims: Sequence[Delivery]) -> ColumnElement[bool]:
    """The rows of these claims, but of none that has been taken over since."""
    ours = [(claim.id, claim.attempts) for claim in claims]
    columns = deliveries.c
    return and_(tuple_(columns.id, columns.attempts).in_(ours), columns.state == "claimed")


def _take_over(
    files: Sequence[tuple[str, Stamp]], owner: str, now: datetime, until: datetime
) -> Any:  # noqa: ANN401 - an UPDATE ... RETURNING
    columns = deliveries.c
    wanted = [tuple(_identity(path, stamp).values()) for path, stamp in files]
    return (
        update(deliveries)
        .where(
            tuple_(*_IDENTITY).in_(wanted),
            columns.state.in_(("claimed", "waiting")),
            _is_free(now),
        )
        .values(state="claimed", owner=owner, lease_until=until, attempts=columns.attempts + 1)
        .returning(*columns)
    )


def _name_originals(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Fill in `duplicate_of`: the first row with the same bytes, in the table or in this batch."""
    first: dict[str, str] = {}
    for chunk in _chunks(sorted({row["sha256"] for row in rows})):
        found = connection.execute(_ORIGINALS, {"hashes": chunk})
        first |= {row.sha256: row.id for row in found}
    for row in rows:
        original = first.setdefault(row["sha256"], row["id"])
        row["duplicate_of"] = original if original != row["id"] else None


class _Doubt(NamedTuple):
    """Which predictions need review: the unsure ones, and a random sample."""

    min_confidence: float
    audit_share: float

    def is_about(self, prediction: Prediction, identifier: str) -> bool:
        is_unsure = prediction.confidence < self.min_confidence
        return is_unsure or is_audited(identifier, self.audit_share)


def _result_row(
    item: Finished, source: Source, model: ModelRef, now: datetime, doubt: _Doubt
) -> dict[str, Any]:
    prediction = item.outcome if isinstance(item.outcome, Prediction) else None
    failure = item.outcome if isinstance(item.outcome, Failure) else None
    looks = prediction.image.statistics if prediction else None
    model = prediction.model if prediction else model
    identifier = str(uuid7())
    return {
        "id": identifier,
        "delivery_id": item.delivery.id if item.delivery else None,
        "filename": _text(item.image.filename),
        "source": source,
        "status": "classified" if prediction else "quarantined",
        "label": prediction.label if prediction else None,
        "confidence": prediction.confidence if prediction else None,
        "scores": [[score.label, score.score] for score in prediction.scores] if prediction else [],
        "corrected_label": None,
        "reviewed_at": None,
        "needs_review": prediction is not None and doubt.is_about(prediction, identifier),
        "error_code": failure.code if failure else None,
        "error_detail": _text(failure.detail) if failure else None,
        "sha256": item.image.sha256,
        "size_bytes": item.image.size_bytes,
        "width_px": prediction.image.width_px if prediction else None,
        "height_px": prediction.image.height_px if prediction else None,
        "format": prediction.image.format if prediction else None,
        "path": item.path,
        "model_name": model.name,
        "model_version": model.version,
        "received_at": item.received_at,
        "classified_at": now,
        "latency_ms": round(item.latency_ms, 3),
        "brightness": looks.brightness if looks else None,
        "contrast": looks.contrast if looks else None,
        "sharpness": looks.sharpness if looks else None,
    }


def _prediction(row: Row[Any]) -> Prediction:
    """A stored answer as a `Prediction` again; only for rows that are classified."""
    result = from_row(row)
    size_px = result.width_px or 0, result.height_px or 0
    info = ImageInfo(*size_px, result.format or "unknown", input_statistics(row))
    scores: tuple[LabelScore, ...] = result.scores
    return Prediction(result.label or "", result.confidence or 0.0, scores, result.model, info)


def _identity(path: str, stamp: Stamp) -> dict[str, Any]:
    return {
        "path": os.fsencode(path),
        "device": _signed(stamp.device),
        "inode": _signed(stamp.inode),
        "size_bytes": stamp.size_bytes,
        "mtime_ns": stamp.mtime_ns,
    }


def _lasting(found: Found) -> _Lasting | None:
    """What stays of an identity when the file system is mounted anew, as the table has it."""
    stamp = found.stamp
    if stamp is None:
        return None
    return os.fsencode(found.path), _signed(stamp.inode), stamp.size_bytes, stamp.mtime_ns


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        row.id, _path(row.path), _stamp(row), row.attempts, row.received_at, row.postponed
    )


def _stamp(row: Row[Any]) -> Stamp:
    return Stamp(_unsigned(row.device), _unsigned(row.inode), row.size_bytes, row.mtime_ns)


def _path(stored: bytes) -> str:
    return os.fsdecode(bytes(stored))


def _text(strange: str) -> str:
    """What any database can keep: one image with an odd name must not spoil its whole batch."""
    text = strange.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.replace("\0", "\\x00")


def _signed(number: int) -> int:
    """Some file systems use all 64 bits of an inode number; SQL's BIGINT has a sign."""
    return number - 2**64 if number >= 2**63 else number


def _unsigned(number: int) -> int:
    return number + 2**64 if number < 0 else number


def _chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _LOOKUP_ROWS):
        yield items[start : start + _LOOKUP_ROWS]
