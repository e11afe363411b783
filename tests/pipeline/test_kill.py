"""Kill -9 in the middle of a stage, then run it again: the same bytes as an undisturbed run.

Of the stages unzip, preprocess, evaluate and train this is shown beside their other tests.
"""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torchvision import models

from core.bundle import Bundle
from pipeline import calibrate, export, select
from pipeline.export import CANDIDATE
from pipeline.params import Backbone, Params
from pipeline.preprocess import preprocess
from pipeline.transfer import transfer
from pipeline.variants import folder_of

from .conftest import Killed, Run, digests

pytestmark = pytest.mark.timeout(600)

# Times are in them, and MLflow names its runs by chance.
_BY_THE_CLOCK = (
    "metrics/variants.json",
    "reports/variants.md",
    "models/selected.json",
    "models/candidate/bundle.json",
)


@pytest.fixture
def trained(run: Run, tmp_path: Path) -> Path:
    """A root with trained variants, not selected from yet."""
    for name in ("data", "models/variants", "metrics/train", "metrics/history"):
        shutil.copytree(run.root / name, tmp_path / name)
    return tmp_path


def written(root: Path) -> dict[str, str]:
    """The outputs of the stages after training."""
    places = ("models/", "metrics/", "reports/")
    found = {name: value for name, value in digests(root).items() if name.startswith(places)}
    return {name: value for name, value in found.items() if name not in _BY_THE_CLOCK}


def test_select_calibrate_and_export_end_as_if_they_had_not_been_killed(
    run: Run, trained: Path, killed: Killed
) -> None:
    pictures = trained / "mlflow/artifacts"
    killed("select", trained, lambda: any(pictures.rglob("curves.png")))
    assert not (trained / select.SELECTED).exists()
    select.select(run.params, trained)
    chosen, expected = select.read(trained), select.read(run.root)
    assert (chosen.variant, chosen.why) == (expected.variant, expected.why)
    store = MlflowClient(tracking_uri=f"sqlite:///{trained / 'mlflow/mlflow.db'}")
    runs = store.search_runs([store.get_experiment_by_name("pigeonhole").experiment_id])
    ends = [(one.info.run_name, one.info.status) for one in runs]
    assert ends.count(("Model Selection", "FINISHED")) == 1
    assert ends.count(("Model Selection", "KILLED")) == 1
    assert "RUNNING" not in {status for _, status in ends}

    killed("calibrate", trained, (trained / calibrate.TEMPERATURE).exists)
    calibrate.calibrate(run.params, trained)

    killed("export", trained, (trained / CANDIDATE / "bundle.json").exists)
    export.export(run.params, trained)
    assert written(trained) == written(run.root)
    made, expected_ref = (Bundle.load(root / CANDIDATE).ref for root in (trained, run.root))
    assert made == expected_ref


def test_transfer_ends_as_if_it_had_not_been_killed(
    run: Run, small: Params, tmp_path: Path, killed: Killed
) -> None:
    torch.manual_seed(7)
    weights = tmp_path / "resnet18.pth"
    torch.save(models.resnet18(weights=None).state_dict(), weights)
    backbones = {"resnet18": Backbone("torchvision", str(weights))}
    section = dataclasses.replace(small.transfer, run=("resnet18",), backbones=backbones)
    params = dataclasses.replace(small, transfer=section)
    shutil.copytree(run.root / "data/images", tmp_path / "data/images")
    preprocess(params.preprocess, "imagenet", tmp_path)

    embedded = tmp_path / "data/embeddings"
    killed("transfer", tmp_path, lambda: any(embedded.rglob("*.onnx")), "resnet18", params=params)
    assert not folder_of(tmp_path, "resnet18").exists()
    transfer(section, "resnet18", tmp_path)
    taken_up = digests(folder_of(tmp_path, "resnet18"))
    shutil.rmtree(embedded)
    shutil.rmtree(folder_of(tmp_path, "resnet18"))
    transfer(section, "resnet18", tmp_path)
    assert digests(folder_of(tmp_path, "resnet18")) == taken_up
