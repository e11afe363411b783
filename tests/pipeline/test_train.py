"""Training is repeatable, learns, and chooses on the validation images."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from core.recipe import Recipe
from pipeline.dataset import read_labels, read_recipe, read_split
from pipeline.params import Params, Train
from pipeline.stage import StageError
from pipeline.train import CHECKPOINT, HISTORY, METRICS, augment, load, logits_of, new_model, train

from .conftest import SMALL, Run

RECIPE = Recipe(size_px=16, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))


@pytest.fixture
def prepared(run: Run, tmp_path: Path) -> Path:
    """A root with preprocessed images of its own, not trained on yet."""
    shutil.copytree(run.root / SMALL, tmp_path / SMALL)
    return tmp_path


def weights(root: Path) -> bytes:
    return (root / CHECKPOINT).read_bytes()


def test_the_same_seed_gives_the_same_weights(run: Run, prepared: Path) -> None:
    train(run.params.train, prepared)
    assert weights(prepared) == weights(run.root)
    assert (prepared / METRICS).read_bytes() == (run.root / METRICS).read_bytes()


def test_another_seed_gives_other_weights(run: Run, prepared: Path) -> None:
    train(dataclasses.replace(run.params.train, seed=8, epochs=1), prepared)
    assert weights(prepared) != weights(run.root)


def test_the_checkpoint_is_that_of_the_epoch_which_is_best_on_valid(run: Run) -> None:
    summary = json.loads((run.root / METRICS).read_text())
    with (run.root / HISTORY).open(newline="") as file:
        history = [float(row["validation_accuracy"]) for row in csv.DictReader(file)]
    assert summary["epochs"] == len(history)
    assert summary["validation_accuracy"] == max(history)
    assert summary["epoch"] == history.index(max(history)) + 1

    folder = run.root / SMALL
    labels, recipe, valid = read_labels(folder), read_recipe(folder), read_split(folder, "valid")
    model = load(run.params.train, recipe, len(labels), run.root / CHECKPOINT)
    right = logits_of(model, valid.images).numpy().argmax(1) == valid.indices
    assert right.mean() == summary["validation_accuracy"]


def test_training_ends_when_valid_gets_no_better(run: Run, prepared: Path) -> None:
    train(dataclasses.replace(run.params.train, epochs=50, patience=2), prepared)
    summary = json.loads((prepared / METRICS).read_text())
    assert summary["epochs"] == summary["epoch"] + 2 < 50


def test_training_does_not_need_the_test_images(run: Run, prepared: Path) -> None:
    for path in (prepared / SMALL).glob("test*"):
        path.unlink()
    train(dataclasses.replace(run.params.train, epochs=1), prepared)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"kernel_px": 5, "padding_px": 2},
        {"filters": (8, 16)},
        {"padding_px": 1},
        {"batch_norm": True},
    ],
)
def test_every_variant_of_the_network_gives_a_logit_per_class(
    small: Params, variant: dict[str, object]
) -> None:
    section: Train = dataclasses.replace(small.train, **variant)
    images = np.zeros((3, 16, 16, 3), dtype=np.uint8)
    assert logits_of(new_model(section, RECIPE, classes=5), images).shape == (3, 5)


def test_images_too_small_for_the_network_are_refused(small: Params) -> None:
    tiny = Recipe(size_px=6, mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(StageError, match=r"raise preprocess\.size_px"):
        new_model(small.train, tiny, classes=2)


def test_normalisation_is_the_first_thing_that_the_network_does(small: Params) -> None:
    model = new_model(small.train, RECIPE, classes=2)
    plain = new_model(small.train, Recipe(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), classes=2)
    images = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    normalised = (images / 255 - torch.tensor(RECIPE.mean)) / torch.tensor(RECIPE.std)
    with torch.inference_mode():
        assert torch.allclose(model(images), plain(normalised * 255), atol=1e-5)


def test_augmented_images_are_mirrored_and_moved_but_nothing_else(small: Params) -> None:
    section = dataclasses.replace(small.train, flip=True, shift_px=1)
    image = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    many = augment(image.expand(200, 8, 8, 3), section, torch.Generator().manual_seed(1))
    expected = set()
    for turned in (image, image.flip(1)):
        drawn_out = np.pad(turned.numpy(), ((1, 1), (1, 1), (0, 0)), mode="edge")
        expected |= {drawn_out[y : y + 8, x : x + 8].tobytes() for y in range(3) for x in range(3)}
    assert {one.numpy().tobytes() for one in many} == expected


def test_without_flip_and_shift_images_stay_as_they_are(small: Params) -> None:
    section = dataclasses.replace(small.train, flip=False, shift_px=0)
    images = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(augment(images, section, torch.Generator()), images)
