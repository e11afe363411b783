"""What the training of one variant leaves behind, in models/variants/NAME/ and metrics/."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from core.recipe import Recipe
from pipeline import onnx_file
from pipeline.dataset import Split
from pipeline.fit import Epoch, logits_of
from pipeline.metrics import accuracy
from pipeline.networks import Classifier, multiply_adds
from pipeline.params import Params
from pipeline.stage import fresh_file, fresh_folder

VARIANTS = Path("models/variants")
UNFINISHED = Path("models/unfinished")
METRICS = Path("metrics/train")
HISTORY = Path("metrics/history")

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Variant:
    """A trained network; its files lie beside variant.json. Nothing here depends on the clock."""

    name: str
    prepared: str  # the recipe's name in params.yaml
    recipe: Recipe
    parameters: int
    multiply_adds: int  # per image
    epochs: int
    best_epoch: int
    train_accuracy: float
    validation_accuracy: float
    validation_loss: float
    shown: dict[str, str]  # how it was made, in few words

    @classmethod
    def read(cls, folder: Path) -> Self:
        """From a folder of models/variants."""
        data: dict[str, Any] = json.loads((folder / "variant.json").read_text("utf-8"))
        return cls(**{**data, "recipe": Recipe.from_dict(data["recipe"])})


def folder_of(root: Path, name: str) -> Path:
    """Where a variant is."""
    return root / VARIANTS / name


def names(params: Params) -> list[str]:
    """All variants that run, in the order of params.yaml."""
    return [*params.train.run, *params.transfer.run]


def checkpoint_file(folder: Path) -> Path:
    """The state dict of the best epoch."""
    return folder / "checkpoint.pt"


def onnx_path(folder: Path) -> Path:
    """The same network as ONNX."""
    return folder / "model.onnx"


def valid_logits(folder: Path) -> Logits:
    """(N, C), what the network answered to the validation images."""
    logits: Logits = np.load(folder / "valid_logits.npy")
    return logits


def history(root: Path, name: str) -> list[dict[str, float]]:
    """The rows of metrics/history/NAME.csv."""
    with (root / HISTORY / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def seconds(root: Path, name: str) -> float:
    """How long the training took, without the start of Python."""
    found = json.loads((root / METRICS / f"{name}.json").read_text("utf-8"))
    return float(found["seconds"])


def write(  # noqa: PLR0913 - a finished training is these things
    root: Path,
    model: Classifier,
    valid: Split,
    *,
    name: str,
    prepared: str,
    recipe: Recipe,
    epochs: list[Epoch],
    chosen: Epoch,
    seconds: float,
    shown: Mapping[str, object],
) -> Variant:
    """Write all files of a variant that has been trained; `model` is that of the epoch `chosen`."""
    logits = logits_of(model, valid.images).numpy()
    variant = Variant(
        name=name,
        prepared=prepared,
        recipe=recipe,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        multiply_adds=multiply_adds(model, recipe.size_px),
        epochs=epochs[-1].epoch,
        best_epoch=chosen.epoch,
        train_accuracy=chosen.train_accuracy,
        validation_accuracy=accuracy(valid.indices, logits.argmax(axis=1)),
        validation_loss=chosen.validation_loss,
        shown={key: str(value) for key, value in shown.items()},
    )
    folder = fresh_folder(folder_of(root, name))
    torch.save(model.state_dict(), checkpoint_file(folder))
    np.save(folder / "valid_logits.npy", logits)
    onnx_path(folder).write_bytes(onnx_file.to_onnx(model, recipe.size_px))
    (folder / "variant.json").write_text(json.dumps(asdict(variant), indent=2) + "\n", "utf-8")
    _write_history(fresh_file(root / HISTORY / f"{name}.csv"), epochs)
    figures = {
        "validation_accuracy": variant.validation_accuracy,
        "validation_loss": variant.validation_loss,
        "train_accuracy": variant.train_accuracy,
        "epochs": variant.epochs,
        "best_epoch": variant.best_epoch,
        "parameters": variant.parameters,
        "seconds": round(seconds, 1),
    }
    path = fresh_file(root / METRICS / f"{name}.json")
    path.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    return variant


def _write_history(path: Path, epochs: list[Epoch]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Epoch))
        writer.writerows(asdict(epoch).values() for epoch in epochs)
