"""`pigeonhole models show`: what a model is and where it came from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.bundle import STARTER, read_manifest

Call = Callable[..., Any]


def test_the_serving_model_is_shown(run: Call, home: Path) -> None:
    manifest = read_manifest(home / "models" / "current")
    found = run("models", "show", "--json").json
    assert found == json.loads(json.dumps(manifest.to_dict()))
    assert {"name", "version", "labels", "recipe", "metrics", "lineage"} <= set(found)


def test_the_starter_is_found_by_its_version(run: Call, home: Path) -> None:
    starter = read_manifest(STARTER)
    assert run("models", "show", starter.version, "--json").json["name"] == starter.name
    assert home.exists()


def test_the_starter_serves_where_nothing_was_promoted(
    run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("models", "show", "--json").json["version"] == read_manifest(STARTER).version
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("home")
def test_people_can_read_it(run: Call) -> None:
    text = run("models", "show").text
    assert "rgb" in text
    assert "3: red, green, blue" in text
    assert "metrics.test_accuracy" in text
    assert "recipe.size_px" in text
    assert "lineage.made_by" in text


def test_an_unknown_version_names_those_that_exist(run: Call, home: Path) -> None:
    done = run("models", "show", "\x1b[31m")
    assert done.code == 1
    assert "\\x1b[31m" in done.err
    assert read_manifest(STARTER).version in done.err
    assert read_manifest(home / "models" / "current").version in done.err
