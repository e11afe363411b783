"""PATCH /v1/results/{id}: what people say of a result."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.schemas import Result
from core.settings import Settings
from tests.api.conftest import parts
from tests.api.test_results import fill

Upload = Callable[..., dict[str, Any]]


def patch(
    client: TestClient, identifier: str, body: object, if_match: str | None = "*"
) -> tuple[int, dict[str, Any]]:
    headers = {} if if_match is None else {"If-Match": if_match}
    headers["Content-Type"] = "application/json"
    answer = client.patch(f"/v1/results/{identifier}", content=json.dumps(body), headers=headers)
    content: dict[str, Any] = answer.json()
    if answer.status_code == 200:
        Result.model_validate(content)
        assert client.get(f"/v1/results/{identifier}").json() == content
        assert client.get(f"/v1/results/{identifier}").headers["ETag"] == answer.headers["ETag"]
    return answer.status_code, content


def test_a_correction_stands_beside_the_label_of_the_model(
    client: TestClient, upload: Upload
) -> None:
    before = upload("red")

    status, after = patch(client, before["id"], {"corrected_label": "a class of its own"})

    assert status == 200
    assert after["corrected_label"] == "a class of its own"
    assert after["reviewed_at"] >= before["classified_at"]
    said = ("corrected_label", "reviewed_at")
    assert {**after, **dict.fromkeys(said)} == before


def test_a_confirmation_says_only_that_somebody_looked(client: TestClient, upload: Upload) -> None:
    identifier = upload("red")["id"]

    _, confirmed = patch(client, identifier, {"reviewed": True})
    assert (confirmed["corrected_label"], confirmed["reviewed_at"] is None) == (None, False)

    patch(client, identifier, {"corrected_label": "blue"})
    _, again = patch(client, identifier, {"reviewed": True})
    assert again["corrected_label"] == "blue"


@pytest.mark.parametrize("undo", [{"corrected_label": None}, {"reviewed": False}])
def test_what_was_said_can_be_taken_back(
    client: TestClient, upload: Upload, undo: dict[str, object]
) -> None:
    before = upload("red")
    patch(client, before["id"], {"corrected_label": "blue"})

    assert patch(client, before["id"], undo) == (200, before)


def test_what_was_reviewed_needs_no_review_until_it_is_taken_back(
    make_settings: Callable[..., Settings], paint: Callable[..., bytes]
) -> None:
    with TestClient(create_app(make_settings(min_confidence=0.5))) as client:
        file = {"file": ("grey.png", paint("gray"))}  # three labels, a third each
        result = client.post("/v1/predict", files=file).json()
        queue = "/v1/results?needs_review=true"
        assert [item["id"] for item in client.get(queue).json()["items"]] == [result["id"]]

        assert patch(client, result["id"], {"reviewed": True})[1]["needs_review"] is False
        assert client.get(queue).json()["items"] == []

        assert patch(client, result["id"], {"reviewed": False}) == (200, result)
        assert len(client.get(queue).json()["items"]) == 1


def test_nobody_overwrites_what_he_has_not_seen(client: TestClient, upload: Upload) -> None:
    identifier = upload("red")["id"]
    seen = client.get(f"/v1/results/{identifier}").headers["ETag"]

    assert patch(client, identifier, {"reviewed": True}, None)[1]["code"] == "precondition_required"
    assert patch(client, identifier, {"reviewed": True}, f"W/{seen}")[0] == 412
    assert patch(client, identifier, {"corrected_label": "blue"}, f'"other", {seen}')[0] == 200
    status, problem = patch(client, identifier, {"corrected_label": "green"}, seen)

    assert (status, problem["code"]) == (412, "precondition_failed")
    assert client.get(f"/v1/results/{identifier}").json()["corrected_label"] == "blue"


def test_of_many_who_saw_the_same_one_wins(client: TestClient, upload: Upload) -> None:
    identifier = upload("red")["id"]
    seen = client.get(f"/v1/results/{identifier}").headers["ETag"]

    def say(number: int) -> int:
        body = {"corrected_label": f"label {number}"}
        answer = client.patch(f"/v1/results/{identifier}", json=body, headers={"If-Match": seen})
        return answer.status_code

    with ThreadPoolExecutor(8) as threads:
        said = sorted(threads.map(say, range(8)))

    assert said == [200] + [412] * 7


def test_the_answer_to_an_upload_carries_the_tag_that_a_correction_needs(
    client: TestClient, paint: Callable[..., bytes]
) -> None:
    answer = client.post("/v1/predict", files={"file": ("a.png", paint("red"))})

    said = patch(client, answer.json()["id"], {"reviewed": True}, answer.headers["ETag"])
    assert said[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        "cat",
        {"corrected_label": "cat", "reviewed": True},
        {"corrected_label": ""},
        {"corrected_label": " cat"},
        {"corrected_label": "two\nlines"},
        {"corrected_label": "a\x00b"},
        {"corrected_label": "half \ud800"},
        {"corrected_label": "x" * 256},
        {"corrected_label": 7},
        {"reviewed": "yes"},
        {"reviewed": None},
        {"label": "cat"},
    ],
)
def test_what_cannot_be_meant_is_refused(client: TestClient, upload: Upload, body: object) -> None:
    identifier = upload("red")["id"]

    status, problem = patch(client, identifier, body)

    assert (status, problem["code"]) == (422, "bad_parameter")
    assert problem["errors"]


def test_a_body_that_is_not_json_is_refused(client: TestClient, upload: Upload) -> None:
    path = f"/v1/results/{upload('red')['id']}"

    for content, kind, status, code in (
        (b"{", "application/json", 422, "bad_parameter"),
        (b"[" * 100_000, "application/json", 422, "bad_parameter"),
        (b"\xff", "application/json", 422, "bad_parameter"),
        (b'{"reviewed": true}', "text/plain", 415, "not_json"),
        (b'{"reviewed": true}', "application/merge-patch+json", 200, None),
    ):
        headers = {"If-Match": "*", "Content-Type": kind}
        answer = client.patch(path, content=content, headers=headers)
        assert (answer.status_code, answer.json().get("code")) == (status, code)


def test_a_quarantined_file_has_nothing_to_correct(client: TestClient) -> None:
    fill(client)
    (result,) = client.get("/v1/results?status=quarantined&limit=1").json()["items"]

    assert patch(client, result["id"], {"corrected_label": "cat"})[1]["code"] == "not_classified"
    assert patch(client, result["id"], {"reviewed": True})[0] == 200
    assert patch(client, result["id"], {"reviewed": False}) == (200, result)


def test_a_result_that_is_not_there_cannot_be_reviewed(client: TestClient) -> None:
    for identifier in (str(uuid4()), "nothing"):
        assert patch(client, identifier, {"reviewed": True})[0] == 404
    assert parts(client).store.count() == 0
