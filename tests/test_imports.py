"""What an import brings along, and who else brings our names."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

TRAINING = {"torch", "torchvision", "mlflow", "dvc", "onnx", "scipy", "matplotlib"}


def imported(module: str, cwd: Path) -> set[str]:
    """The top-level modules of a fresh interpreter that has imported `module`."""
    code = f"import json, sys, {module}; print(json.dumps([*sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "module",
    [
        "core.engine",
        "api.app",
        "api.server",
        "watcher.daemon",
        "pigeonhole.__main__",
        "pipeline.gate",  # `models promote` asks it where nothing can be trained
    ],
)
def test_serving_imports_nothing_of_training(module: str, repository: Path) -> None:
    modules = imported(module, repository)

    assert "core" in modules
    assert not modules & TRAINING


def test_the_package_core_itself_imports_nothing_heavy(repository: Path) -> None:
    assert not imported("core", repository) & {"numpy", "PIL", "onnxruntime", "pydantic"}


def test_no_other_distribution_ships_our_top_level_names(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))
    ours = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert "core" in ours
    shipped = packages_distributions()

    for name in ours:
        others = set(shipped.get(name, [])) - {project["project"]["name"]}
        assert not others, f"{others} also ship a top-level {name!r}"
