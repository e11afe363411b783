"""Selection looks at valid alone, and MLflow gets every run once."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from core.recipe import Recipe
from pipeline import select, tracking
from pipeline.select import choose, reason
from pipeline.variants import Variant, folder_of

from .conftest import SMALL, Run

RECIPE = Recipe(size_px=16, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))


def variant(name: str, accuracy: float, multiply_adds: int) -> Variant:
    return Variant(
        name=name,
        prepared="small",
        recipe=RECIPE,
        parameters=1,
        multiply_adds=multiply_adds,
        epochs=1,
        best_epoch=1,
        train_accuracy=1.0,
        validation_accuracy=accuracy,
        validation_loss=0.1,
        shown={},
    )


def client(root: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow/mlflow.db'}")


@pytest.fixture
def trained(run: Run, tmp_path: Path) -> Path:
    """A root with trained variants, not selected from yet."""
    for name in ("data", "models/variants", "metrics"):
        shutil.copytree(run.root / name, tmp_path / name)
    return tmp_path


def test_the_best_on_valid_is_chosen_unless_a_cheaper_one_is_nearly_as_good() -> None:
    large, small, worse = variant("l", 0.95, 100), variant("s", 0.947, 10), variant("w", 0.9, 1)
    assert choose([large, small, worse], tolerance=0.0) == large
    assert choose([large, small, worse], tolerance=0.005) == small
    assert choose([worse, large], tolerance=0.005) == large


def test_the_reason_is_a_sentence_with_its_numbers() -> None:
    large, small = variant("l", 0.95, 100), variant("s", 0.947, 10)
    assert reason(large, [large, small], 0.0) == (
        "l is chosen: validation accuracy 0.9500, the best of 2 variants."
    )
    assert reason(small, [large, small], 0.005) == (
        "s is chosen: validation accuracy 0.9470, within 0.005 of l (0.9500), "
        "and 10.0 times fewer multiplications."
    )


@pytest.mark.timeout(600)
def test_selection_does_not_need_the_test_images(run: Run, trained: Path) -> None:
    for path in (trained / SMALL).glob("test*"):
        path.unlink()
    select.select(run.params, trained)
    chosen, expected = select.read(trained), select.read(run.root)
    assert (chosen.variant, chosen.why) == (expected.variant, expected.why)


def test_mlflow_has_a_parent_run_with_a_nested_run_per_variant(run: Run) -> None:
    store = client(run.root)
    runs = store.search_runs([store.get_experiment_by_name("pigeonhole").experiment_id])
    by_name = {one.info.run_name: one for one in runs}
    assert set(by_name) == {"Model Selection", *run.params.train.run}
    parent = by_name["Model Selection"]
    assert parent.data.params["chosen"] == select.read(run.root).variant
    for name in run.params.train.run:
        nested = by_name[name]
        assert nested.info.status == "FINISHED"
        assert nested.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert nested.data.tags["git_revision"] == "none"
        assert nested.data.tags["prepared_md5"].endswith(".dir")
        history = store.get_metric_history(nested.info.run_id, "validation_accuracy")
        assert len(history) == Variant.read(folder_of(run.root, name)).epochs
        pictures = {file.path for file in store.list_artifacts(nested.info.run_id)}
        assert pictures >= {"curves.png", "confusion.png"}
    params = by_name["cnn1"].data.params
    assert {key: params[key] for key in ("conv1", "conv2", "epochs", "learning_rate")} == {
        "conv1": "3-4 k3 p0",
        "conv2": "4-8 k3 p0",
        "epochs": "3",
        "learning_rate": "0.01",
    }
    assert params["normalize"] == "False"


def test_the_same_selection_is_the_same_run(run: Run) -> None:
    before = len(tracking.run_ids(run.root))
    first = json.loads((run.root / select.SELECTED).read_text())
    select.select(run.params, run.root)
    assert json.loads((run.root / select.SELECTED).read_text()) == first
    assert len(tracking.run_ids(run.root)) == before


def test_the_bundle_is_challenger_and_after_its_promotion_champion(run: Run) -> None:
    manifest = json.loads((run.root / "models/candidate/bundle.json").read_text())
    store = client(run.root)
    challenger = store.get_model_version_by_alias("shapes", "challenger")
    assert challenger.tags["pigeonhole.bundle"] == manifest["version"]
    assert challenger.run_id == select.read(run.root).mlflow_run_id
    assert tracking.promoted("shapes", manifest["version"], run.root)
    champion = store.get_model_version_by_alias("shapes", "champion")
    assert champion.version == challenger.version


def test_promotion_of_a_bundle_that_mlflow_never_saw_is_said(run: Run, tmp_path: Path) -> None:
    assert not tracking.promoted("shapes", "0" * 12, run.root)
    assert not tracking.promoted("shapes", "0" * 12, tmp_path)
    assert not (tmp_path / "mlflow").exists()


def test_nothing_is_chosen_by_the_time_it_took(run: Run) -> None:
    one = Variant.read(folder_of(run.root, "cnn1"))
    assert "seconds" not in dataclasses.asdict(one)
