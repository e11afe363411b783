"""Raw bodies, several images in one form, digests, and requests that are repeated."""

import base64
import hashlib
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from api.schemas import Batch
from api.uploads import MAX_AT_WORK
from storage import repeats
from tests.api.conftest import MAX_BODY_BYTES, listening, make_home, parts, serving, start

Paint = Callable[..., bytes]


def batch(client: TestClient, *files: tuple[str, bytes], query: str = "") -> list[dict[str, Any]]:
    form = [("file", file) for file in files]
    answer = client.post(f"/v1/predict/batch?{query}", files=form)
    assert answer.status_code == 207, answer.text
    Batch.model_validate(answer.json())
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_an_image_may_be_the_body_itself(client: TestClient, paint: Paint, home: Path) -> None:
    data = paint("blue")
    headers = {
        "Content-Type": "image/png",
        "Content-Disposition": 'attachment; filename="../sea.png"',
    }

    named = client.post("/v1/predict", content=data, headers=headers)
    unnamed = client.post("/v1/predict", content=data, headers={"Content-Type": "image/webp"})

    assert named.status_code == unnamed.status_code == 201
    assert (named.json()["filename"], unnamed.json()["filename"]) == ("sea.png", "upload")
    assert named.json()["label"] == "blue"
    assert (home / named.json()["path"]).read_bytes() == data
    too_much = client.post("/v1/predict", content=b"x" * (MAX_BODY_BYTES + 1), headers=headers)
    assert (too_much.status_code, too_much.json()["code"]) == (413, "body_too_large")


def test_each_file_of_a_form_has_its_own_outcome(client: TestClient, paint: Paint) -> None:
    items = batch(
        client,
        ("a.png", paint("red")),
        ("b.jpg", b"not an image"),
        ("c.png", paint("blue")),
        ("again.png", paint("red")),
    )

    assert [item["status"] for item in items] == [201, 422, 201, 201]
    assert [item["filename"] for item in items] == ["a.png", "b.jpg", "c.png", "again.png"]
    assert [item["result"] and item["result"]["label"] for item in items] == [
        "red", None, "blue", "red",
    ]  # fmt: skip
    assert items[1]["problem"]["code"] == "unreadable_image"
    assert items[3]["result"]["duplicate_of"] == items[0]["result"]["id"]
    assert parts(client).store.count() == 3
    for item in (items[0], items[3]):
        image = client.get(f"/v1/results/{item['result']['id']}/image")
        assert image.content == paint("red")


def test_a_batch_need_not_be_stored(client: TestClient, paint: Paint, home: Path) -> None:
    (item,) = batch(client, ("a.png", paint("red")), query="store=false")

    assert (item["status"], item["result"]["path"]) == (200, None)
    assert parts(client).store.count() == 0
    assert not (home / "uploads").exists()


def test_a_form_holds_one_to_32_files(client: TestClient, paint: Paint) -> None:
    file = ("file", ("a.png", paint("red")))

    too_many = client.post("/v1/predict/batch", files=[file] * 33)
    none = client.post("/v1/predict/batch", files={"other": ("a.png", paint("red"))})
    raw = client.post("/v1/predict/batch", content=b"x", headers={"Content-Type": "image/png"})

    assert (too_many.status_code, too_many.json()["code"]) == (422, "bad_multipart")
    assert (none.status_code, none.json()["code"]) == (422, "bad_parameter")
    assert (raw.status_code, raw.json()["code"]) == (415, "not_multipart")


def test_what_came_must_be_what_was_sent(client: TestClient, paint: Paint) -> None:
    data = paint("red")
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(data + b"x").digest()).decode()

    for said, status in (
        (f"sha-256=:{digest}:", 201),
        (f"unknown=:{wrong}:, sha-256=:{digest}:", 201),
        (f"sha-256=:{wrong}:", 400),
        (f"sha-512=:{digest}:", 400),
        (digest, 400),
    ):
        headers = {"Content-Type": "image/png", "Content-Digest": said}
        answer = client.post("/v1/predict", content=data, headers=headers)
        assert answer.status_code == status, answer.text
        assert status == 201 or answer.json()["code"] == "bad_digest"


def send(client: TestClient, data: bytes, key: str, name: str = "a.png") -> Any:  # noqa: ANN401
    headers = {"Idempotency-Key": key}
    return client.post("/v1/predict", files={"file": (name, data)}, headers=headers)


def test_a_request_that_is_repeated_gets_its_first_answer(client: TestClient, paint: Paint) -> None:
    first, again = (send(client, paint("red"), "one") for _ in range(2))
    other = send(client, paint("red"), "two")

    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert other.json()["id"] != first.json()["id"]
    assert parts(client).store.count() == 2


def test_a_key_is_for_one_request_alone(client: TestClient, paint: Paint) -> None:
    send(client, paint("red"), "one")

    for answer in (
        send(client, paint("blue"), "one"),
        send(client, paint("red"), "one", name="b.png"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_what_failed_may_be_tried_again(client: TestClient, paint: Paint) -> None:
    assert send(client, b"no image", "one").status_code == 422
    assert send(client, paint("red"), "one").status_code == 201


def test_many_who_repeat_at_once_make_one_result(client: TestClient, paint: Paint) -> None:
    together = threading.Barrier(6)

    def once(_: int) -> int:
        together.wait()
        answer = send(client, paint("red"), "one")
        assert answer.status_code == 201 or answer.headers["Retry-After"]
        return int(answer.status_code)

    with ThreadPoolExecutor(6) as threads:
        seen = set(threads.map(once, range(6)))

    assert {201} <= seen <= {201, 409}
    assert parts(client).store.count() == 1


def test_who_died_at_work_does_not_hold_a_key_for_ever(client: TestClient) -> None:
    database, now = parts(client).store.database, datetime.now(UTC)
    dead = repeats.claim(database, "key", "asked", now)
    assert isinstance(dead, repeats.Claim)
    with pytest.raises(repeats.InProgressError):
        repeats.claim(database, "key", "asked", now)

    later = repeats.claim(database, "key", "asked", now + timedelta(minutes=2))
    assert isinstance(later, repeats.Claim)
    with pytest.raises(repeats.InProgressError), database.write() as connection:
        repeats.finish(connection, dead, {"status": 201})  # it was only slow
    with database.write() as connection:
        repeats.finish(connection, later, {"status": 201})
    repeats.abandon(database, later)  # too late: it is finished

    day = timedelta(days=1)
    assert repeats.claim(database, "key", "asked", now + day) == {"status": 201}
    assert isinstance(repeats.claim(database, "key", "asked", now + 2 * day), repeats.Claim)


def test_who_was_too_slow_for_his_key_leaves_nothing(
    client: TestClient, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "GIVEN_UP", timedelta(0))
    store = parts(client).store
    known = store.known

    def overtaken(*asked: Any) -> Any:  # noqa: ANN401
        monkeypatch.setattr(store, "known", known)
        assert send(client, paint("red"), "one").status_code == 201
        return known(*asked)

    monkeypatch.setattr(store, "known", overtaken)
    slow = send(client, paint("red"), "one")

    assert (slow.status_code, slow.json()["code"]) == (409, "request_in_progress")
    assert store.count() == 1
    assert len([*(parts(client).settings.home / "uploads").rglob("*.png")]) == 1


_DIES = """
import os, signal
from api.server import serve
from core.settings import Settings
from storage.store import Store
record = Store.record
def record_and_die(*given, **how):
    record(*given, **how)
    os.kill(os.getpid(), signal.SIGKILL)
Store.record = record_and_die
serve(Settings.read())
"""


def test_a_server_that_dies_between_commit_and_answer_answers_the_repeated_request(
    rgb_bundle: Path, tmp_path: Path, paint: Paint
) -> None:
    home = make_home(tmp_path / "home", rgb_bundle)
    how: Any = {
        "files": [("file", ("a.png", paint("red")))],
        "headers": {"Idempotency-Key": "one"},
        "timeout": 60,
    }
    with start(home, program=_DIES) as process:
        url = listening(process).url
        with pytest.raises(httpx2.TransportError):
            httpx2.post(f"{url}/v1/predict", **how)
        assert process.wait(60) == -signal.SIGKILL

    with serving(home) as server:
        again, once_more = (httpx2.post(f"{server.url}/v1/predict", **how) for _ in range(2))
        (row,) = httpx2.get(f"{server.url}/v1/results").json()["items"]

    assert again.status_code == once_more.status_code == 201
    assert again.json() == once_more.json() == row
    assert again.headers["Location"] == f"/v1/results/{row['id']}"


def test_over_the_bound_the_answer_is_come_back_later(client: TestClient, paint: Paint) -> None:
    limiter = parts(client).uploaders
    workers = [object() for _ in range(MAX_AT_WORK)]
    assert client.portal
    for worker in workers:
        client.portal.call(limiter.acquire_on_behalf_of_nowait, worker)

    answer = client.post("/v1/predict", files={"file": ("a.png", paint("red"))})
    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert int(answer.headers["Retry-After"]) >= 1

    client.portal.call(limiter.release_on_behalf_of, workers[0])
    for _ in range(3):
        answer = client.post("/v1/predict", files={"file": ("a.png", paint("red"))})
        assert answer.status_code == 201
