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

SECTIONS = ["unzip", "preprocess", "train", "export"]
STAGES = ["unzip", "preprocess@small", "preprocess@imagenet", "train", "export"]

Dvc = Callable[..., list[str]]


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

    def dvc(*words: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words],
            cwd=checkout,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"^Running stage '([\w@]+)'", done.stdout, re.MULTILINE)

    return dvc


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.timeout(900)
def test_only_what_has_changed_runs_again(checkout: Path, dvc: Dvc) -> None:
    assert sorted(dvc("repro")) == sorted(STAGES)
    first = Bundle.load(checkout / "models/candidate").manifest
    assert first.lineage["git_revision"] == git(checkout, "rev-parse", "HEAD").strip()

    assert dvc("repro") == []

    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(
        text.replace("learning_rate: 0.01\n", "learning_rate: 0.02\n")
    )
    assert dvc("repro") == ["train", "export"]
    second = Bundle.load(checkout / "models/candidate").manifest
    assert second.lineage["params"]["train"]["learning_rate"] == 0.02
    assert second.version != first.version

    # What users of `make train DATA=...` get: another zip, all stages, an entry in `dvc exp show`.
    (checkout / "data/shapes.zip").rename(checkout / "mine.zip")
    assert dvc("exp", "run", "-S", "unzip.archive=mine.zip") == ["unzip", "export"]
    assert Bundle.load(checkout / "models/candidate").manifest.name == "mine"
    changed = git(checkout, "status", "--porcelain").split()
    assert not [name for name in changed if name.endswith((".npy", ".onnx", ".pt", ".png"))]


def test_the_stages_are_modules_and_sections_of_the_same_name(repository: Path) -> None:
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    sections = yaml.safe_load((repository / "params.yaml").read_text())
    assert list(stages) == STAGES == [name for name in sections if name != "gate"]
    for name, stage in stages.items():
        assert stage["cmd"].startswith(f"python -m pipeline.{name}")
        assert f"pipeline/{name}.py" in stage["deps"]
        assert all(key.split(".")[0] in SECTIONS for key in stage["params"])


def test_dvc_lock_was_made_from_the_committed_zip_and_params(repository: Path) -> None:
    lock = params_file.parsed((repository / "dvc.lock").read_text())["stages"]
    params = params_file.parsed((repository / "params.yaml").read_text())
    assert sorted(lock) == sorted(STAGES)
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
