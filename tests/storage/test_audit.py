"""The audit sample: random, the same for everybody, and counted in the database."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import update

from core.ids import uuid7
from core.types import (
    Failure,
    ImageInfo,
    ImageRef,
    InputStatistics,
    LabelScore,
    ModelRef,
    Prediction,
)
from storage.audit import audited, is_audited, recent_answers
from storage.results import Result
from storage.schema import results
from storage.store import Finished, Store

NOW = datetime(2026, 11, 22, tzinfo=UTC)
MODEL = ModelRef("m", "1")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path}/p.db")
    yield store
    store.close()


def record(
    store: Store,
    count: int,
    *,
    audit_share: float = 0.0,
    model: ModelRef = MODEL,
    confidence: float = 0.9,
    shown: InputStatistics | None = None,
) -> list[Result]:
    score = LabelScore("cat", confidence)
    outcome = Prediction("cat", confidence, (score,), model, ImageInfo(200, 100, "PNG", shown))
    finished = [
        Finished(ImageRef(f"{number:064}", "a.png", 1), outcome, NOW, 1.0)
        for number in range(count)
    ]
    rows = store.record(
        finished,
        source="upload",
        model=model,
        min_confidence=0.5,
        now=NOW,
        audit_share=audit_share,
    )
    return [row for row in rows if row is not None]


def test_one_in_a_hundred_ids_belongs_to_the_sample() -> None:
    ids = [str(uuid7()) for _ in range(50_000)]

    assert 400 <= sum(is_audited(identifier, 0.01) for identifier in ids) <= 600
    assert not any(is_audited(identifier, 0.0) for identifier in ids)
    assert all(is_audited(identifier, 1.0) for identifier in ids)


def test_a_larger_sample_holds_the_smaller_one() -> None:
    ids = [str(uuid7()) for _ in range(10_000)]

    assert all(is_audited(one, 0.05) for one in ids if is_audited(one, 0.01))


def test_the_sample_needs_review_however_sure_the_model_is(store: Store) -> None:
    rows = record(store, 500, audit_share=0.2)

    assert [row.needs_review for row in rows] == [is_audited(row.id, 0.2) for row in rows]
    assert any(row.needs_review for row in rows)


def test_the_unsure_need_review_too_and_failures_never_do(store: Store) -> None:
    (unsure,) = record(store, 1, confidence=0.3)
    broken = Finished(ImageRef("0" * 64, "a", 1), Failure("x", "y"), NOW, 1.0)
    (failed,) = store.record(
        [broken], source="upload", model=MODEL, min_confidence=0.5, now=NOW, audit_share=1.0
    )

    assert unsure.needs_review
    assert failed is not None
    assert not failed.needs_review


def test_sql_and_python_agree_on_who_belongs_to_it(store: Store) -> None:
    rows = record(store, 500)

    for share in (0.0, 0.01, 0.3, 1.0):
        found = audited(store.database, "1", share)
        assert found.waiting == sum(is_audited(row.id, share) for row in rows)


def test_a_review_without_a_correction_says_it_was_right(store: Store) -> None:
    rows = record(store, 4)
    said = {rows[0].id: None, rows[1].id: "cat", rows[2].id: "dog"}
    with store.database.write() as connection:
        for identifier, label in said.items():
            connection.execute(
                update(results)
                .where(results.c.id == identifier)
                .values(reviewed_at=NOW, corrected_label=label)
            )

    found = audited(store.database, "1", 1.0)

    assert (found.reviewed, found.correct, found.waiting) == (3, 2, 1)


def test_other_models_do_not_count(store: Store) -> None:
    record(store, 3, model=ModelRef("m", "2"))

    assert audited(store.database, "1", 1.0).waiting == 0
    assert recent_answers(store.database, "1", 10) == []


def test_the_latest_answers_come_first_and_no_more_than_asked(store: Store) -> None:
    record(store, 2, confidence=0.6)
    record(store, 2, confidence=0.7)

    found = recent_answers(store.database, "1", 3)
    assert [(each.label, each.confidence) for each in found] == [
        ("cat", 0.7),
        ("cat", 0.7),
        ("cat", 0.6),
    ]


def test_what_the_model_was_shown_is_kept_with_the_answer(store: Store) -> None:
    shown = InputStatistics(0.1, 0.2, 0.3, megapixels=0.02)
    record(store, 1, shown=shown)
    record(store, 1)  # as in rows of before it was kept

    assert [each.shown for each in recent_answers(store.database, "1", 2)] == [None, shown]
