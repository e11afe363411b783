"""A database of the first released schema comes forward with all that is in it."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

import storage.migrations
from storage.audit import Answer, recent_answers
from storage.results import ResultFilter
from storage.store import Store

FIRST = "0001"


def make_first(file: Path) -> None:
    """As the first release left it: its schema, a classified and a quarantined row."""
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(storage.migrations.__file__).parent))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, FIRST)
    engine.dispose()
    row = (
        "INSERT INTO results (id, filename, source, status, label, confidence, scores,"
        " needs_review, corrected_label, reviewed_at, error_code, error_detail, sha256, size_bytes,"
        " width_px, height_px, format, model_name, model_version, received_at, classified_at,"
        " latency_ms) VALUES (?, ?, 'watcher', ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, 10, 4, 3, 'PNG',"
        " 'm', '1', '2026-11-22 12:00:00.000000', '2026-11-22 12:00:01.000000', 5.0)"
    )
    with closing(sqlite3.connect(file)) as connection, connection:
        reviewed = "2026-11-22 13:00:00.000000"
        good = ("1", "ä.png", "classified", "cat", 0.9, '[["cat", 0.9]]', "dog", reviewed)
        connection.execute(row, (*good, None, None, "a" * 64))
        bad = ("2", "b.png", "quarantined", None, None, "[]", None, None)
        connection.execute(row, (*bad, "unreadable_image", "Cut off.", "b" * 64))


def test_rows_of_the_first_schema_are_all_there_after_an_upgrade(tmp_path: Path) -> None:
    make_first(tmp_path / "p.db")

    store = Store.open(f"sqlite:///{tmp_path}/p.db")
    good, bad = store.stream(ResultFilter(), order="asc")
    answers = recent_answers(store.database, "1", 10)
    store.close()

    assert (good.id, good.filename, good.label, good.confidence) == ("1", "ä.png", "cat", 0.9)
    assert good.corrected_label == "dog"
    assert good.reviewed_at == datetime(2026, 11, 22, 13, tzinfo=UTC)
    assert good.classified_at == datetime(2026, 11, 22, 12, 0, 1, tzinfo=UTC)
    assert bad.error is not None
    assert (bad.status, bad.error.code) == ("quarantined", "unreadable_image")
    assert answers == [Answer("cat", 0.9, shown=None)]


def test_an_upgraded_database_goes_on_counting(tmp_path: Path) -> None:
    make_first(tmp_path / "p.db")

    for _ in range(2):
        store = Store.open(f"sqlite:///{tmp_path}/p.db")
        assert store.count() == 2
        store.close()
