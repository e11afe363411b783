"""How SQLite finds the rows: the verbs of every batch must not get slower as tables grow."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from core.types import Delivery, ModelRef, Prediction, Stamp
from storage.inbox import Found
from storage.results import Order, Result, ResultFilter
from storage.store import Finished, Store

LEASE_S = 60.0

Stamps = Callable[[int], list[tuple[str, Stamp]]]
Claim = Callable[..., list[Delivery]]


@pytest.fixture
def plans(store: Store) -> Iterator[list[str]]:
    """How SQLite means to find the rows of each statement; it decides that without statistics."""
    heard: list[str] = []

    def hear(connection: Connection, _: object, statement: str, values: Any, *__: object) -> None:  # noqa: ANN401
        if statement.startswith(("SELECT", "UPDATE", "DELETE")) and isinstance(values, tuple):
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            steps = driver.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            heard.extend(step[3] for step in steps)

    store.ping()
    event.listen(Engine, "before_cursor_execute", hear)
    yield heard
    event.remove(Engine, "before_cursor_execute", hear)


def test_the_verbs_of_a_batch_never_walk_through_a_whole_table(
    store: Store,
    claim: Claim,
    stamps: Stamps,
    put_away: Callable[..., list[Result]],
    now: datetime,
    plans: list[str],
) -> None:
    claims = claim(stamps(3))
    claim(stamps(3), "you")
    store.release(claims)
    put_away(claim(stamps(3)))
    store.known(["1", "2"], ModelRef("rgb", "1"))
    store.owners()
    put_away(claim([("kept.jpg", Stamp(1, 2, 3, 4))]), keep=True)
    list(store.without_kept([Found(path, stamp=stamp) for path, stamp in stamps(3)]))
    store.take_unfinished("me", now, LEASE_S)

    assert len(plans) > 10
    assert [plan for plan in plans if plan.startswith("SCAN ") and "CONSTANT" not in plan] == []


def test_kept_files_are_looked_up_by_their_path_and_not_one_by_one(
    store: Store, stamps: Stamps, claim: Claim, put_away: Callable[..., list[Result]],
    plans: list[str],
) -> None:  # fmt: skip
    put_away(claim(stamps(1)), keep=True)
    plans.clear()

    assert list(store.without_kept([Found(path, stamp=stamp) for path, stamp in stamps(1)])) == []

    assert any("uq_deliveries_stamp" in plan or "autoindex_deliveries" in plan for plan in plans)


def test_known_finds_answers_by_their_hash_and_not_by_their_status(
    store: Store, plans: list[str]
) -> None:
    store.known(["1", "2"], ModelRef("rgb", "1"))

    # Once SQLite took the index of `status`: every classified row was looked at for every batch.
    assert any("ix_results_answer (sha256=? AND model_name=?" in plan for plan in plans)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_of_what_needs_review_is_read_in_its_order_and_never_sorted(
    store: Store, record: Callable[..., list[Result]], finished: Callable[..., Finished],
    predict: Callable[..., Prediction], plans: list[str], order: Order,
) -> None:  # fmt: skip
    record(*(finished(f"{number}.jpg", outcome=predict(confidence=0.1)) for number in range(3)))
    wanted = ResultFilter(needs_review=True)
    first = store.page(wanted, order=order, limit=1)
    assert first.next_cursor
    plans.clear()

    store.page(wanted, order=order, limit=1, cursor=first.next_cursor)

    (plan,) = plans
    assert "ix_results_needs_review_seq (needs_review=? AND seq" in plan
