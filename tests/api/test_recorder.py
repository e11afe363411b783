"""Uploads that are there together share a commit, and none suffers for another."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.recorder import Recorder, Upload
from core.settings import Settings
from core.types import Failure, ImageInfo, LabelScore, ModelRef, Outcome, Prediction
from monitoring.metrics import Metrics
from storage import uploads
from storage.results import Result, ResultFilter
from storage.store import Finished, Store

MODEL = ModelRef("m", "1")
CAT = Prediction("cat", 1.0, (LabelScore("cat", 1.0),), MODEL, ImageInfo(1, 1, "PNG"))
BROKEN = Failure("unreadable_image", "Cut short.")


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


def upload(number: int) -> Upload:
    return Upload(b"picture %d" % number, f"{number}.png", True, datetime.now(UTC), 0.0)


def answered(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def files(home: Path) -> set[bytes]:
    return {path.read_bytes() for path in (home / "uploads").rglob("*") if path.is_file()}


def until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def names(future: Future[list[Result | Failure]]) -> list[str]:
    return [each.filename if isinstance(each, Result) else each.code for each in future.result(60)]


def test_what_waits_while_one_is_committed_is_committed_together(
    recorder: Recorder, store: Counted, tmp_path: Path
) -> None:
    with store.database.write():  # nobody else can commit in here
        futures = [recorder.record([upload(number)], [answered(CAT)]) for number in range(20)]

    assert [names(future) for future in futures] == [[f"{number}.png"] for number in range(20)]
    assert sum(store.commits) == 20
    assert len(store.commits) < 20
    assert files(tmp_path) == {b"picture %d" % number for number in range(20)}
    for future in futures:
        (row,) = future.result()
        assert isinstance(row, Result)
        assert row.path
        assert (tmp_path / row.path).is_file()


def test_bytes_are_kept_before_the_answer_is_there_and_a_refused_one_leaves_none(
    recorder: Recorder, store: Counted, tmp_path: Path
) -> None:
    first, second = Future[Outcome](), Future[Outcome]()
    future = recorder.record([upload(1), upload(2)], [first, second])
    until(lambda: files(tmp_path) == {b"picture 1", b"picture 2"})
    first.set_result(CAT)
    assert not store.commits
    second.set_result(BROKEN)

    assert names(future) == ["1.png", "unreadable_image"]
    assert files(tmp_path) == {b"picture 1"}
    assert store.count(ResultFilter()) == 1


def test_an_upload_whose_file_is_lost_does_not_harm_its_neighbours(
    recorder: Recorder, store: Counted, tmp_path: Path
) -> None:
    outcomes = [Future[Outcome]() for _ in range(3)]
    futures = [
        recorder.record([upload(number)], [outcome]) for number, outcome in enumerate(outcomes)
    ]
    until(lambda: len(files(tmp_path)) == 3)
    for path in (tmp_path / "uploads").rglob("*"):
        if path.is_file() and path.read_bytes() == b"picture 1":
            path.unlink()
    with store.database.write():
        for outcome in outcomes:
            outcome.set_result(CAT)

    with pytest.raises(uploads.CannotStoreError):
        futures[1].result(timeout=60)
    assert [names(futures[0]), names(futures[2])] == [["0.png"], ["2.png"]]
    assert files(tmp_path) == {b"picture 0", b"picture 2"}
    assert store.count(ResultFilter()) == 2


@pytest.mark.parametrize("outcome", [CAT, BROKEN])
def test_the_bytes_are_let_go_when_all_is_done(recorder: Recorder, outcome: Outcome) -> None:
    sent, waiting = upload(1), Future[Outcome]()
    held = weakref.ref(sent)
    gc.disable()
    try:
        future = recorder.record([sent], [waiting])
        del sent
        waiting.set_result(outcome)
        assert len(future.result(timeout=60)) == 1
        until(lambda: held() is None)
    finally:
        gc.enable()


def test_an_outcome_that_fails_reaches_its_caller_alone(
    recorder: Recorder, store: Counted, tmp_path: Path
) -> None:
    lost = Future[Outcome]()
    lost.set_exception(LookupError("no database"))
    futures = [recorder.record([upload(1)], [lost]), recorder.record([upload(2)], [answered(CAT)])]

    with pytest.raises(LookupError, match="no database"):
        futures[0].result(timeout=60)
    assert names(futures[1]) == ["2.png"]
    assert files(tmp_path) == {b"picture 2"}
    assert store.count(ResultFilter()) == 1


def test_what_the_caller_has_given_up_leaves_nothing(
    recorder: Recorder, store: Counted, tmp_path: Path
) -> None:
    outcome = Future[Outcome]()
    future = recorder.record([upload(1)], [outcome])
    until(lambda: files(tmp_path) == {b"picture 1"})
    assert future.cancel()
    outcome.set_result(CAT)

    assert names(recorder.record([upload(2)], [answered(CAT)])) == ["2.png"]
    assert files(tmp_path) == {b"picture 2"}
    assert store.count(ResultFilter()) == 1


def test_no_room_is_said_and_nothing_is_left(
    recorder: Recorder, store: Counted, tmp_path: Path
) -> None:
    (tmp_path / "uploads").write_bytes(b"a file where a folder should be")

    with pytest.raises(uploads.CannotStoreError):
        recorder.record([upload(1)], [answered(CAT)]).result(timeout=60)

    (tmp_path / "uploads").unlink()
    assert names(recorder.record([upload(2)], [answered(CAT)])) == ["2.png"]
    assert store.count(ResultFilter()) == 1


def test_closing_commits_what_is_answered(store: Counted, tmp_path: Path) -> None:
    recorder = Recorder(Settings(home=tmp_path), store, lambda: MODEL, Metrics())
    future = recorder.record([upload(1)], [answered(CAT)])

    recorder.close()

    assert future.done()
    assert names(future) == ["1.png"]
