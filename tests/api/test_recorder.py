"""Uploads that are there together share a commit, and none suffers for another."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.recorder import Received, Recorder
from core.settings import Settings
from core.types import ImageInfo, ImageRef, LabelScore, ModelRef, Prediction
from monitoring.metrics import Metrics
from storage import uploads
from storage.results import Result, ResultFilter
from storage.store import Finished, Store

MODEL = ModelRef("m", "1")


class Counted(Store):
    """A real store that remembers how many rows each commit had."""

    commits: list[int]

    def record(self, finished: list[Finished], **how: object) -> list[Result | None]:  # type: ignore[override]
        self.commits.append(len(finished))
        return super().record(finished, **how)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Counted]:
    store = Counted(Store.open(f"sqlite:///{tmp_path}/pigeonhole.db").database)
    store.commits = []
    yield store
    store.close()


@pytest.fixture
def recorder(tmp_path: Path, store: Counted) -> Iterator[Recorder]:
    with Recorder(Settings(home=tmp_path), store, lambda: MODEL, Metrics()) as recorder:
        yield recorder


def received(home: Path, number: int) -> Received:
    data = b"picture %d" % number
    score = LabelScore("cat", 1.0)
    outcome = Prediction("cat", 1.0, (score,), MODEL, ImageInfo(1, 1, "PNG"))
    image = ImageRef(hashlib.sha256(data).hexdigest(), f"{number}.png", len(data))
    finished = Finished(image, outcome, datetime.now(UTC), 1.0)
    return Received(finished, uploads.receive(home, data), "PNG")


def files(home: Path) -> set[bytes]:
    return {path.read_bytes() for path in (home / "uploads").rglob("*") if path.is_file()}


def test_what_waits_while_one_is_committed_is_committed_together(
    recorder: Recorder, store: Counted, tmp_path: Path
) -> None:
    with store.database.write():  # nobody else can commit in here
        futures = [recorder.record([received(tmp_path, number)]) for number in range(20)]

    answers = [future.result(timeout=60) for future in futures]

    assert [row.filename for (row,) in answers] == [f"{number}.png" for number in range(20)]
    assert sum(store.commits) == 20
    assert len(store.commits) < 20
    assert files(tmp_path) == {b"picture %d" % number for number in range(20)}
    assert all(row.path and (tmp_path / row.path).is_file() for (row,) in answers)


def test_an_upload_whose_file_is_lost_does_not_harm_its_neighbours(
    recorder: Recorder, store: Counted, tmp_path: Path
) -> None:
    good, lost, other = (received(tmp_path, number) for number in range(3))
    lost.part.unlink()
    with store.database.write():
        futures = [recorder.record([each]) for each in (good, lost, other)]

    with pytest.raises(uploads.CannotStoreError):
        futures[1].result(timeout=60)
    assert [futures[0].result(60)[0].filename, futures[2].result(60)[0].filename] == [
        "0.png",
        "2.png",
    ]
    assert files(tmp_path) == {b"picture 0", b"picture 2"}
    assert store.count(ResultFilter()) == 2


def test_closing_commits_what_waits(store: Counted, tmp_path: Path) -> None:
    recorder = Recorder(Settings(home=tmp_path), store, lambda: MODEL, Metrics())
    future = recorder.record([received(tmp_path, 1)])

    recorder.close()

    assert future.result(timeout=0)[0].label == "cat"
