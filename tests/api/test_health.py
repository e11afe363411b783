"""GET /livez, /readyz and /metrics: for those who keep this running."""

import shutil
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from api.app import create_app
from api.schemas import Health
from core.settings import Settings
from tests.api.conftest import parts


def test_a_fresh_application_is_alive_and_ready(client: TestClient) -> None:
    alive, ready = client.get("/livez"), client.get("/readyz")

    assert (alive.status_code, ready.status_code) == (200, 200)
    assert Health.model_validate(alive.json()).status == "ok"
    assert ready.json() == {
        "status": "ok",
        "checks": {"database": "ok", "model": "ok", "disk": "ok"},
    }


def complaints(client: TestClient) -> set[str]:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    report = Health.model_validate(answer.json())
    assert report.status == "unavailable"
    assert client.get("/livez").status_code == 200
    return {name for name, text in report.checks.items() if text != "ok"}


def test_without_its_database_it_is_not_ready(client: TestClient, home: Path) -> None:
    parts(client).store.close()  # connections come back by themselves, if there is a database
    for file in home.glob("pigeonhole.db*"):
        file.unlink()
    (home / "pigeonhole.db").write_bytes(b"this was a database" * 1000)

    assert complaints(client) == {"database"}


def test_without_a_place_to_write_it_is_not_ready(
    make_settings: Callable[..., Settings], home: Path, tmp_path: Path
) -> None:
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"

    with TestClient(create_app(make_settings(database_url=elsewhere))) as client:
        shutil.rmtree(home)
        assert complaints(client) == {"disk"}


def test_with_its_engine_closed_it_is_not_ready(client: TestClient) -> None:
    parts(client).engine.close()

    assert complaints(client) == {"model"}


def test_metrics_are_what_prometheus_reads(client: TestClient) -> None:
    client.get("/v1/labels")

    answer = client.get("/metrics")

    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"pigeonhole_http_requests", "pigeonhole_images", "pigeonhole_model_info"} <= names
    assert {"process_cpu_seconds", "pigeonhole_network_receive_bytes"} <= names
