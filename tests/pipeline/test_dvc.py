"""`dvc repro` runs what has changed and nothing else, in a repository of its own."""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from core.bundle import Bundle
from pipeline import params as params_file
from pipeline.params import Params

SECTIONS = ["unzip", "preprocess", "evaluate", "train", "transfer", "select", "calibrate", "export"]
TRAINED = ["train@cnn1", "train@residual"]
AFTER = ["select", "calibrate", "export"]
STAGES = ["unzip", "preprocess@small", "preprocess@imagenet", "evaluate", *TRAINED, *AFTER]

Dvc = Callable[..., list[str]]
Edit = Callable[[str, object], None]


@pytest.fixture
def checkout(
    repository: Path,
    small: Params,
    tmp_path: Path,
    members: dict[str, bytes],
    zipped: Callable[..., Path],
) -> Path:
    """A git repository with our code and dvc.yaml, small params, and a painted zip."""
    top = tmp_path / "checkout"
    for name in ("core", "pipeline", ".dvc"):
        junk = shutil.ignore_patterns("__pycache__", "cache", "tmp")
        shutil.copytree(repository / name, top / name, ignore=junk)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(repository / name, top / name)
    (top / "params.yaml").write_text(yaml.safe_dump(params_file.to_dict(small)))
    zipped(top / small.unzip.archive, members)
    git(top, "init", "-q")
    git(top, "add", ".")
    git(top, "commit", "-qm", "first")
    return top


@pytest.fixture
def dvc(checkout: Path, tmp_path: Path) -> Dvc:
    """`dvc("repro")` in the checkout; the stages that ran, in order."""
    beside_python = str(Path(sys.executable).parent)
    environ = os.environ | {
        "PATH": os.pathsep.join([beside_python, os.environ["PATH"]]),
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(tmp_path / "system"),
    }

    def dvc(*words: str, succeeds: bool = True) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words],
            cwd=checkout,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
        return re.findall(r"^Running stage '([\w@]+)'", done.stdout, re.MULTILINE)

    return dvc


@pytest.fixture
def edit(checkout: Path) -> Edit:
    """`edit("evaluate.min_ssim", 0.5)` changes params.yaml in the checkout."""

    def edit(key: str, value: object) -> None:
        params = yaml.safe_load((checkout / "params.yaml").read_text())
        *sections, last = key.split(".")
        functools.reduce(dict.__getitem__, sections, params)[last] = value
        (checkout / "params.yaml").write_text(yaml.safe_dump(params))

    return edit


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.timeout(900)
def test_stages_of_the_data_run_when_what_they_read_changes_and_a_fault_stops_the_rest(
    checkout: Path, dvc: Dvc, edit: Edit
) -> None:
    both = ["preprocess@imagenet", "preprocess@small"]
    assert sorted(dvc("repro", "evaluate")) == ["evaluate", *both, "unzip"]
    assert dvc("repro", "evaluate") == []
    edit("unzip.max_ratio", 300)
    assert dvc("repro", "evaluate") == ["unzip"]
    edit("preprocess.max_pixels", 1_000_000)
    assert sorted(dvc("repro", "evaluate")) == both
    edit("preprocess.recipes.small.interpolation", "lanczos")
    assert dvc("repro", "evaluate") == ["preprocess@small", "evaluate"]

    edit("evaluate.min_images_per_class", 9)
    assert dvc("repro", "train@cnn1", succeeds=False) == ["evaluate"]
    assert json.loads((checkout / "metrics/evaluate.json").read_text())["breaches"] == 1
    assert "valid/disc" in (checkout / "reports/data.html").read_text("utf-8")
    assert not (checkout / "data/evaluated.txt").exists()
    assert not (checkout / "models/variants/cnn1").exists()
    edit("evaluate.min_images_per_class", 8)
    assert dvc("repro", "evaluate") == ["evaluate"]


@pytest.mark.timeout(900)
def test_only_what_has_changed_runs_again(checkout: Path, dvc: Dvc, edit: Edit) -> None:
    assert sorted(dvc("repro")) == sorted(STAGES)
    first = Bundle.load(checkout / "models/candidate").manifest
    assert first.lineage["git_revision"] == git(checkout, "rev-parse", "HEAD").strip()

    assert dvc("repro") == []

    lock = yaml.safe_load((checkout / "dvc.lock").read_text())["stages"]
    (small,) = lock["preprocess@small"]["outs"]
    assert first.lineage["prepared_md5"] == small["md5"]
    (archive,) = (d for d in lock["unzip"]["deps"] if d["path"] == "data/shapes.zip")
    assert first.lineage["zip_md5"] == archive["md5"]

    edit("train.variants.cnn1.learning_rate", 0.02)
    assert dvc("repro") == ["train@cnn1", *AFTER]
    second = Bundle.load(checkout / "models/candidate").manifest
    assert second.lineage["params"]["train"]["variants"]["cnn1"]["learning_rate"] == 0.02
    edit("calibrate.bins", 10)
    assert dvc("repro") == ["calibrate", "export"]
    edit("select.tolerance", 1.0)
    assert dvc("repro")[0] == "select"
    edit("export.name", "other")
    assert dvc("repro") == ["export"]

    # What users of `make train DATA=...` get: another zip, all stages, an entry in `dvc exp show`.
    (checkout / "data/shapes.zip").rename(checkout / "mine.zip")
    assert dvc("exp", "run", "-S", "unzip.archive=mine.zip") == ["unzip", "export"]
    assert Bundle.load(checkout / "models/candidate").manifest.lineage["zip_sha256"]
    changed = git(checkout, "status", "--porcelain").split()
    assert not [name for name in changed if name.endswith((".npy", ".onnx", ".pt", ".png"))]


def test_the_stages_are_modules_and_sections_of_the_same_name(repository: Path) -> None:
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    sections = yaml.safe_load((repository / "params.yaml").read_text())
    assert list(stages) == SECTIONS == [name for name in sections if name != "gate"]
    for name, stage in stages.items():
        assert stage["cmd"].startswith(f"python -m pipeline.{name}")
        assert f"pipeline/{name}.py" in stage["deps"]
        assert all(key.split(".")[0] in SECTIONS for key in stage["params"])


def test_dvc_lock_was_made_from_the_committed_zip_and_params(repository: Path) -> None:
    lock = params_file.parsed((repository / "dvc.lock").read_text())["stages"]
    params = params_file.parsed((repository / "params.yaml").read_text())
    trained = [f"train@{name}" for name in params["train"]["run"]]
    trained += [f"transfer@{name}" for name in params["transfer"]["run"]]
    prepared = [f"preprocess@{name}" for name in params["preprocess"]["recipes"]]
    assert set(lock) == {"unzip", *prepared, "evaluate", *trained, *AFTER}
    for stage in lock.values():
        for key, value in stage["params"]["params.yaml"].items():
            assert value == functools.reduce(dict.__getitem__, key.split("."), params)
    (archive,) = (d for d in lock["unzip"]["deps"] if d["path"] == "data/fashion5.zip")
    data = (repository / "data/fashion5.zip").read_bytes()
    assert archive["md5"] == hashlib.md5(data).hexdigest()


def test_the_committed_metrics_are_those_of_the_starter(repository: Path) -> None:
    metrics = json.loads((repository / "metrics/export.json").read_text())
    starter = Bundle.load(repository / "models/starter").manifest
    assert starter.metrics == {key: metrics[key] for key in starter.metrics}
