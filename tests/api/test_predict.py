"""POST /v1/predict, from the bytes to the row."""

import hashlib
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.schemas import Result
from core.bundle import Bundle
from core.errors import EngineBusyError
from core.settings import Settings
from storage.results import ResultFilter
from tests.api.conftest import MAX_BODY_BYTES, parts

Upload = Callable[..., dict[str, Any]]
Paint = Callable[..., bytes]


def classified(client: TestClient) -> float | None:
    """How many images the model has really seen."""
    return parts(client).metrics.registry.get_sample_value("pigeonhole_batch_images_sum")


@pytest.mark.parametrize("color", ["red", "lime", "blue"])
def test_an_image_gets_its_label_and_its_row(client: TestClient, paint: Paint, color: str) -> None:
    data = paint(color, (40, 30), "JPEG")

    answer = client.post("/v1/predict", files={"file": ("dog.jpg", data, "image/jpeg")})

    assert answer.status_code == 201
    result = answer.json()
    Result.model_validate(result)
    assert result["label"] == {"lime": "green"}.get(color, color)
    assert result["scores"][0] == {"label": result["label"], "score": result["confidence"]}
    assert result["path"].startswith("uploads/")
    assert {key: result[key] for key in ("filename", "source", "status", "error")} == {
        "filename": "dog.jpg",
        "source": "upload",
        "status": "classified",
        "error": None,
    }
    assert (result["width"], result["height"], result["format"]) == (40, 30, "JPEG")
    assert (result["bytes"], result["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert answer.headers["Location"] == f"/v1/results/{result['id']}"
    assert answer.headers["X-Model-Version"] == result["model"]["version"]
    assert client.get(answer.headers["Location"]).json() == result


def test_times_are_utc_and_in_order(upload: Upload) -> None:
    before = datetime.now(UTC).replace(microsecond=0)

    result = upload()

    received, done = (
        datetime.fromisoformat(result[key]) for key in ("received_at", "classified_at")
    )
    assert result["received_at"].endswith("Z")
    assert before <= received <= done <= datetime.now(UTC)
    assert result["latency_ms"] > 0


def test_store_false_answers_alike_and_keeps_nothing(client: TestClient, paint: Paint) -> None:
    file = {"file": ("dog.png", paint("blue"))}

    unstored = client.post("/v1/predict?store=false", files=file)
    stored = client.post("/v1/predict", files=file)

    assert (unstored.status_code, stored.status_code) == (200, 201)
    assert "Location" not in unstored.headers
    assert unstored.headers["X-Model-Version"] == stored.headers["X-Model-Version"]
    Result.model_validate(unstored.json())
    assert client.get(f"/v1/results/{unstored.json()['id']}").status_code == 404
    ours = {"id", "received_at", "classified_at", "latency_ms", "path"}
    assert {key: value for key, value in unstored.json().items() if key not in ours} == {
        key: value for key, value in stored.json().items() if key not in ours
    }
    assert UUID(unstored.json()["id"]).version == 7
    assert parts(client).store.count() == 1


def test_the_same_bytes_are_inferred_once(client: TestClient, upload: Upload) -> None:
    first = upload("red", "one.png")
    again = upload("red", "two.png")
    other = upload("blue", "three.png")

    assert classified(client) == 2
    assert (first["duplicate_of"], again["duplicate_of"]) == (None, first["id"])
    assert other["duplicate_of"] is None
    assert again["filename"] == "two.png"
    assert (again["label"], again["scores"]) == (first["label"], first["scores"])


def test_below_the_least_confidence_an_image_needs_review(
    make_settings: Callable[..., Settings], paint: Paint
) -> None:
    grey = {"file": ("grey.png", paint("gray"))}  # three labels, a third each

    with TestClient(create_app(make_settings(min_confidence=0.5))) as client:
        stored = client.post("/v1/predict", files=grey).json()
        unstored = client.post("/v1/predict?store=false", files=grey).json()

    assert stored["needs_review"] is True
    assert unstored["needs_review"] is True


def test_eight_threads_upload_at_once(client: TestClient, paint: Paint) -> None:
    together = threading.Barrier(8)

    def send(number: int) -> list[tuple[int, str, str]]:
        together.wait()
        answers = []
        for turn in range(12):
            color = ("red", "lime", "blue")[(number + turn) % 3]
            file = {"file": (f"{number}-{turn}.png", paint(color, (10 + number, 10 + turn)))}
            answer = client.post("/v1/predict", files=file)
            answers.append((answer.status_code, color, answer.json()["label"]))
            assert client.get(answer.headers["Location"]).json() == answer.json()
        return answers

    with ThreadPoolExecutor(8) as threads:
        answers = [item for some in threads.map(send, range(8)) for item in some]

    assert {status for status, _, _ in answers} == {201}
    assert {(color, label) for _, color, label in answers} == {
        ("red", "red"),
        ("lime", "green"),
        ("blue", "blue"),
    }
    assert parts(client).store.count(ResultFilter(source="upload")) == len(answers) == 96


def test_every_upload_is_counted_by_what_became_of_it(client: TestClient, upload: Upload) -> None:
    upload("red")
    client.post("/v1/predict", files={"file": ("a.png", b"", "image/png")})

    value = parts(client).metrics.registry.get_sample_value
    images = {
        outcome: value("pigeonhole_images_total", {"source": "upload", "outcome": outcome})
        for outcome in ("classified", "quarantined")
    }
    assert images == {"classified": 1, "quarantined": 1}
    assert value("pigeonhole_errors_total", {"code": "empty_file"}) == 1
    assert value("pigeonhole_predictions_total", {"label": "red"}) == 1
    assert value("pigeonhole_drop_to_result_seconds_count", {"source": "upload"}) == 2
    assert value("pigeonhole_stage_duration_seconds_count", {"stage": "store"}) == 1


GARBAGE = b"neither a picture nor a word"


@pytest.mark.parametrize(
    ("data", "content_type", "status", "code"),
    [
        (b"", "image/png", 422, "empty_file"),
        (b"", "text/plain", 422, "empty_file"),
        (GARBAGE, "image/jpeg", 422, "unreadable_image"),
        (GARBAGE, "IMAGE/JPEG", 422, "unreadable_image"),
        (GARBAGE, "text/plain", 415, "unsupported_format"),
        (GARBAGE, "application/octet-stream", 415, "unsupported_format"),
        (b"%PDF-1.7 and so on", "application/pdf", 415, "unsupported_format"),
        (b"\xff\xd8\xff broken", "image/jpeg", 422, "unreadable_image"),
        (b"\xff\xd8\xff broken", "text/plain", 422, "unreadable_image"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(
    client: TestClient, data: bytes, content_type: str, status: int, code: str
) -> None:
    answer = client.post("/v1/predict", files={"file": ("a.jpg", data, content_type)})

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["detail"]
    assert parts(client).store.count() == 0


def raw_form(data: bytes, filename: str) -> dict[str, Any]:
    """A form as no library would write it: the name as it is, and no type."""
    quoted = filename.replace("\\", "\\\\").replace('"', '\\"')
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'
    return {
        "content": head.encode() + data + b"\r\n--b--\r\n",
        "headers": {"Content-Type": "multipart/form-data; boundary=b"},
    }


def test_a_part_without_a_declared_type_is_judged_by_its_bytes(
    client: TestClient, paint: Paint
) -> None:
    assert client.post("/v1/predict", **raw_form(paint("red"), "a")).status_code == 201
    assert client.post("/v1/predict", **raw_form(GARBAGE, "a")).status_code == 415


def test_an_image_under_a_wrong_type_is_an_image_all_the_same(
    client: TestClient, paint: Paint
) -> None:
    for content_type in ("text/plain", "application/octet-stream", "image/webp"):
        file = {"file": ("a.txt", paint("red"), content_type)}
        assert client.post("/v1/predict", files=file).status_code == 201


def test_too_many_pixels_are_refused_before_they_are_decoded(
    client: TestClient, paint: Paint
) -> None:
    answer = client.post("/v1/predict", files={"file": ("a.png", paint("red", (1001, 1000)))})

    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_pixels")
    assert "PIGEONHOLE_MAX_PIXELS" in answer.json()["detail"]


def test_a_file_may_have_as_many_bytes_as_the_limit_says_and_no_more(
    client: TestClient, paint: Paint
) -> None:
    image = paint("red")
    padded = image + b"\0" * (MAX_BODY_BYTES - len(image))

    fits = client.post("/v1/predict", files={"file": ("a.png", padded)})
    one_more = client.post("/v1/predict", files={"file": ("a.png", padded + b"\0")})

    assert fits.status_code == 201
    assert (one_more.status_code, one_more.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("image/jpeg", b"\xff\xd8\xff", 422, "unreadable_image"),
        ("image/jpeg", b"", 422, "empty_file"),
        ("application/json", b"{}", 415, "not_multipart"),
        ("application/x-www-form-urlencoded", b"file=x", 415, "not_multipart"),
        ("", b"", 415, "not_multipart"),
        ("multipart/form-data", b"--b--", 422, "bad_multipart"),
        ("multipart/form-data; boundary=b", b"no boundary", 422, "bad_multipart"),
        ("multipart/form-data; boundary=b", b"", 422, "bad_parameter"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n',
            422,
            "bad_parameter",
        ),
        (
            "multipart/form-data; boundary=b; charset=undefined",
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n',
            422,
            "bad_multipart",
        ),
        (
            "multipart/form-data; boundary=b; charset=zlib",
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--b--\r\n',
            422,
            "bad_parameter",
        ),
    ],
)
def test_a_request_that_is_no_form_with_a_file_is_refused(
    client: TestClient, content_type: str, body: bytes, status: int, code: str
) -> None:
    answer = client.post("/v1/predict", content=body, headers={"Content-Type": content_type})

    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_file_under_another_field_name_is_missed_by_name(
    client: TestClient, paint: Paint
) -> None:
    answer = client.post("/v1/predict", files={"image": ("a.png", paint("red"))})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "file"


def test_one_form_holds_one_file(client: TestClient, paint: Paint) -> None:
    file = ("file", ("a.png", paint("red")))

    answer = client.post("/v1/predict", files=[file, file])

    assert (answer.status_code, answer.json()["code"]) == (422, "bad_multipart")
    assert parts(client).store.count() == 0


def test_other_fields_of_the_form_are_ignored(client: TestClient, paint: Paint) -> None:
    file = {"file": ("a.png", paint("red"))}

    assert client.post("/v1/predict", files=file, data={"token": "x"}).status_code == 201


@pytest.mark.parametrize("query", ["store=maybe", "stor=false", "store=true&store=false"])
def test_a_misspelt_parameter_stores_nothing(client: TestClient, paint: Paint, query: str) -> None:
    answer = client.post(f"/v1/predict?{query}", files={"file": ("a.png", paint("red"))})

    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert answer.json()["errors"][0]["parameter"] == query.partition("=")[0]
    assert parts(client).store.count() == 0


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("<img src=x onerror=alert(1)>.jpg", "<img src=x onerror=alert(1)>.jpg"),
        ("'; DROP TABLE results; --.png", "'; DROP TABLE results; --.png"),
        ("a" * 300 + ".jpg", "a" * 251 + ".jpg"),
        ("🐕‍🦺 Überraschung.png", "🐕‍🦺 Überraschung.png"),
        ("%00%0a.png", "%00%0a.png"),
        ("\x1b[2J\x07.png", "[2J.png"),
        ("exe.\u202egnp", "exe.gnp"),
    ],
)
def test_a_hostile_file_name_is_only_text(
    client: TestClient, paint: Paint, home: Path, sent: str, kept: str
) -> None:
    files_before = set(home.parent.rglob("*"))

    answer = client.post("/v1/predict", **raw_form(paint("red"), sent))

    assert answer.status_code == 201
    assert answer.json()["filename"] == kept
    assert client.get(answer.headers["Location"]).json()["filename"] == kept
    new_files = {path for path in set(home.parent.rglob("*")) - files_before if path.is_file()}
    assert new_files == {home / answer.json()["path"]}
    assert re.fullmatch(r"uploads/[0-9-]{10}/[0-9a-f-]{36}\.png", answer.json()["path"])


def test_a_model_that_breaks_down_is_said_and_nothing_is_kept(
    client: TestClient, fragile_bundle: Path, home: Path, paint: Paint
) -> None:
    good = parts(client).engine.bundle
    parts(client).engine.replace(Bundle.load(fragile_bundle))
    for path in ("/v1/predict", "/v1/predict?store=false"):
        answer = client.post(path, files={"file": ("a.png", paint("red"))})
        assert (answer.status_code, answer.json()["code"]) == (503, "model_failed")
        assert answer.headers["retry-after"]
        assert "rollback" in answer.json()["detail"]
    parts(client).engine.replace(good)

    assert client.post("/v1/predict", files={"file": ("a.png", paint("red"))}).status_code == 201
    assert parts(client).store.count() == 1
    assert len([path for path in (home / "uploads").rglob("*") if path.is_file()]) == 1


def test_a_full_queue_says_come_back_later(client: TestClient, paint: Paint) -> None:
    image, enough = paint("red", (200, 200)), threading.Event()
    file = {"file": ("a.png", paint("blue"))}  # not stored: known bytes would not queue

    def flood() -> None:
        while not enough.is_set():
            with suppress(EngineBusyError):
                parts(client).engine.submit(image)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(flood)
        try:
            while (answer := client.post("/v1/predict?store=false", files=file)).is_success:
                pass
        finally:
            enough.set()

    assert (answer.status_code, answer.json()["code"]) == (503, "busy")
    assert int(answer.headers["Retry-After"]) >= 1
    assert client.post("/v1/predict", files=file).status_code in (201, 503)
