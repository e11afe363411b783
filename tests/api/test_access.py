"""The API key."""

from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from core.settings import Settings
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
