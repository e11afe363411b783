"""The API key."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from core.settings import Settings
from storage import keys
from storage.keys import Scope
from tests.api.conftest import parts

KEY = "correct horse — battery"


@pytest.fixture
def locked(make_settings: Callable[..., Settings]) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(api_key=KEY))) as client:
        yield client


def v1_routes(client: TestClient) -> list[tuple[str, str]]:
    paths = client.get("/openapi.json").json()["paths"]
    return [
        (method, path) for path, item in paths.items() if path.startswith("/v1") for method in item
    ]


@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x", KEY[:-1], "é"])
def test_every_route_of_v1_asks_for_the_key(locked: TestClient, key: str | None) -> None:
    headers = {} if key is None else {b"X-API-Key": key.encode()}
    routes = v1_routes(locked)
    assert len(routes) >= 5

    for method, path in routes:
        answer = locked.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), path
        assert answer.headers["WWW-Authenticate"].startswith("ApiKey")


def test_with_the_key_all_is_open(locked: TestClient, paint: Callable[..., bytes]) -> None:
    headers = {b"X-API-Key": KEY.encode()}

    answer = locked.post("/v1/predict", files={"file": ("a.png", paint("red"))}, headers=headers)

    assert answer.status_code == 201
    for path in ("/v1/results", answer.headers["Location"], "/v1/model", "/v1/labels"):
        assert locked.get(path, headers=headers).status_code == 200


def test_a_stranger_is_refused_before_the_body_is_read(locked: TestClient) -> None:
    answer = locked.post("/v1/predict", content=b"x", headers={"Content-Type": "text/plain"})

    assert answer.status_code == 401
    value = parts(locked).metrics.registry.get_sample_value
    assert value("pigeonhole_http_request_bytes_total") == 0


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/docs", "/openapi.json"])
def test_health_metrics_and_documentation_stay_open(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 200


def test_without_a_key_in_the_settings_none_is_asked_for(client: TestClient) -> None:
    assert client.get("/v1/results", headers={"X-API-Key": "whatever"}).status_code == 200


@pytest.fixture
def issue(client: TestClient) -> Callable[..., dict[str, str]]:
    """`issue("read", "write")`: the header of a key with these scopes."""

    def issue(*scopes: Scope) -> dict[str, str]:
        database = parts(client).store.database
        key = keys.add(database, f"key-{'-'.join(scopes)}", scopes, datetime.now(UTC))
        parts(client).keyring._looked_s = float("-inf")  # noqa: SLF001 - two seconds later
        return {"X-API-Key": key}

    return issue


def test_once_there_is_a_key_everybody_needs_one(
    client: TestClient, issue: Callable[..., dict[str, str]]
) -> None:
    assert client.get("/v1/results").status_code == 200
    header = issue("read")

    assert client.get("/v1/results").status_code == 401
    assert client.get("/v1/results", headers=header).status_code == 200
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("scopes", "opened"),
    [
        (("read",), {"GET"}),
        (("write",), {"POST"}),
        (("review",), {"PATCH"}),
        (("read", "review"), {"GET", "PATCH"}),
        (("admin",), {"GET", "POST", "PATCH"}),
    ],
)
def test_a_key_opens_what_its_scopes_are_for(
    client: TestClient,
    issue: Callable[..., dict[str, str]],
    scopes: tuple[Scope, ...],
    opened: set[str],
) -> None:
    header = issue(*scopes)

    seen = {}
    for method, path in (
        ("GET", "/v1/results"),
        ("POST", "/v1/predict"),
        ("PATCH", "/v1/results/x"),
    ):
        answer = client.request(method, path, headers=header)
        seen[method] = answer.json().get("code") != "scope_missing"
        assert (answer.status_code == 403) != seen[method]

    assert {method for method, is_open in seen.items() if is_open} == opened


def test_a_key_that_was_revoked_opens_nothing(
    client: TestClient, issue: Callable[..., dict[str, str]]
) -> None:
    issue("admin")
    header = issue("read")
    assert client.get("/v1/results", headers=header).status_code == 200

    keys.revoke(parts(client).store.database, "key-read")
    parts(client).keyring._looked_s = float("-inf")  # noqa: SLF001 - two seconds later

    assert client.get("/v1/results", headers=header).status_code == 401


def test_where_others_can_come_in_none_gets_in_without_a_key(
    make_settings: Callable[..., Settings],
) -> None:
    """Not even when the last key has been revoked."""
    with TestClient(create_app(make_settings(host="0.0.0.0"))) as client:
        assert client.get("/v1/results").status_code == 401
