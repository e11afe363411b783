"""Server-sent events: one per result, whoever recorded it; exact after a break."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from api.events import MAX_LISTENERS
from core.types import Failure, ImageRef, ModelRef
from storage.store import Finished, Store
from tests.api.conftest import Server, make_home, serving, start

CLIENT = httpx2.Client(limits=httpx2.Limits(max_connections=None))


class Event(NamedTuple):
    id: int
    filename: str


class Stream(NamedTuple):
    answer: httpx2.Response
    lines: Iterator[str]

    def take(self, number: int) -> list[Event]:
        return list(islice(events(self.lines), number))


def events(lines: Iterator[str]) -> Iterator[Event]:
    """Each event of the format of the HTML standard; comments are none."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            assert fields["event"] == "result"
            yield Event(int(fields["id"]), json.loads(fields["data"])["filename"])
            fields = {}


@contextmanager
def listening(server: Server, **headers: str) -> Iterator[Stream]:
    """Connected, and surely before any event that comes later."""
    url = f"{server.url}/v1/events"
    with CLIENT.stream("GET", url, headers=headers, timeout=60) as answer:
        lines = answer.iter_lines()
        if answer.status_code == 200:
            assert next(lines).startswith(":")
        yield Stream(answer, lines)


class Recorder:
    """Records rows as another process does: through the database alone."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._numbers = count()

    def record(self, number: int = 1) -> list[str]:
        names = [f"{next(self._numbers)}.jpg" for _ in range(number)]
        now = datetime.now(UTC)
        outcome = Failure("unreadable_image", "Damaged.")
        self._store.record(
            [Finished(ImageRef("0" * 64, name, 1), outcome, now, 1.0) for name in names],
            source="batch",
            model=ModelRef("rgb", "1"),
            min_confidence=0.5,
            now=now,
        )
        return names


@pytest.fixture(scope="module")
def home(rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("events") / "home", rgb_bundle)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def recorder(server: Server, home: Path) -> Iterator[Recorder]:  # noqa: ARG001 - it migrates
    with closing(Store.open(f"sqlite:///{home / 'pigeonhole.db'}")) as store:
        yield Recorder(store)


def test_what_another_process_records_and_what_is_uploaded_arrive_in_order(
    server: Server, recorder: Recorder, paint: Callable[..., bytes]
) -> None:
    with listening(server) as stream:
        expected = recorder.record(3)
        CLIENT.post(f"{server.url}/v1/predict", files={"file": ("sea.png", paint("blue"))})
        expected += ["sea.png", *recorder.record()]

        seen = stream.take(5)

    assert stream.answer.headers["Content-Type"].startswith("text/event-stream")
    assert [event.filename for event in seen] == expected
    assert [event.id for event in seen] == sorted({event.id for event in seen})


def test_without_a_position_it_begins_with_the_next_result(
    server: Server, recorder: Recorder
) -> None:
    recorder.record(3)
    with listening(server) as stream:
        later = recorder.record()

        assert [event.filename for event in stream.take(1)] == later


def test_after_a_break_it_goes_on_where_it_was(server: Server, recorder: Recorder) -> None:
    with listening(server) as stream:
        expected = recorder.record(5)
        seen = stream.take(2)
    expected += recorder.record(300)  # more than one look reads

    with listening(server, **{"Last-Event-ID": str(seen[-1].id)}) as stream:
        seen += stream.take(303)

    assert [event.filename for event in seen] == expected


def test_breaks_while_others_write_lose_nothing_and_double_nothing(
    server: Server, recorder: Recorder
) -> None:
    with listening(server) as stream:
        written = recorder.record()
        seen = stream.take(1)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            written.extend(recorder.record(3))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(8):
            with listening(server, **{"Last-Event-ID": str(seen[-1].id)}) as stream:
                seen += stream.take(10)
    finally:
        stop.set()
        writer.join()
    with listening(server, **{"Last-Event-ID": str(seen[-1].id)}) as stream:
        seen += stream.take(max(len(written) - len(seen), 0))

    assert [event.filename for event in seen] == written


def test_a_position_may_stand_in_the_address(server: Server, recorder: Recorder) -> None:
    with listening(server) as stream:
        recorder.record()
        (first,) = stream.take(1)
    later = recorder.record()

    with CLIENT.stream("GET", f"{server.url}/v1/events?after={first.id}") as answer:
        assert [event.filename for event in islice(events(answer.iter_lines()), 1)] == later


def test_a_position_that_is_not_there_yet_means_now(server: Server, recorder: Recorder) -> None:
    with listening(server, **{"Last-Event-ID": str(10**12)}) as stream:
        later = recorder.record()

        assert [event.filename for event in stream.take(1)] == later


@pytest.mark.parametrize("position", ["-1", "x", "1.5", str(2**63)])
def test_what_is_no_position_is_refused(server: Server, position: str) -> None:
    answer = CLIENT.get(f"{server.url}/v1/events", headers={"Last-Event-ID": position})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "Last-Event-ID"


def test_head_does_not_wait_for_results(server: Server) -> None:
    answer = CLIENT.head(f"{server.url}/v1/events")

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")


def test_listeners_are_bounded_and_a_place_becomes_free_again(
    server: Server, recorder: Recorder
) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_LISTENERS):
            stack.enter_context(listening(server))
        refused = CLIENT.get(f"{server.url}/v1/events")
    while True:  # the server sees by and by that the others have gone
        with listening(server) as stream:
            if stream.answer.status_code == 200:
                later = recorder.record()
                assert [event.filename for event in stream.take(1)] == later
                break

    assert refused.status_code == 503
    assert refused.json()["code"] == "busy"
    assert refused.headers["Retry-After"]


def test_a_listener_does_not_keep_the_server_from_stopping(
    rgb_bundle: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home", rgb_bundle)
    with start(home) as process:
        assert process.stderr is not None
        url = json.loads(process.stderr.readline())["url"]
        with listening(Server(url, 0, process)) as stream:
            process.terminate()
            rest = list(stream.lines)  # a stream that is cut off raises
        said = process.communicate(timeout=30)[1]

    assert all(line == "" or line.startswith((":", "retry")) for line in rest)
    assert process.returncode == 0
    assert "timeout graceful shutdown exceeded" not in said
    assert json.loads(said.splitlines()[-1])["event"] == "stopped"
