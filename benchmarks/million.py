"""A database with a million results, for measurements: rows as the store writes them.

python -m benchmarks.million FILE [ROWS]
"""

import json
import random
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from core.ids import uuid7
from storage.store import Store

LABELS = ("bag", "coat", "dress", "sneaker", "trouser")
_COLUMNS = (
    "id", "filename", "source", "status", "label", "confidence", "scores", "needs_review",
    "corrected_label", "reviewed_at", "error_code", "error_detail", "sha256", "size_bytes",
    "width_px", "height_px", "format", "path", "model_name", "model_version", "received_at",
    "classified_at", "latency_ms",
)  # fmt: skip


def fill(url: str, rows: int) -> None:
    """Append rows of the last thirty days: 2 % quarantined, 5 % to review, 1 % reviewed."""
    Store.open(url).close()
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    marks = ", ".join("?" * len(_COLUMNS))
    statement = f"INSERT INTO results ({', '.join(_COLUMNS)}) VALUES ({marks})"  # noqa: S608
    connection.executemany(statement, _rows(rows))
    connection.commit()
    connection.close()


def _rows(rows: int) -> Iterator[tuple[object, ...]]:
    dice = random.Random(5)  # noqa: S311 - made-up rows
    start = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=30)
    for number in range(rows):
        moment = (start + timedelta(days=30) * ((number + 1) / (rows + 1))).isoformat(" ")
        label = dice.choice(LABELS)
        confidence = 1 - dice.random() ** 3 / 1.2
        reviewed = dice.random() < 0.01
        if dice.random() < 0.02:
            answer = ("quarantined", None, None, "[]", 0)
        else:
            rest = round((1 - confidence) / 4, 6)
            scores = [[name, confidence if name == label else rest] for name in LABELS]
            answer = ("classified", label, confidence, json.dumps(scores), confidence < 0.45)
        failed = answer[0] == "quarantined"
        yield (
            str(uuid7()), f"photo-{number:07}.jpg", "watcher", *answer,
            dice.choice(LABELS) if reviewed and not failed else None, moment if reviewed else None,
            "unreadable_image" if failed else None, "Damaged." if failed else None,
            f"{number:064x}", 40_000, None if failed else 640, None if failed else 480,
            None if failed else "JPEG",
            f"{'quarantine' if failed else f'sorted/{label}'}/photo-{number:07}.jpg",
            "starter", "0123456789ab", moment, moment, dice.lognormvariate(3, 0.6),
        )  # fmt: skip


if __name__ == "__main__":
    fill(f"sqlite:///{sys.argv[1]}", int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
