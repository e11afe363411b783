"""An engine follows the pointer to another model, and keeps what it has when that does not load."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core import follow
from core.bundle import Bundle, Manifest
from core.engine import Engine
from core.follow import Follower
from core.registry import Registry


@dataclass
class Heard:
    loaded: list[str] = field(default_factory=list)
    refused: int = 0

    def model_loaded(self, manifest: Manifest) -> None:
        self.loaded.append(manifest.name)

    def model_refused(self) -> None:
        self.refused += 1


@pytest.fixture
def registry(tmp_path: Path, rgb_bundle: Path) -> Registry:
    registry = Registry(tmp_path / "home")
    registry.promote(registry.install(rgb_bundle).version, "first")
    return registry


@pytest.fixture
def engine(rgb_bundle: Path) -> Iterator[Engine]:
    with Engine(Bundle.load(rgb_bundle), 1, 1_000_000) as engine:
        yield engine


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def follower(registry: Registry, engine: Engine, heard: Heard) -> Follower:
    return Follower(registry.home, engine, "cpu", heard)


def test_the_model_that_was_opened_is_not_loaded_again(follower: Follower, heard: Heard) -> None:
    follower.look()
    follower.look()
    assert (heard.loaded, heard.refused, follower.complaint()) == ([], 0, None)


def test_it_follows_a_promotion_and_a_rollback(
    follower: Follower, registry: Registry, engine: Engine, heard: Heard, french_bundle: Path
) -> None:
    registry.promote(registry.install(french_bundle).version, "better")
    follower.look()
    assert engine.bundle.ref.name == "french"
    registry.rollback("worse")
    follower.look()
    assert engine.bundle.ref.name == "rgb"
    assert heard.loaded == ["french", "rgb"]


def test_what_does_not_load_is_refused_once_and_said_until_the_pointer_moves(
    follower: Follower, registry: Registry, engine: Engine, heard: Heard, broken_bundle: Path
) -> None:
    shutil.rmtree(registry.home / "models")
    shutil.copytree(broken_bundle, registry.home / "models" / "current")
    with capture_logs() as logs:
        follower.look()
        follower.look()
    assert engine.bundle.ref.name == "rgb"
    assert heard.refused == 1
    complaint = follower.complaint()
    assert complaint is not None
    assert "rgb" in complaint
    assert "4 labels, but the model answers" in complaint
    assert "pigeonhole models rollback" in complaint
    assert [entry["log_level"] for entry in logs] == ["error"]

    shutil.rmtree(registry.home / "models")  # the starter serves where there is no pointer
    follower.look()
    assert follower.complaint() is None
    assert engine.bundle.ref.name == "fashion5"


def test_a_folder_that_is_copied_in_place_file_by_file_is_taken_when_it_is_whole(
    follower: Follower, registry: Registry, engine: Engine, french_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(follow, "RETRY_S", 0.0)
    current = registry.home / "models" / "current"
    current.unlink()
    current.mkdir()
    for name in ("bundle.json", "labels.txt", "model.onnx"):
        follower.look()
        assert engine.bundle.ref.name == "rgb"
        shutil.copy(french_bundle / name, current)
    follower.look()
    assert engine.bundle.ref.name == "french"
    assert follower.complaint() is None
