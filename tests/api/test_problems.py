"""Every error is a problem (RFC 9457), and none tells more than it should."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from api.app import create_app
from api.problems import CATALOG, MEDIA_TYPE
from api.schemas import Problem
from core.settings import Settings
from tests.api.conftest import MAX_BODY_BYTES, parts

Paint = Callable[..., bytes]


def problem(answer: object, status: int, code: str) -> Problem:
    assert answer.headers["Content-Type"] == MEDIA_TYPE  # type: ignore[attr-defined]
    assert answer.status_code == status  # type: ignore[attr-defined]
    found = Problem.model_validate(answer.json())  # type: ignore[attr-defined]
    assert (found.status, found.code, found.type) == (status, code, f"/problems/{code}")
    assert found.title
    assert found.detail
    assert CATALOG[code].status == status
    return found


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not_found"),
        ("GET", "/v1/results/", 404, "not_found"),
        ("GET", "/v1/results/no-such-id", 404, "result_not_found"),
        ("GET", "/static/../app.py", 404, "not_found"),
        ("GET", "/static/%2e%2e/app.py", 404, "not_found"),
        ("GET", "/static/%00", 404, "not_found"),
        ("GET", "/problems/nothing", 404, "not_found"),
        ("GET", "/v1/predict", 405, "method_not_allowed"),
        ("DELETE", "/v1/results", 405, "method_not_allowed"),
        ("POST", "/static/docs.js", 405, "method_not_allowed"),
        ("BREW", "/v1/results", 405, "method_not_allowed"),
        ("POST", "/v1/predict", 415, "not_multipart"),
        ("GET", "/v1/results?limit=0", 422, "bad_parameter"),
        ("GET", "/v1/results?cursor=x", 422, "bad_cursor"),
    ],
)
def test_what_a_client_does_wrong_is_a_problem(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)

    found = problem(answer, status, code)
    assert unquote(found.instance) == answer.request.url.path


def test_a_wrong_method_is_told_the_right_one(client: TestClient) -> None:
    assert client.get("/v1/predict").headers["Allow"] == "POST"


def test_a_body_over_the_limit_is_a_problem(client: TestClient) -> None:
    too_much = b"x" * (MAX_BODY_BYTES + 100_000)

    for path in ("/v1/predict", "/v1/results", "/nothing"):
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        problem(client.post(path, content=too_much, headers=headers), 413, "body_too_large")


def test_a_range_that_cannot_be_met_is_a_problem(client: TestClient) -> None:
    answer = client.get("/static/docs.js", headers={"Range": "bytes=999999-"})

    problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["Content-Range"].startswith("bytes */")


def test_a_bug_is_a_problem_without_a_word_of_the_inside(client: TestClient, paint: Paint) -> None:
    parts(client).engine.close()  # what no request can do: the next one meets a RuntimeError

    with capture_logs() as said:
        answer = client.post("/v1/predict", files={"file": ("a.png", paint("red"))})

    problem(answer, 500, "internal_error")
    assert [line["event"] for line in said if line.get("exc_info")] == ["internal_error"]
    assert "engine" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    value = parts(client).metrics.registry.get_sample_value
    assert value("pigeonhole_errors_total", {"code": "internal_error"}) == 1


def test_a_database_that_fails_says_come_back_later(
    client: TestClient, home: Path, paint: Paint
) -> None:
    with sqlite3.connect(home / "pigeonhole.db") as connection:
        connection.execute("DROP TABLE results")
    connection.close()

    for answer in (
        client.get("/v1/results"),
        client.post("/v1/predict", files={"file": ("a.png", paint("red"))}),
    ):
        problem(answer, 503, "database_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert "SELECT" not in answer.text


def test_the_type_of_every_problem_leads_to_its_meaning(client: TestClient) -> None:
    for code, kind in CATALOG.items():
        assert client.get(f"/problems/{code}").json() == {"code": code, **kind._asdict()}


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("LocalHost:8000", True),
        ("127.0.0.1:1", True),
        ("[::1]:8000", True),
        ("testserver", True),  # PIGEONHOLE_ALLOWED_HOSTS
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("[::1", False),
        ("a/b?c#d", False),
        ("x" * 300, False),
        ("", False),
    ],
)
def test_a_page_that_poses_as_this_machine_is_refused(
    client: TestClient, host: str, is_ours: bool
) -> None:
    answer = client.get("/v1/results?limit=1", headers={"Host": host})

    if is_ours:
        assert answer.status_code == 200
    else:
        problem(answer, 421, "unknown_host")


def test_where_others_may_come_in_any_name_will_do(make_settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(make_settings(host="0.0.0.0", api_key="secret"))) as client:
        headers = {"Host": "pictures.example.org", "X-API-Key": "secret"}
        assert client.get("/v1/labels", headers=headers).status_code == 200


def test_no_other_origin_is_let_in_unless_it_is_named(
    client: TestClient, make_settings: Callable[..., Settings]
) -> None:
    origin = {"Origin": "https://a.example", "Access-Control-Request-Method": "PATCH"}
    assert "Access-Control-Allow-Origin" not in client.get("/v1/labels", headers=origin).headers

    settings = make_settings(cors_origins="https://a.example, https://b.example")
    with TestClient(create_app(settings)) as open_client:
        asked = open_client.options("/v1/results/1", headers=origin)
        assert asked.headers["Access-Control-Allow-Origin"] == "https://a.example"
        other = open_client.get("/v1/labels", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in other.headers
