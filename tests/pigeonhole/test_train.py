"""`pigeonhole train`: DVC, the gate and the pointer for real; one quick stage stands for all."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.bundle import STARTER, read_manifest
from core.registry import Registry

Call = Callable[..., Any]

# From a zip that holds labels, a network and test images to a candidate: no learning, all real.
MAKE = """
import json, zipfile
from pathlib import Path
from core import bundle
from core.recipe import Recipe
from pipeline import params

archive = zipfile.ZipFile(params.read().unzip.archive)
for name in archive.namelist():
    if name.startswith("test/"):
        archive.extract(name, "data/images")
bundle.write(
    Path("models/candidate"), name="made", weights=archive.read("model.onnx"),
    labels=archive.read("labels.txt").decode().split(),
    recipe=Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1)),
)
row = {"validation_accuracy": 0.5, "test_accuracy": 0.25, "parameters": 1234567,
       "seconds": 12.0, "ms_per_image": 1.5}
Path("metrics").mkdir(exist_ok=True)
Path("metrics/variants.json").write_text(json.dumps({"small": row, "large": row}))
Path("models/selected.json").write_text(json.dumps({"variant": "large", "why": "It is best."}))
"""
STAGE = """
stages:
  make:
    cmd: python make.py
    deps: ["${unzip.archive}", make.py]
    params: [unzip]
    outs: [models/candidate, data/images, metrics/variants.json, models/selected.json]
"""


@pytest.fixture
def write_zip(rgb_model: bytes, paint: Callable[..., bytes]) -> Callable[..., Path]:
    """`write_zip(path, "red", "green", "blue")`: the labels of the three channels, in order."""

    def write_zip(path: Path, *labels: str) -> Path:
        colors = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.onnx", rgb_model)
            archive.writestr("labels.txt", "\n".join(labels))
            for label, color in colors.items():
                for number in range(8):
                    data = paint(color, (20 + number, 20))
                    archive.writestr(f"test/{label}/{number}.png", data)
        return path

    return write_zip


@pytest.fixture
def checkout(repository: Path, tmp_path: Path, write_zip: Callable[..., Path]) -> Path:
    """A git repository with DVC, our params.yaml and one stage."""
    top = tmp_path / "checkout"
    (top / "data").mkdir(parents=True)
    (top / ".dvc").mkdir()
    shutil.copy(repository / ".dvc/config", top / ".dvc/config")
    shutil.copy(repository / "params.yaml", top)
    (top / "dvc.yaml").write_text(STAGE)
    (top / "make.py").write_text(MAKE)
    (top / ".gitignore").write_text("/models\n/data/images\n/metrics\n/reports\n/var\n")
    write_zip(top / "data/fashion5.zip", "red", "green", "blue")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(top), *words], check=True, capture_output=True)
    return top


@pytest.fixture
def train(
    checkout: Path, repository: Path, tmp_path: Path, ports: tuple[int, int]
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`train("--data", "my.zip")` in the checkout."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(repository),
        "PIGEONHOLE_PORT": str(ports[0]),
        "PIGEONHOLE_WATCHER_METRICS_PORT": str(ports[1]),
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(tmp_path / "system"),
    }

    def train(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pigeonhole", "train", *words],
            cwd=checkout,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )

    return train


@pytest.mark.timeout(600)
def test_from_a_zip_to_a_model_that_serves_or_is_refused(
    train: Call, checkout: Path, write_zip: Callable[..., Path]
) -> None:
    registry = Registry(checkout / "var")
    done = train()
    assert done.returncode == 0, done.stderr
    assert registry.serving().name == "made"
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["large", "0.5000", "0.2500", "1,234,567", "12", "1.50", "chosen"] in rows
    assert "It is best." in done.stderr
    assert "Passed: 100.0% of 24 test images right" in done.stderr
    assert "Promoted made" in done.stderr
    assert f"drop images into {checkout / 'var/inbox'}" in done.stderr
    (move,) = registry.history()
    assert move.before == read_manifest(STARTER).version
    assert move.why.startswith("Passed: 100.0%")
    verdict = json.loads((checkout / "reports/gate.json").read_text())
    assert verdict["versions"]["challenger"] == registry.serving().version

    again = train()
    assert again.returncode == 0
    assert "serves already: nothing has changed" in again.stderr
    assert "Running stage" not in again.stderr

    worse = write_zip(checkout.parent / "it's worse, I fear.zip", "green", "red", "blue")
    refused = train("--data", str(worse))
    assert refused.returncode == 0, refused.stderr
    assert "Refused: its accuracy" in refused.stderr
    assert "pigeonhole models promote --force" in refused.stderr
    assert len(registry.history()) == 1
    assert registry.serving().labels == ("red", "green", "blue")

    (checkout / "broken.zip").write_bytes(b"no zip")
    stopped = train("--data", "broken.zip")
    assert stopped.returncode == 1
    assert "The pipeline has stopped; the reason is above" in stopped.stderr
    assert registry.serving().labels == ("red", "green", "blue")


def test_a_zip_that_is_not_there_is_said_before_anything_runs(train: Call) -> None:
    done = train("--data", "mine.zip")
    assert done.returncode == 1
    assert "mine.zip: there is no such file" in done.stderr


@pytest.mark.usefixtures("home")
def test_outside_a_checkout_it_says_where_to_run(
    run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pigeonhole.models._ROOT", tmp_path)
    done = run("train")
    assert done.code == 1
    assert "needs a checkout of the repository" in done.err


@pytest.mark.usefixtures("home")
def test_without_the_training_packages_it_says_how_to_get_them(
    run: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pigeonhole.train.find_spec", lambda name: name != "torch" or None)
    done = run("train")
    assert done.code == 1
    assert "Training needs torch" in done.err
    assert "make install-dev" in done.err
