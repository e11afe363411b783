"""When the application opens what it needs, and when it closes it."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.app import create_app
from core.errors import BundleError
from core.settings import Settings
from tests.api.conftest import parts


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("engine-")]


def test_nothing_opens_before_the_application_runs(tmp_path: Path) -> None:
    create_app(Settings(_env_file=None, home=tmp_path / "home"))

    assert list(tmp_path.iterdir()) == []
    assert engine_threads() == []


def test_what_was_opened_is_closed_and_may_be_opened_again(
    make_settings: Callable[..., Settings], paint: Callable[..., bytes]
) -> None:
    app = create_app(make_settings())

    for turn in (1, 2):
        with TestClient(app) as client:
            file = {"file": (f"{turn}.png", paint("red"))}
            assert client.post("/v1/predict", files=file).status_code == 201
            assert len(engine_threads()) == 2
            assert parts(client).store.count() == turn
        assert engine_threads() == []


def test_a_model_that_cannot_be_loaded_leaves_nothing_open(
    make_settings: Callable[..., Settings], home: Path
) -> None:
    (home / "models" / "current" / "labels.txt").unlink()

    with (
        pytest.raises(BundleError, match=r"labels\.txt is missing"),
        TestClient(create_app(make_settings())),
    ):
        pass

    assert engine_threads() == []
