"""`dvc repro` runs what has changed and nothing else, in a repository of its own."""

import csv
import functools
import hashlib
import io
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
from pipeline.evaluate import evaluate
from pipeline.params import Params
from pipeline.preprocess import preprocess

from .conftest import Run

SECTIONS = ["unzip", "preprocess", "evaluate", "train", "transfer", "select", "calibrate", "export"]
AFTER = ["select", "calibrate", "export"]

Dvc = Callable[..., str]
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
    ignored = [f"{folder}.gitignore" for folder in ("", "data/", "models/", "reports/")]
    for name in ("dvc.yaml", ".dvcignore", *ignored):
        (top / name).parent.mkdir(exist_ok=True)
        shutil.copy(repository / name, top / name)
    (top / "params.yaml").write_text(yaml.safe_dump(params_file.to_dict(small)))
    zipped(top / small.unzip.archive, members)
    git(top, "init", "-q")
    git(top, "add", ".")
    git(top, "commit", "-qm", "first")
    return top


@pytest.fixture
def dvc(checkout: Path, tmp_path: Path) -> Dvc:
    """`dvc("repro")` in the checkout; what it says."""
    beside_python = str(Path(sys.executable).parent)
    environ = os.environ | {
        "PATH": os.pathsep.join([beside_python, os.environ["PATH"]]),
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(tmp_path / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(tmp_path / "system"),
    }

    def dvc(*words: str, succeeds: bool = True, top: Path = checkout) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words],
            cwd=top,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
        return done.stdout

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


def ran(said: str) -> list[str]:
    """The stages that DVC ran, in order."""
    return re.findall(r"^Running stage '([\w@]+)'", said, re.MULTILINE)


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.timeout(900)
def test_a_fault_of_the_data_stops_what_comes_after(checkout: Path, dvc: Dvc, edit: Edit) -> None:
    both = ["preprocess@imagenet", "preprocess@small"]
    edit("evaluate.min_images_per_class", 9)
    said = dvc("repro", "train@cnn1", succeeds=False)
    assert sorted(ran(said)) == ["evaluate", *both, "unzip"]
    assert json.loads((checkout / "metrics/evaluate.json").read_text())["breaches"] == 1
    assert "valid/disc" in (checkout / "reports/data.html").read_text("utf-8")
    assert not (checkout / "data/evaluated.txt").exists()
    assert not (checkout / "models/variants/cnn1").exists()
    edit("evaluate.min_images_per_class", 8)
    assert ran(dvc("repro", "evaluate")) == ["evaluate"]


# A parameter, another value for it, and the stages that read it. What is made of their outputs
# runs again when these have changed, not before.
READERS = {
    "unzip.max_ratio": (300, {"unzip"}),
    "preprocess.max_pixels": (10**6, {"preprocess@small", "preprocess@imagenet"}),
    "preprocess.recipes.small.interpolation": ("lanczos", {"preprocess@small"}),
    "evaluate.min_ssim": (0.5, {"evaluate"}),
    "train.fit.patience": (4, {"train@cnn1", "train@residual", "export"}),
    "train.variants.cnn1.learning_rate": (0.5, {"train@cnn1", "export"}),
    "transfer.seed": (9, {"transfer@efficientnet_lite0", "export"}),
    "select.tolerance": (0.9, {"select"}),
    "calibrate.bins": (9, {"calibrate", "export"}),
    "export.name": ("other", {"export"}),
    "gate.max_drop": (0.9, set()),
}
STAND_IN = """
from pathlib import Path
from dvc.repo import Repo

for stage in Repo().index.stages:
    for out in stage.outs:
        Path(out.fs_path).parent.mkdir(parents=True, exist_ok=True)
        Path(out.fs_path).write_text(stage.addressing)
"""


def test_a_parameter_that_has_changed_concerns_the_stages_that_read_it(
    checkout: Path, dvc: Dvc, edit: Edit
) -> None:
    """DVC alone is asked here; outputs are short texts that stand for real ones."""
    edit("transfer.run", ["efficientnet_lite0"])
    subprocess.run([sys.executable, "-c", STAND_IN], cwd=checkout, check=True)
    dvc("commit", "--force")
    assert json.loads(dvc("status", "--json")) == {}
    for key, (value, _) in READERS.items():
        edit(key, value)
    found: dict[str, set[str]] = {key: set() for key in READERS}
    for stage, (changes,) in json.loads(dvc("status", "--json")).items():
        for read in changes["changed deps"]["params.yaml"]:
            for key in READERS:
                if f"{key}.".startswith(f"{read}."):
                    found[key].add(stage)
    assert found == {key: readers for key, (_, readers) in READERS.items()}


@pytest.fixture
def trained(checkout: Path, run: Run, dvc: Dvc) -> Path:
    """The checkout after all stages, committed to DVC and to git."""
    for name in ("data", "models", "metrics", "reports", "mlflow"):
        shutil.copytree(run.root / name, checkout / name, dirs_exist_ok=True)
    preprocess(run.params.preprocess, "imagenet", checkout)
    evaluate(run.params, checkout)
    dvc("commit", "--force")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "trained")
    return checkout


@pytest.mark.timeout(900)
def test_only_what_has_changed_runs_again_and_dvc_tells_what_came_of_it(
    trained: Path, dvc: Dvc
) -> None:
    assert ran(dvc("repro")) == []

    # What `make train DATA=...` does: the same images in another zip, and another learning rate.
    (trained / "data/shapes.zip").rename(trained / "mine.zip")
    words = ("-S", "unzip.archive=mine.zip", "-S", "train.variants.cnn1.learning_rate=0.02")
    assert ran(dvc("exp", "run", "--name", "faster", *words)) == ["unzip", "train@cnn1", *AFTER]
    made = Bundle.load(trained / "models/candidate").manifest
    assert made.lineage["git_revision"] == git(trained, "rev-parse", "HEAD").strip() + "-dirty"
    assert made.lineage["params"]["train"]["variants"]["cnn1"]["learning_rate"] == 0.02
    lock = yaml.safe_load((trained / "dvc.lock").read_text())["stages"]
    (small,) = lock["preprocess@small"]["outs"]
    assert made.lineage["prepared_md5"] == small["md5"]
    (archive,) = (d for d in lock["unzip"]["deps"] if d["path"] == "mine.zip")
    assert made.lineage["zip_md5"] == archive["md5"]
    changed = git(trained, "status", "--porcelain").split()
    assert not [name for name in changed if name.endswith((".npy", ".onnx", ".pt"))]

    shown = dvc("exp", "show", "--csv", "--only-changed")
    _workspace, before, after = csv.DictReader(io.StringIO(shown))
    assert after["Experiment"] == "faster"
    assert after["train.variants.cnn1.learning_rate"] == "0.02"
    assert before["train.variants.cnn1.learning_rate"] == "0.01"
    compared = json.loads(dvc("metrics", "diff", "--json"))
    assert "validation_loss" in compared["metrics/train/cnn1.json"]
    dvc("plots", "diff", "HEAD", "--out", str(trained / "plots"))
    page = (trained / "plots/index.html").read_text("utf-8")
    assert "accuracy on valid" in page
    assert "reliability.png" in page


def test_another_computer_gets_everything_from_a_remote_and_has_nothing_to_run(
    trained: Path, dvc: Dvc, tmp_path: Path
) -> None:
    dvc("remote", "add", "--default", "backup", str(tmp_path / "backup"))
    git(trained, "commit", "-qam", "remote")
    dvc("push")
    git(tmp_path, "clone", "-q", str(trained), "other")
    dvc("pull", top=tmp_path / "other")
    assert json.loads(dvc("status", "--json", top=tmp_path / "other")) == {}
    made = [Bundle.load(top / "models/candidate") for top in (trained, tmp_path / "other")]
    assert made[0].ref == made[1].ref


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
