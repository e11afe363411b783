"""A linear head on a frozen backbone: repeatable, from embeddings that are computed once."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from core.bundle import Bundle
from core.engine import Engine
from pipeline import backbone, embeddings, fit, imagenet, variants
from pipeline.backbone import load
from pipeline.dataset import read_split
from pipeline.params import Backbone, Fit, Params
from pipeline.preprocess import preprocess
from pipeline.stage import StageError
from pipeline.train import rules
from pipeline.transfer import new_model, transfer
from pipeline.variants import Variant, folder_of, valid_logits

from .conftest import Run

pytestmark = pytest.mark.timeout(600)

IMAGENET = Path("data/preprocessed/imagenet")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of torchvision, as somebody would have saved it."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(models.resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def section(small: Params, weights: Path) -> Params:
    backbones = {"resnet18": Backbone("torchvision", str(weights))}
    section = dataclasses.replace(small.transfer, run=("resnet18",), backbones=backbones)
    return dataclasses.replace(small, transfer=section)


@pytest.fixture(scope="module")
def trained(run: Run, section: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which the head has been trained."""
    root = tmp_path_factory.mktemp("transfer")
    shutil.copytree(run.root / "data/images", root / "data/images")
    preprocess(section.preprocess, "imagenet", root)
    transfer(section.transfer, "resnet18", root)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder_of(root, "resnet18").iterdir()}


def test_the_head_learns_and_the_variant_knows_the_normalisation(trained: Path) -> None:
    variant = Variant.read(folder_of(trained, "resnet18"))
    assert variant.recipe.mean == (0.485, 0.456, 0.406)
    assert variant.recipe.crop == "center"
    assert variant.train_accuracy > 0.9
    valid = read_split(trained / IMAGENET, "valid")
    answers = valid_logits(folder_of(trained, "resnet18")).argmax(1)
    assert (answers == valid.indices).mean() == variant.validation_accuracy


def test_an_image_is_embedded_once_and_a_second_run_gives_the_same_bytes(
    section: Params, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(trained)
    monkeypatch.setattr("pipeline.embeddings._features", lambda *_: pytest.fail("again"))
    transfer(section.transfer, "resnet18", trained)
    assert contents(trained) == before


def test_only_new_images_are_embedded(section: Params, trained: Path, tmp_path: Path) -> None:
    pretrained = load("resnet18", section.transfer.backbones["resnet18"])
    recipe = Variant.read(folder_of(trained, "resnet18")).recipe
    (stored,) = (trained / embeddings.EMBEDDINGS).iterdir()
    shutil.copytree(stored, tmp_path / embeddings.EMBEDDINGS / stored.name)
    valid, test = (read_split(trained / IMAGENET, split) for split in ("valid", "test"))
    looked_at: list[int] = []
    real = embeddings._features  # noqa: SLF001 - counted, then called

    def counted(weights: bytes, images: list[np.ndarray], threads: int) -> list[np.ndarray]:
        looked_at.append(len(images))
        return real(weights, images, threads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "_features", counted)
        first, _ = embeddings.embed(pretrained, recipe, [valid, test], 1, tmp_path)
        again, _ = embeddings.embed(pretrained, recipe, [valid, test], 2, tmp_path)
    assert looked_at == [len(test)]
    assert np.array_equal(first, again)


def test_the_whole_network_is_tuned_where_params_ask_for_it(
    section: Params, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "data", tmp_path / "data")
    few = rules(section.train, "cnn1")
    tune: Fit = dataclasses.replace(few, epochs=1, learning_rate=0.0001)
    transfer(dataclasses.replace(section.transfer, finetune=tune), "resnet18", tmp_path)
    frozen = torch.load(folder_of(trained, "resnet18") / "checkpoint.pt", weights_only=True)
    tuned = torch.load(folder_of(tmp_path, "resnet18") / "checkpoint.pt", weights_only=True)
    same = torch.equal(frozen["features.conv1.weight"], tuned["features.conv1.weight"])
    assert same is (Variant.read(folder_of(tmp_path, "resnet18")).best_epoch == 0)
    rows = variants.history(tmp_path, "resnet18")
    assert [row["epoch"] for row in rows] == [0, 1]


def test_the_frozen_network_is_kept_where_tuning_makes_it_worse(
    section: Params, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "data", tmp_path / "data")
    wild = dataclasses.replace(rules(section.train, "cnn1"), epochs=1, learning_rate=10.0)
    transfer(dataclasses.replace(section.transfer, finetune=wild), "resnet18", tmp_path)
    before, after = (Variant.read(folder_of(root, "resnet18")) for root in (trained, tmp_path))
    assert (after.best_epoch, after.epochs) == (0, 1)
    assert after.validation_accuracy == before.validation_accuracy
    assert contents(tmp_path)["checkpoint.pt"] == contents(trained)["checkpoint.pt"]


def test_efficientnet_lite0_is_the_network_that_its_weights_belong_to(small: Params) -> None:
    pretrained = load("efficientnet_lite0", small.transfer.backbones["efficientnet_lite0"])
    model = new_model(
        dataclasses.replace(small.transfer, run=("efficientnet_lite0",)),
        "efficientnet_lite0",
        imagenet.RECIPE,
        classes=5,
    )
    assert model.head.out_features == 5
    assert sum(p.numel() for p in pretrained.features.parameters()) == 3_371_008
    images = np.zeros((1, 224, 224, 3), dtype=np.uint8)
    whole = backbone.classifier(pretrained, imagenet.RECIPE, pretrained.head)
    assert fit.logits_of(whole, images).shape == (1, 1000)


def test_weights_that_are_not_those_we_know_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({}, path)
    with pytest.raises(StageError, match="not the file that we know"):
        load("efficientnet_lite0", Backbone("efficientnet_lite0", str(path)))


def test_weights_that_carry_code_are_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"conv1.weight": Path("/")}, path)
    with pytest.raises(StageError, match="cannot be read"):
        load("resnet18", Backbone("torchvision", str(path)))


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    with pytest.raises(StageError, match="holds no weights of torchvision's resnet50"):
        load("resnet50", Backbone("torchvision", str(weights)))


def test_a_network_that_torchvision_does_not_have_is_refused() -> None:
    with pytest.raises(StageError, match="no classification model resnet19"):
        load("resnet19", Backbone("torchvision", None))


def test_weights_that_cannot_be_fetched_say_where_to_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers there
    with pytest.raises(StageError, match=r"name the file in transfer\.backbones"):
        load("resnet18", Backbone("torchvision", None))


def test_a_backbone_that_is_not_defined_is_refused(small: Params) -> None:
    with pytest.raises(StageError, match=r"names nothing, but transfer\.backbones"):
        new_model(small.transfer, "nothing", imagenet.RECIPE, classes=2)


def test_imagenet_becomes_a_bundle_with_no_training(tmp_path: Path, shared_data: Path) -> None:
    manifest = imagenet.write_bundle(tmp_path / "imagenet")
    assert len(manifest.labels) == 1000
    assert json.loads((tmp_path / "imagenet/bundle.json").read_text())["name"] == "imagenet"
    bundle = Bundle.load(tmp_path / "imagenet")
    assert bundle.recipe.short_side_px == 256
    assert bundle.labels[217] == "English springer"
    with zipfile.ZipFile(shared_data / "dev5.zip") as archive:
        fish = [name for name in archive.namelist() if name.startswith("test/tench/")][1:9]
        with Engine(bundle, 1, 10**8) as engine:
            outcomes = engine.classify([archive.read(name) for name in fish])
    assert [getattr(one, "label", None) for one in outcomes].count("tench") >= 7
