"""What we say to SQLite can be said to PostgreSQL too. Its grammar is checked here, no server."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import ClauseElement, Engine, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.schema import CreateIndex, CreateTable

from core.types import Failure, ModelRef, Stamp
from storage.database import Database
from storage.results import Result, ResultFilter
from storage.schema import metadata
from storage.store import Finished, Store

Record = Callable[..., list[Result]]


@pytest.fixture
def statements(store: Store) -> Iterator[list[ClauseElement]]:
    """Everything that is executed through SQLAlchemy, as it was built."""
    heard: list[ClauseElement] = []

    def hear(_: object, statement: object, *__: object) -> None:
        if isinstance(statement, ClauseElement):
            heard.append(statement)

    store.ping()  # the migration is over
    event.listen(Engine, "before_execute", hear)
    yield heard
    event.remove(Engine, "before_execute", hear)


def in_postgresql(statement: ClauseElement) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return str(statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}))


def everything_that_a_store_does(
    store: Store, record: Record, finished: Callable[..., Finished], now: datetime
) -> None:
    error = Failure("cannot_read", "Check the permissions.")
    one, two, three, four = store.claim(
        [(f"{number}.jpg", Stamp(1, number, 3, 4)) for number in range(4)], "me", now, 60
    )
    store.claim([(one.path, one.stamp)], "you", now + timedelta(hours=1), 60)
    store.release([two])
    store.forget([three])
    store.postpone(four, now, error)
    store.owners()
    store.end_leases(["nobody"])
    store.waiting()
    (claimed,) = store.claim([(two.path, two.stamp)], "me", now, 60)
    record(finished(delivery=claimed), finished(outcome=error))
    store.postpone_filing([claimed], now)
    store.take_unfinished("me", now, 60)
    store.finish([(claimed.id, "sorted/cat/2.jpg")], keep=True)
    store.kept()
    store.drop_absent([], now + timedelta(hours=2))
    store.finish([(claimed.id, None)])
    store.known(["1"], ModelRef("rgb", "1"))
    store.result("1")
    store.ping()
    wanted = ResultFilter(
        "cat", "classified", "upload", "1", False, 0.1, 1.0, "a", now, now + timedelta(days=1)
    )
    page = store.page(ResultFilter(), limit=1)
    for order in ("asc", "desc"):
        list(store.stream(wanted, order=order, limit=3))
    store.page(wanted, limit=1, cursor=page.next_cursor)
    store.count(wanted)


def test_the_tables_and_their_indexes_can_be_made() -> None:
    made = [in_postgresql(CreateTable(table)) for table in metadata.tables.values()]
    made += [
        in_postgresql(CreateIndex(index))
        for table in metadata.tables.values()
        for index in table.indexes
    ]

    assert any("seq BIGSERIAL NOT NULL" in statement for statement in made)
    assert any("received_at TIMESTAMP WITH TIME ZONE" in statement for statement in made)
    assert any("path BYTEA" in statement for statement in made)


def test_every_statement_of_the_store_can_be_said(
    store: Store,
    record: Record,
    finished: Callable[..., Finished],
    now: datetime,
    statements: list[ClauseElement],
) -> None:
    everything_that_a_store_does(store, record, finished, now)

    # `INSERT ... ON CONFLICT` is the one word that each dialect has in a spelling of its own.
    said = [in_postgresql(each) for each in statements if not isinstance(each, Insert)]
    kinds = {statement.split()[0] for statement in said}
    assert kinds == {"SELECT", "UPDATE", "DELETE", "INSERT"}
    assert len(set(said)) > 20


def test_a_claim_is_spelled_as_postgresql_spells_it(url: str) -> None:
    database = Database(url)
    database.is_sqlite = False

    statement: Any = Store(database)._insert_new()  # noqa: SLF001 - there is no server to ask

    assert "ON CONFLICT DO NOTHING RETURNING deliveries.id" in in_postgresql(statement)
    database.close()
