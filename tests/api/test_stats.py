"""GET /v1/stats."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.schemas import Stats
from core import bundle
from core.recipe import Recipe
from core.settings import Settings
from core.statistics import reference
from core.types import InputStatistics
from monitoring.quality import MIN_DRIFT_IMAGES
from tests.api.conftest import parts
from tests.api.test_results import fill

Upload = Callable[..., dict[str, Any]]


def stats(client: TestClient, query: str = "") -> dict[str, Any]:
    answer = client.get(f"/v1/stats?{query}")
    assert answer.status_code == 200, answer.text
    Stats.model_validate(answer.json())
    found: dict[str, Any] = answer.json()
    return found


def test_what_was_uploaded_is_counted_at_once(client: TestClient, upload: Upload) -> None:
    assert stats(client)["images"] == 0

    for color in ("red", "blue", "blue"):
        upload(color)

    found = stats(client)
    assert (found["images"], found["by_label"]) == (3, {"blue": 2, "red": 1})
    assert found["by_status"] == {"classified": 3}
    assert found["bucket"] == "minute"
    assert sum(bucket["images"] for bucket in found["buckets"]) == 3
    assert found["rate"]["last_minute"] == round(3 / 60, 4)
    assert found["latency_ms"]["p50"] > 0
    assert found["reviews"] == {"waiting": 0, "reviewed": 0, "corrected": 0}
    assert stats(client)["quality"]["audit_waiting"] == 0


def test_uploads_that_look_unlike_the_models_data_are_said_everywhere(
    make_settings: Callable[..., Settings],
    home: Path,
    rgb_model: bytes,
    paint: Callable[..., bytes],
) -> None:
    dark = [InputStatistics(number / 5000, 0.0, 0.0, 0.0) for number in range(500)]
    shutil.rmtree(home / "models/current")
    bundle.write(
        home / "models/current",
        name="rgb",
        weights=rgb_model,
        labels=["red", "green", "blue"],
        recipe=Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1)),
        lineage={"reference": reference(["red"] * 500, dark).to_dict()},
    )
    form = [("file", ("a.png", paint("red", (8, 8))))] * 25
    with TestClient(create_app(make_settings())) as client:
        for _ in range(MIN_DRIFT_IMAGES // 25):
            assert client.post("/v1/predict/batch", files=form).status_code == 207
        client.get("/v1/stats")  # the database is asked once this is answered

        quality = stats(client)["quality"]
        page = client.get("/parts/side").text
        metrics = client.get("/metrics").text

    assert quality["label_drift"] == pytest.approx(0)
    assert quality["input_drift"]["brightness"] > 0.25
    assert quality["input_drift"]["contrast"] == pytest.approx(0)
    assert "Images have moved away from its data: brightness (drift" in page
    brightness = quality["input_drift"]["brightness"]
    assert f'pigeonhole_drift_score{{kind="brightness"}} {brightness}\n' in metrics
    assert metrics.count("pigeonhole_drift_score{") == 5


def test_a_span_and_its_buckets_can_be_chosen(client: TestClient) -> None:
    fill(client)  # twelve results, an hour apart

    found = stats(client, "since=2026-11-22T03:10:00Z&until=2026-11-22T07:00:00Z&bucket=hour")

    assert (found["since"], found["until"]) == (
        "2026-11-22T03:00:00.000Z",
        "2026-11-22T07:00:00.000Z",
    )
    assert [bucket["start"][11:13] for bucket in found["buckets"]] == ["03", "04", "05", "06"]
    assert found["by_status"] == {"classified": 3, "quarantined": 1}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("bucket=week", "bucket"),
        ("since=yesterday", "since"),
        ("buckets=day", "buckets"),
    ],
)
def test_what_cannot_be_counted_is_said(client: TestClient, query: str, parameter: str) -> None:
    answer = client.get(f"/v1/stats?{query}")

    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
    assert answer.json()["errors"][0]["parameter"] == parameter


@pytest.mark.parametrize(
    "query",
    [
        "since=2026-11-22&until=2026-11-22",
        "since=2026-11-22&until=2026-11-21",
        f"since={datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}",
    ],
)
def test_a_span_of_nothing_holds_nothing(client: TestClient, upload: Upload, query: str) -> None:
    upload("red")

    found = stats(client, query)
    assert (found["images"], found["buckets"]) == (0, [])


def test_minutes_begin_where_they_are_kept(client: TestClient, upload: Upload) -> None:
    upload("red")

    found = stats(client, "bucket=minute&since=2020-01-01")
    since = datetime.fromisoformat(found["since"])
    assert timedelta(days=1.9) < datetime.now(UTC) - since < timedelta(days=2.1)
    assert found["images"] == 1


def test_every_file_in_the_inbox_is_explained(client: TestClient) -> None:
    folder = parts(client).settings.inbox
    folder.mkdir(exist_ok=True)
    (folder / "young.png").write_bytes(b"x")
    (folder / "half.part").write_bytes(b"x")
    os.mkfifo(folder / "pipe.png")

    found = stats(client)["inbox"]

    assert found["by_state"] == {"settling": 1, "ignored": 1, "special": 1}
    assert found["waiting"] == 1
    (young,) = (each for each in found["files"] if each["path"] == "young.png")
    assert young["since"] == found["oldest_at"]
    assert young["since"] < young["until"]
    assert {each["path"] for each in found["files"]} == {"young.png", "half.part", "pipe.png"}


def test_an_inbox_that_cannot_be_listed_is_null(client: TestClient) -> None:
    shutil.rmtree(parts(client).settings.inbox, ignore_errors=True)

    assert stats(client)["inbox"] is None
