"""What surrounds every request: counting, headers, HEAD."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.api.conftest import parts


def counted(client: TestClient) -> dict[tuple[str, str, str], float]:
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "pigeonhole_http_requests_total"
    }


def test_requests_are_counted_by_template_and_never_by_what_was_asked(client: TestClient) -> None:
    for method, path in (
        ("GET", "/v1/results/one"),
        ("GET", "/v1/results/two"),
        ("GET", "/v1/labels"),
        ("HEAD", "/v1/labels"),
        ("GET", "/made/up"),
        ("GET", "/made/up/too"),
        ("GET", "/static/docs.js"),
        ("GET", "/static/favicon.svg"),
        ("GET", "/static/nothing"),
        ("GET", "/v1/predict"),
        ("FROB", "/v1/labels"),
        ("KNIT", "/made/up"),
    ):
        client.request(method, path)

    assert counted(client) == {
        ("GET", "/v1/results/{id}", "404"): 2,
        ("GET", "/v1/labels", "200"): 1,
        ("HEAD", "/v1/labels", "200"): 1,
        ("GET", "unmatched", "404"): 2,
        ("GET", "/static/{path}", "200"): 2,
        ("GET", "/static/{path}", "404"): 1,
        ("GET", "/v1/predict", "405"): 1,
        ("other", "/v1/labels", "405"): 1,
        ("other", "unmatched", "404"): 1,
    }


def test_time_and_bytes_are_counted(client: TestClient) -> None:
    sent = client.post("/v1/labels", content=b"12345")
    received = client.get("/v1/labels")

    value = parts(client).metrics.registry.get_sample_value
    assert value("pigeonhole_http_request_duration_seconds_count", {
        "method": "GET", "route": "/v1/labels"
    }) == 1  # fmt: skip
    assert value("pigeonhole_http_response_bytes_total") == len(sent.content + received.content)


@pytest.mark.parametrize("path", ["/v1/labels", "/docs", "/livez", "/nothing", "/metrics"])
def test_every_answer_carries_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/v1/results", "/v1/model", "/livez", "/docs", "/nothing"])
def test_head_is_get_without_the_body(client: TestClient, path: str) -> None:
    got, asked = client.get(path), client.head(path)

    assert asked.status_code == got.status_code
    assert asked.content == b""
    assert asked.headers["Content-Type"] == got.headers["Content-Type"]
    assert asked.headers["Content-Length"] == got.headers["Content-Length"]
