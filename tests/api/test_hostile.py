"""Strangers' damaged files, through the front door."""

from collections import Counter
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from api.problems import CATALOG, MEDIA_TYPE
from core.settings import Settings
from tests.api.conftest import make_home

SAMPLE = 150


def test_no_damaged_file_brings_the_api_down(
    shared_data: Path, rgb_bundle: Path, tmp_path: Path
) -> None:
    folder = shared_data / "hostile"
    if not folder.is_dir():
        pytest.skip(f"no damaged files to try: {folder} does not exist")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    settings = Settings(
        _env_file=None,
        home=make_home(tmp_path / "home", rgb_bundle),
        workers=2,
        max_pixels=4_000_000,
        max_body_bytes=2_000_000,
    )
    seen: Counter[str] = Counter()

    with TestClient(create_app(settings)) as client:
        for path in files[:: max(len(files) // SAMPLE, 1)]:
            file = {"file": (path.name, path.read_bytes())}  # the type is guessed from the name
            answer = client.post("/v1/predict", files=file)
            if answer.status_code == 201:
                seen["classified"] += 1
                continue
            code = answer.json()["code"]
            assert 400 <= answer.status_code < 500, f"{path.name}: {answer.text}"
            assert answer.headers["Content-Type"] == MEDIA_TYPE
            assert answer.status_code == CATALOG[code].status
            seen[code] += 1
        rows = client.get("/v1/results?limit=500").json()["items"]

    assert sum(seen.values()) >= min(len(files), SAMPLE)
    assert len(rows) == seen["classified"] > 0
    assert {"unreadable_image", "unsupported_format"} <= set(seen)
