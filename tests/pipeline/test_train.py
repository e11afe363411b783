"""Training is repeatable, learns, goes on after a kill, and chooses on the validation images."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from core.recipe import Recipe
from pipeline import fit, networks, variants
from pipeline import params as params_file
from pipeline.augment import augment
from pipeline.dataset import read_split
from pipeline.export import load
from pipeline.fit import logits_of
from pipeline.params import Augment, Params, TrainVariant
from pipeline.stage import StageError
from pipeline.train import new_model, rules, train
from pipeline.variants import UNFINISHED, Variant, folder_of

from .conftest import SMALL, Run

RECIPE = Recipe(size_px=16, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))


@pytest.fixture
def prepared(run: Run, tmp_path: Path) -> Path:
    """A root with preprocessed images of its own, not trained on yet."""
    shutil.copytree(run.root / SMALL, tmp_path / SMALL)
    return tmp_path


@pytest.fixture
def no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the slow part of a training that is not looked at here."""
    monkeypatch.setattr("pipeline.onnx_file.to_onnx", lambda *_: b"")


def changed(params: Params, **changes: object) -> Params:
    """With other values for the variant cnn1."""
    cnn = dataclasses.replace(params.train.variants["cnn1"], **changes)
    section = dataclasses.replace(params.train, variants={"cnn1": cnn})
    return dataclasses.replace(params, train=section)


def contents(root: Path, *left_out: str) -> dict[str, bytes]:
    files = folder_of(root, "cnn1").iterdir()
    return {path.name: path.read_bytes() for path in files if path.name not in left_out}


def test_the_same_seed_gives_the_same_weights(run: Run, prepared: Path) -> None:
    train(run.params.train, "cnn1", prepared)
    assert contents(prepared) == contents(run.root)
    assert variants.history(prepared, "cnn1") == variants.history(run.root, "cnn1")


@pytest.mark.usefixtures("no_onnx")
def test_another_seed_gives_other_weights(run: Run, prepared: Path) -> None:
    train(dataclasses.replace(run.params.train, seed=8), "cnn1", prepared)
    assert contents(prepared)["checkpoint.pt"] != contents(run.root)["checkpoint.pt"]


@pytest.mark.timeout(600)
def test_a_training_that_is_killed_goes_on_to_the_same_weights(run: Run, prepared: Path) -> None:
    long = changed(run.params, epochs=40)
    (prepared / "params.yaml").write_text(yaml.safe_dump(params_file.to_dict(long)))
    command = [sys.executable, "-m", "pipeline.train", "cnn1"]
    noted = prepared / UNFINISHED / "cnn1.pt"
    process = subprocess.Popen(command, cwd=prepared, stderr=subprocess.PIPE, text=True)
    while not noted.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert noted.is_file(), "it ended before it could be killed"

    again = subprocess.run(command, cwd=prepared, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "going on after epoch" in again.stderr
    assert not noted.exists()
    killed = contents(prepared)
    train(long.train, "cnn1", prepared)
    assert contents(prepared) == killed


@pytest.mark.usefixtures("no_onnx")
def test_what_was_noted_of_another_training_is_not_gone_on_with(run: Run, prepared: Path) -> None:
    train(run.params.train, "cnn1", prepared)
    expected = contents(prepared)
    data = fit.Data(*(read_split(prepared / SMALL, split) for split in ("train", "valid")))
    model = new_model(run.params.train, "cnn1", RECIPE, classes=2)
    fit.fit(
        model,
        data,
        rules(run.params.train, "cnn1"),
        seed=1,
        name="other",
        unfinished=prepared / UNFINISHED / "cnn1.pt",
        key="another training",
    )
    train(run.params.train, "cnn1", prepared)
    assert contents(prepared) == expected


def test_the_checkpoint_is_that_of_the_epoch_which_is_best_on_valid(run: Run) -> None:
    for name in run.params.train.run:
        variant = Variant.read(folder_of(run.root, name))
        accuracies = [row["validation_accuracy"] for row in variants.history(run.root, name)]
        assert variant.epochs == len(accuracies)
        assert variant.validation_accuracy == max(accuracies)
        assert accuracies[variant.best_epoch - 1] == max(accuracies)
        metrics = json.loads((run.root / f"metrics/train/{name}.json").read_text())
        assert metrics["validation_accuracy"] == max(accuracies)

        valid = read_split(run.root / SMALL, "valid")
        logits = logits_of(load(run.params, variant, run.root), valid.images).numpy()
        assert (logits.argmax(1) == valid.indices).mean() == variant.validation_accuracy
        assert np.array_equal(logits, variants.valid_logits(folder_of(run.root, name)))


@pytest.mark.usefixtures("no_onnx")
def test_training_ends_when_valid_gets_no_better(run: Run, prepared: Path) -> None:
    long = changed(run.params, epochs=200).train
    impatient = dataclasses.replace(long, fit=dataclasses.replace(long.fit, patience=2))
    train(impatient, "cnn1", prepared)
    variant = Variant.read(folder_of(prepared, "cnn1"))
    assert variant.epochs == variant.best_epoch + 2 < 200


@pytest.mark.usefixtures("no_onnx")
def test_training_does_not_need_the_test_images(run: Run, prepared: Path) -> None:
    for path in (prepared / SMALL).glob("test*"):
        path.unlink()
    train(changed(run.params, epochs=1).train, "cnn1", prepared)


def test_the_five_variants_of_convolutions_are_what_their_names_say(repository: Path) -> None:
    params = params_file.read(repository / "params.yaml").train
    shapes = {}
    for name in ("cnn1", "cnn2", "cnn3", "cnn4", "cnn5"):
        first, second = (
            layer
            for layer in networks.new(params.variants[name], RECIPE, 5).modules()
            if isinstance(layer, torch.nn.Conv2d)
        )
        assert first.in_channels == 3
        kernel, padding = first.kernel_size[0], first.padding[0]
        assert (second.kernel_size[0], second.padding[0]) == (kernel, padding)
        batch_norm = params.variants[name].batch_norm  # type: ignore[union-attr]
        shapes[name] = (first.out_channels, second.out_channels, kernel, padding, batch_norm)
    assert shapes == {
        "cnn1": (16, 32, 3, 0, False),
        "cnn2": (32, 64, 3, 1, False),
        "cnn3": (32, 64, 5, 2, True),
        "cnn4": (32, 64, 3, 0, True),
        "cnn5": (16, 32, 5, 0, False),
    }


@pytest.mark.parametrize("size_px", [16, 28, 61, 96])
def test_every_network_gives_a_logit_per_class(repository: Path, size_px: int) -> None:
    recipe = dataclasses.replace(RECIPE, size_px=size_px)
    images = np.zeros((3, size_px, size_px, 3), dtype=np.uint8)
    for name, params in params_file.read(repository / "params.yaml").train.variants.items():
        assert logits_of(networks.new(params, recipe, 5), images).shape == (3, 5), name


def test_a_variant_that_is_not_defined_is_refused(small: Params) -> None:
    with pytest.raises(StageError, match=r"names cnn9, but train\.variants"):
        new_model(small.train, "cnn9", RECIPE, classes=2)


def test_images_too_small_for_the_network_are_refused(small: Params) -> None:
    tiny = Recipe(size_px=6, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(StageError, match="raise max_size_px"):
        new_model(small.train, "cnn1", tiny, classes=2)


def test_normalisation_is_the_first_thing_that_the_network_does(small: Params) -> None:
    model = new_model(small.train, "cnn1", RECIPE, classes=2).eval()
    plain = Recipe(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    other = new_model(small.train, "cnn1", plain, classes=2).eval()
    images = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    normalised = (images / 255 - torch.tensor(RECIPE.mean)) / torch.tensor(RECIPE.std)
    with torch.inference_mode():
        assert torch.allclose(model(images), other(normalised * 255), atol=1e-5)


def test_multiplications_are_counted_as_by_hand(repository: Path) -> None:
    params: TrainVariant = params_file.read(repository / "params.yaml").train.variants["cnn1"]
    recipe = dataclasses.replace(RECIPE, size_px=28)
    first, second = 26 * 26 * 16 * 27, 11 * 11 * 32 * 9 * 16
    dense = 5 * 5 * 32 * 128 + 128 * 5
    assert networks.multiply_adds(networks.new(params, recipe, 5), 28) == first + second + dense


def test_without_augmentation_images_stay_as_they_are() -> None:
    images = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
    same = augment(images, Augment(crop=1.0, flip=False, light=0.0), 8, torch.Generator())
    assert torch.allclose(same, images.to(torch.float32), atol=1e-3)


def test_half_of_the_images_are_mirrored() -> None:
    image = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    chance = torch.Generator().manual_seed(1)
    many = augment(image.expand(200, 8, 8, 3), Augment(1.0, flip=True, light=0.0), 8, chance)
    mirrored = [torch.allclose(one, image.flip(1).float(), atol=1e-3) for one in many]
    plain = [torch.allclose(one, image.float(), atol=1e-3) for one in many]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 70 < sum(mirrored) < 130


def test_a_cut_keeps_at_least_its_share_of_the_image() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 64, 1).expand(64, 64, 3)
    chance = torch.Generator().manual_seed(1)
    many = augment(ramp.expand(300, 64, 64, 3), Augment(0.5, flip=False, light=0.0), 32, chance)
    assert many.shape == (300, 32, 32, 3)
    assert many.min() >= 0
    assert many.max() <= 63
    widths = (many[:, 0, -1, 0] - many[:, 0, 0, 0]) * 32 / 31 / 64
    assert 0.5 * 0.7 < widths.min() < 0.75
    assert widths.max() > 0.9


def test_light_changes_brightness_by_no_more_than_asked() -> None:
    grey = torch.full((200, 4, 4, 3), 100, dtype=torch.uint8)
    chance = torch.Generator().manual_seed(1)
    means = augment(grey, Augment(1.0, flip=False, light=0.2), 4, chance).mean(dim=(1, 2, 3))
    assert 80 <= means.min() < 90
    assert 110 < means.max() <= 120


def test_the_learning_rate_rises_and_then_falls_to_nothing(small: Params) -> None:
    params = rules(small.train, "cnn1")
    rates = [fit.learning_rate(params, step / 100) for step in range(101)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == params.learning_rate
    assert rates[-1] < 1e-9


def test_images_grow_to_their_full_size(small: Params) -> None:
    params = dataclasses.replace(rules(small.train, "residual"), grow_from=0.5, epochs=20)
    sides = [fit.side_px(params, 96, epoch) for epoch in range(1, 21)]
    assert sides[0] == 48
    assert sides == sorted(sides)
    assert sides[-1] == 96
