"""GET /v1/results: filters, pages, one result."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.schemas import ResultPage, ResultQuery
from core.settings import Settings
from core.types import Failure, ImageInfo, ImageRef, LabelScore, ModelRef, Prediction
from storage.results import ResultFilter
from storage.store import Finished
from tests.api.conftest import parts

DAY = datetime(2026, 11, 22, tzinfo=UTC)
MODELS = (ModelRef("rgb", "v1"), ModelRef("rgb", "v2"))


def fill(client: TestClient) -> None:
    """Twelve results, an hour apart: two sources, two models, every fourth one quarantined."""
    for number in range(12):
        model = MODELS[number % 2]
        label, confidence = ("red", "green", "blue")[number % 3], number / 12
        outcome = Prediction(
            label, confidence, (LabelScore(label, confidence),), model, ImageInfo(4, 3, "PNG")
        )
        image = ImageRef(f"{number:064x}", f"Photo-{number}%_.png", 100 + number)
        failure = Failure("unreadable_image", "Copy it again.")
        parts(client).store.record(
            [Finished(image, failure if number % 4 == 3 else outcome, DAY, 1.0)],
            source="watcher" if number < 6 else "upload",
            model=model,
            min_confidence=0.5,
            now=DAY + timedelta(hours=number),
        )


@pytest.fixture
def filled(client: TestClient) -> TestClient:
    fill(client)
    return client


def numbers(client: TestClient, query: str) -> list[int]:
    answer = client.get(f"/v1/results?{query}")
    assert answer.status_code == 200, answer.text
    ResultPage.model_validate(answer.json())
    return [item["bytes"] - 100 for item in answer.json()["items"]]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ("order=asc", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("limit=2", [11, 10]),
        ("label=red", [9, 6, 0]),
        ("label=nobody", []),
        ("status=quarantined", [11, 7, 3]),
        ("status=classified&source=watcher", [5, 4, 2, 1, 0]),
        ("source=batch", []),
        ("model_version=v1", [10, 8, 6, 4, 2, 0]),
        ("needs_review=true", [5, 4, 2, 1, 0]),
        ("needs_review=false", [11, 10, 9, 8, 7, 6, 3]),
        ("min_confidence=0.75", [10, 9]),
        ("max_confidence=0", [0]),
        ("min_confidence=0.5&max_confidence=0.75", [9, 8, 6]),
        ("q=photo-1", [11, 10, 1]),
        ("q=5%25_", [5]),
        ("q=%25%25", []),
        ("since=2026-11-22T10:00:00Z", [11, 10]),
        ("until=2026-11-22T02:00:00Z", [1, 0]),
        ("since=2026-11-22T01:00:00Z&until=2026-11-22T03:00:00Z", [2, 1]),
        ("since=2026-11-22T12:00:00%2B02:00", [11, 10]),
        ("since=2026-11-22T10:00:00", [11, 10]),
        ("since=2026-11-22t10:00:00.000001z", [11]),
        ("until=2026-11-22", []),
        ("since=2026-11-23", []),
        ("label=red&source=upload&needs_review=false&order=asc&limit=1", [6]),
    ],
)
def test_every_filter_holds(filled: TestClient, query: str, wanted: list[int]) -> None:
    assert numbers(filled, query) == wanted


def test_the_api_offers_every_filter_that_the_store_has() -> None:
    offered = set(ResultQuery.model_fields) - {"order", "limit", "cursor"}

    assert offered == set(ResultFilter.__dataclass_fields__)


@pytest.mark.parametrize(
    "query",
    [
        "lable=red",
        "label=",
        "label=a%00b",
        "label=red&label=blue",
        "status=done",
        "source=mail",
        "needs_review=perhaps",
        "min_confidence=1.5",
        "min_confidence=nan",
        "max_confidence=-0.1",
        "max_confidence=high",
        "q=" + "x" * 256,
        "since=yesterday",
        "since=1700000000",
        "since=2026-13-01T00:00:00Z",
        "since=2026-11-22T10:00:00+02:00",  # a bare + is a space in a query
        "since=0001-01-01T00:00:00%2B12:00",
        "until=2026-W47-1",
        "until=",
        "order=up",
        "limit=0",
        "limit=501",
        "limit=many",
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/results?{query}")

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "bad_parameter")
    assert [item["parameter"] for item in problem["errors"]] == [query.partition("=")[0]]
    assert query.partition("=")[0] in problem["detail"]


@pytest.mark.parametrize("cursor", ["x", "YXNjOjE", "ZGVzYzotMQ", "é", "ZGVzYzp4"])
def test_a_cursor_that_is_not_ours_is_refused(client: TestClient, cursor: str) -> None:
    answer = client.get("/v1/results", params={"cursor": cursor})  # desc; YXNjOjE is asc:1

    assert (answer.status_code, answer.json()["code"]) == (422, "bad_cursor")


def test_a_cursor_that_was_altered_is_refused_and_ours_outlive_a_restart(
    client: TestClient, make_settings: Callable[..., Settings]
) -> None:
    fill(client)
    cursor = client.get("/v1/results?limit=3").json()["next_cursor"]

    for position in range(len(cursor)):
        other = "A" if cursor[position] != "A" else "B"
        altered = cursor[:position] + other + cursor[position + 1 :]
        answer = client.get("/v1/results", params={"cursor": altered})
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_cursor")

    with TestClient(create_app(make_settings())) as replica:
        page = replica.get("/v1/results", params={"cursor": cursor, "limit": 3})
    assert [item["bytes"] - 100 for item in page.json()["items"]] == [8, 7, 6]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_show_everything_once_while_results_arrive(filled: TestClient, order: str) -> None:
    seen: list[str] = []
    path = f"/v1/results?limit=5&order={order}&status=classified&q=photo"
    pages = 0
    while True:
        answer = filled.get(path)
        seen += [item["id"] for item in answer.json()["items"]]
        pages += 1
        if "next" not in answer.links:
            break
        path = answer.links["next"]["url"]
        assert f"cursor={answer.json()['next_cursor']}" in path
        if pages == 1:
            fill(filled)

    stored = filled.get("/v1/results?limit=500&order=asc&status=classified").json()["items"]
    ids = [item["id"] for item in stored]
    assert seen == (ids if order == "asc" else list(reversed(ids[:9])))
    assert answer.json()["next_cursor"] is None


def test_the_next_link_carries_the_filters_whatever_they_hold(filled: TestClient) -> None:
    hostile = 'photo>; rel="prev"\r\nX: y'

    link = filled.get(f"/v1/results?limit=1&q={quote('photo-')}").headers["Link"]
    assert link.startswith("</v1/results?limit=1&q=photo-&cursor=")
    assert filled.get("/v1/results", params={"q": hostile}).json()["items"] == []


def test_a_quarantined_file_says_why(filled: TestClient) -> None:
    (result,) = filled.get("/v1/results?status=quarantined&limit=1").json()["items"]

    assert result["error"] == {"code": "unreadable_image", "detail": "Copy it again."}
    assert (result["label"], result["scores"], result["width"]) == (None, [], None)
    assert filled.get(f"/v1/results/{result['id']}").json() == result


def test_one_result_is_found_by_its_id_in_either_case(
    client: TestClient, upload: Callable[..., dict[str, Any]]
) -> None:
    result = upload("red")

    assert client.get(f"/v1/results/{result['id'].upper()}").json() == result


@pytest.mark.parametrize("identifier", [str(uuid4()), "1", "%00", "..%2f", "é" * 300])
def test_what_is_no_id_is_not_found(client: TestClient, identifier: str) -> None:
    answer = client.get(f"/v1/results/{identifier}")

    assert answer.status_code == 404
    assert answer.json()["code"] in ("result_not_found", "not_found")


def test_five_hundred_results_fit_one_page(client: TestClient) -> None:
    image, outcome = ImageRef("0" * 64, "a.png", 1), Failure("empty_file", "Send it again.")
    parts(client).store.record(
        [Finished(image, outcome, DAY, 1.0)] * 501,
        source="batch",
        model=MODELS[0],
        min_confidence=0.5,
        now=DAY,
    )

    first = client.get("/v1/results?limit=500").json()
    second = client.get(f"/v1/results?limit=500&cursor={first['next_cursor']}").json()

    assert (len(first["items"]), len(second["items"])) == (500, 1)
    assert len({item["id"] for item in first["items"] + second["items"]}) == 501
    assert len(client.get("/v1/results").json()["items"]) == 50


@pytest.mark.parametrize("path", ["/v1/results?limit=3", "/v1/model", "/v1/labels"])
def test_who_has_the_answer_already_gets_it_no_second_time(filled: TestClient, path: str) -> None:
    first = filled.get(path)

    again = filled.get(path, headers={"If-None-Match": first.headers["ETag"]})
    other = filled.get(path, headers={"If-None-Match": '"another"'})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert (other.status_code, other.json()) == (200, first.json())


def test_new_results_make_another_page(filled: TestClient) -> None:
    first = filled.get("/v1/results?limit=3")
    fill(filled)

    again = filled.get("/v1/results?limit=3", headers={"If-None-Match": first.headers["ETag"]})

    assert again.status_code == 200
