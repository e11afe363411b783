"""(e) what a table of a million rows costs, and an inbox in which 100,000 files wait."""

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event

from benchmarks.folder import rows
from benchmarks.measure import PIGEONHOLE, free_port, process, wait_for
from benchmarks.models import Model
from core.ids import uuid7
from core.types import Delivery, ImageInfo, ImageRef, LabelScore, ModelRef, Prediction, Stamp
from storage.results import ResultFilter
from storage.store import Finished, Store

BATCH = 32
_MODEL = ModelRef("bench", "0" * 12)
_FILL = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
INSERT INTO results (id, delivery_id, filename, source, status, label, confidence, scores,
    needs_review, sha256, size_bytes, width_px, height_px, format, model_name, model_version,
    received_at, classified_at, latency_ms)
SELECT printf('%08x-0000-7000-8000-%012x', n, n), NULL, 'photo ' || n || '.jpg', 'watcher',
    'classified', 'label ' || (n % 20), 0.5 + (n % 50) / 100.0, '[["label 1", 0.9]]', n % 97 = 0,
    printf('%064x', n), 100000, 640, 480, 'JPEG', 'bench', '000000000000',
    datetime('2026-01-01', n || ' seconds') || '.000000',
    datetime('2026-01-01', n || ' seconds') || '.000000', 40.0
FROM numbers
"""


def scale(model: Model, *, quick: bool) -> dict[str, Any]:
    """Milliseconds of every step at 1,000 rows and at a million; seconds to the first of many."""
    sizes = (1_000, 100_000) if quick else (1_000, 1_000_000)
    waiting = 10_000 if quick else 100_000
    return {
        "rows": {str(size): at(size) for size in sizes},
        "waiting_files": waiting,
        "first_batch_s": first_batch(model, waiting),
    }


def at(size: int) -> dict[str, Any]:
    """Milliseconds, medians; and how SQLite finds the rows."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "pigeonhole.db"
        with closing(Store.open(f"sqlite:///{file}")) as store:
            with closing(sqlite3.connect(file)) as connection, connection:
                connection.execute(_FILL, [size])
            return {"ms": _timed(store), "plans": _plans(store)}


def first_batch(model: Model, files: int) -> float:
    """Seconds from the start of the watcher to the first committed batch, all files waiting."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        (home / "models").mkdir(parents=True)
        (home / "models" / "current").symlink_to(model.bundle)
        (home / "inbox").mkdir()
        for number in range(files):
            (home / "inbox" / f"{number:06}.jpg").write_bytes(b"%d" % number)
        environment = {
            "PIGEONHOLE_HOME": str(home),
            "PIGEONHOLE_WATCHER_METRICS_PORT": str(free_port()),
            "PIGEONHOLE_SETTLE_S": "0",
        }
        command = [*PIGEONHOLE, "watch"]
        started_s = time.perf_counter()
        with process(command, Path(scratch) / "watcher.log", **environment):
            wait_for((home / "pigeonhole.db").exists)
            wait_for(lambda: _rows_or_none(home), every_s=0.02)
            return time.perf_counter() - started_s


def _rows_or_none(home: Path) -> int:
    try:
        return rows(home)
    except sqlite3.OperationalError:  # it is being made
        return 0


def _timed(store: Store) -> dict[str, float]:
    last = store.page(ResultFilter(), limit=1).items[0]
    steps: dict[str, Callable[[], object]] = {
        "page of the newest 50": lambda: store.page(ResultFilter(), limit=50),
        "page of one label": lambda: store.page(ResultFilter(label="label 7"), limit=50),
        "page that needs review": lambda: store.page(ResultFilter(needs_review=True), limit=50),
        "one result": lambda: store.result(last.id),
        "known bytes, 32": lambda: store.known([f"{n:064x}" for n in range(BATCH)], _MODEL),
    }
    found = {name: _median_ms(step) for name, step in steps.items()}
    return found | _batch_ms(store)


def _batch_ms(store: Store) -> dict[str, float]:
    """Claim, record and close a batch, as the watcher does."""
    claim, record, finish = [], [], []
    for number in range(20):
        files = [(f"{number}-{n}.jpg", Stamp(1, number * BATCH + n, 1, 1)) for n in range(BATCH)]
        started_s = time.perf_counter()
        claimed = store.claim(files, "bench", datetime.now(UTC), 60)
        claimed_s = time.perf_counter()
        store.record(
            [_finished(item) for item in claimed],
            source="watcher",
            model=_MODEL,
            min_confidence=0.5,
            now=datetime.now(UTC),
        )
        recorded_s = time.perf_counter()
        store.finish([(item.id, f"sorted/x/{item.path}") for item in claimed])
        claim.append(claimed_s - started_s)
        record.append(recorded_s - claimed_s)
        finish.append(time.perf_counter() - recorded_s)
    return {
        "claim 32": statistics.median(claim) * 1000,
        "record 32": statistics.median(record) * 1000,
        "close 32": statistics.median(finish) * 1000,
    }


def _finished(delivery: Delivery) -> Finished:
    outcome = Prediction(
        "label 1", 0.9, (LabelScore("label 1", 0.9),), _MODEL, ImageInfo(640, 480, "JPEG")
    )
    image = ImageRef(uuid7().hex * 2, delivery.path, 1)
    return Finished(image, outcome, delivery.received_at, 1.0, delivery)


def _median_ms(step: Callable[[], object]) -> float:
    found = []
    for _ in range(15):
        started_s = time.perf_counter()
        step()
        found.append(time.perf_counter() - started_s)
    return statistics.median(found) * 1000


def _plans(store: Store) -> dict[str, list[str]]:
    """EXPLAIN QUERY PLAN of what the steps above ask."""
    asked: list[tuple[str, Any]] = []

    def note(_: Connection, __: object, statement: str, parameters: Any, *___: object) -> None:  # noqa: ANN401 - SQLAlchemy's event
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    with store.database.read() as connection:
        engine = connection.engine
    event.listen(engine, "before_cursor_execute", note)
    store.page(ResultFilter(label="label 7"), limit=50)
    store.page(ResultFilter(needs_review=True), limit=50)
    store.known([f"{1:064x}"], _MODEL)
    event.remove(engine, "before_cursor_execute", note)
    with store.database.read() as connection:
        return {
            " ".join(statement.partition("FROM")[2].split())[:120]: [
                row[-1]
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            ]
            for statement, parameters in asked
        }
