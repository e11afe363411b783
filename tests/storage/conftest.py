"""A real database file, rows and deliveries made by hand, and processes of our own."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

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
from storage.database import Database
from storage.results import Result, Source
from storage.store import Finished, Store

DRIVERS = Path(__file__).parent / "drivers"
LEASE_S = 60.0
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODEL = ModelRef("rgb", "1")

Drive = Callable[..., subprocess.Popen[str]]
AtOnce = Callable[..., list[tuple[int, str, str]]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'pigeonhole.db'}"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file without rows, to be copied: to migrate takes longer than most tests."""
    file = tmp_path_factory.mktemp("empty") / "pigeonhole.db"
    Store.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def store(url: str, empty_database: Path) -> Iterator[Store]:
    database = Database(url)
    if database.is_sqlite:
        shutil.copy(empty_database, str(database.url.database))
    store = Store(database)
    yield store
    store.close()


@pytest.fixture(scope="session")
def predict() -> Callable[..., Prediction]:
    """`predict("cat", 0.9)`: what a model might have said."""

    def predict(label: str = "cat", confidence: float = 0.9, model: ModelRef = MODEL) -> Prediction:
        scores = (LabelScore(label, confidence), LabelScore("other", 1 - confidence))
        return Prediction(label, confidence, scores, model, ImageInfo(640, 480, "JPEG"))

    return predict


@pytest.fixture(scope="session")
def finished(predict: Callable[..., Prediction]) -> Callable[..., Finished]:
    """`finished("a.jpg", sha="1", outcome=..., delivery=...)`: an image, ready to be recorded."""

    def finished(
        name: str = "a.jpg",
        *,
        sha: str | None = None,
        outcome: Outcome | None = None,
        delivery: Delivery | None = None,
    ) -> Finished:
        image = ImageRef((sha or name).rjust(64, "0"), name, 1000)
        return Finished(image, outcome or predict(), NOW, 12.3456, delivery)

    return finished


@pytest.fixture
def record_held(store: Store) -> Callable[..., list[Result | None]]:
    """`record_held(finished, now=...)`: one transaction; None for each claim that was lost."""

    def record_held(
        *items: Finished, source: Source = "upload", model: ModelRef = MODEL, now: datetime = NOW
    ) -> list[Result | None]:
        return store.record(items, source=source, model=model, min_confidence=0.5, now=now)

    return record_held


@pytest.fixture
def record(record_held: Callable[..., list[Result | None]]) -> Callable[..., list[Result]]:
    """The same where every image gets its row."""

    def record(*items: Finished, **words: object) -> list[Result]:
        rows = [row for row in record_held(*items, **words) if row is not None]
        assert len(rows) == len(items)
        return rows

    return record


@pytest.fixture
def claim(store: Store) -> Callable[..., list[Delivery]]:
    """`claim(files, "me", 30)`: what this owner gets, so many seconds after noon."""

    def claim(files: list[tuple[str, Stamp]], owner: str = "me", at_s: float = 0) -> list[Delivery]:
        return store.claim(files, owner, NOW + timedelta(seconds=at_s), LEASE_S)

    return claim


@pytest.fixture
def put_away(
    store: Store, record: Callable[..., list[Result]], finished: Callable[..., Finished]
) -> Callable[..., list[Result]]:
    """Everything from the row to the end, for these claims."""

    def put_away(claims: list[Delivery], *, keep: bool = False) -> list[Result]:
        rows = record(*(finished(each.path, sha="1", delivery=each) for each in claims))
        store.finish([(each.id, f"sorted/{each.path}") for each in claims], keep=keep)
        return rows

    return put_away


@pytest.fixture
def stamps() -> Callable[[int], list[tuple[str, Stamp]]]:
    """`stamps(3)`: a listing of three files that nobody has ever seen."""
    return lambda number: [
        (f"{index:05}.jpg", Stamp(64, 1000 + index, 10, 20)) for index in range(number)
    ]


@pytest.fixture
def drive() -> Iterator[Drive]:
    """`drive("writer.py", ...)`: a script of ours in a process of its own; ended in any case."""
    running: list[subprocess.Popen[str]] = []

    def drive(script: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(DRIVERS / script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield drive
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def at_once(drive: Drive) -> AtOnce:
    """`at_once("x.py", (1, 2), (3, 4))`: two processes that begin together when both are ready.

    The answer is exit code, stdout and stderr of each.
    """

    def at_once(script: str, *each: tuple[object, ...]) -> list[tuple[int, str, str]]:
        processes = [drive(script, *arguments) for arguments in each]
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate() for process in processes]
        codes = [process.returncode for process in processes]
        return [(code, out, err) for code, (out, err) in zip(codes, said, strict=True)]

    return at_once


@pytest.fixture
def failure() -> Failure:
    return Failure("unreadable_image", "The file is damaged.")


@pytest.fixture(scope="session")
def now() -> datetime:
    """The time at which these tests happen."""
    return NOW
