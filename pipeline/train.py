"""Stage 3: fit the network on train, keep the epoch that is best on valid, never look at test."""

import copy
import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import nn

from core.recipe import Recipe
from core.types import Batch
from pipeline.dataset import Split, prepared, read_labels, read_recipe, read_split
from pipeline.model import ConvNet
from pipeline.params import Train
from pipeline.stage import console, fresh_file, run

CHECKPOINT = Path("models/checkpoint.pt")
METRICS = Path("metrics/train.json")
HISTORY = Path("metrics/history.csv")

_FORWARD = 256  # images per forward pass when nothing is learned


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training images; losses are means per image, in nats."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


def train(params: Train, root: Path = Path()) -> None:
    """Write the checkpoint of the best epoch, its metrics and the history of all epochs."""
    folder = root / prepared("small")
    model = new_model(params, read_recipe(folder), classes=len(read_labels(folder)))
    history, best = _fit(model, read_split(folder, "train"), read_split(folder, "valid"), params)
    torch.save(best, fresh_file(root / CHECKPOINT))
    _write_history(fresh_file(root / HISTORY), history)
    summary = {**asdict(_best(history)), "epochs": len(history)}
    fresh_file(root / METRICS).write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    console.print(
        f"best of {len(history)} epochs is number {summary['epoch']}: "
        f"validation accuracy {summary['validation_accuracy']:.4f}"
    )


def new_model(params: Train, recipe: Recipe, classes: int) -> ConvNet:
    """An untrained network; the same seed gives the same weights, here and in all that follows."""
    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(params.threads)
    torch.manual_seed(params.seed)
    return ConvNet(params, recipe, classes)


def load(params: Train, recipe: Recipe, classes: int, checkpoint: Path) -> ConvNet:
    """The trained network, ready to answer. Only weights are read: a checkpoint cannot run code."""
    model = new_model(params, recipe, classes)
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    model.eval()
    return model


def logits_of(model: ConvNet, images: Batch) -> torch.Tensor:
    """(N, S, S, 3) uint8 to (N, C) logits, without learning anything."""
    model.eval()
    with torch.inference_mode():
        parts = [
            model(torch.from_numpy(np.array(images[start : start + _FORWARD])))
            for start in range(0, len(images), _FORWARD)
        ]
    return torch.cat(parts)


def augment(images: torch.Tensor, params: Train, chance: torch.Generator) -> torch.Tensor:
    """Mirror half of (N, S, S, 3) and move each by up to `shift_px`; edges are drawn out."""
    count, side_px = images.shape[:2]
    if params.flip:
        mirrored = torch.rand(count, generator=chance) < 0.5
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(2), images)
    reach = params.shift_px
    shifts_px = torch.randint(-reach, reach + 1, (2, count, 1), generator=chance)
    rows, columns = (torch.arange(side_px) + shifts_px).clamp(0, side_px - 1)  # (N, S) each
    return images[torch.arange(count).view(-1, 1, 1), rows[:, :, None], columns[:, None, :]]


def _fit(
    model: ConvNet, train_split: Split, valid_split: Split, params: Train
) -> tuple[list[Epoch], dict[str, Any]]:
    """All epochs, and the weights of the best one."""
    optimiser = torch.optim.Adam(model.parameters(), lr=params.learning_rate)
    chance = torch.Generator().manual_seed(params.seed)
    history: list[Epoch] = []
    best: dict[str, Any] = {}
    for number in track(range(1, params.epochs + 1), "train", console=console):
        learned = _learn(model, train_split, params, optimiser, chance)
        history.append(Epoch(number, *learned, *_validate(model, valid_split)))
        if _best(history).epoch == number:
            best = copy.deepcopy(model.state_dict())
        if number - _best(history).epoch >= params.patience:
            break
    return history, best


def _learn(
    model: ConvNet,
    split: Split,
    params: Train,
    optimiser: torch.optim.Optimizer,
    chance: torch.Generator,
) -> tuple[float, float]:
    """One epoch: the mean loss and the accuracy while learning."""
    model.train()
    loss_sum, right = 0.0, 0
    for images, indices in _batches(split, params, chance):
        logits = model(augment(images, params, chance))
        loss = nn.functional.cross_entropy(logits, indices)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss_sum += loss.item() * len(indices)
        right += int((logits.argmax(1) == indices).sum())
    return round(loss_sum / len(split), 6), right / len(split)


def _batches(
    split: Split, params: Train, chance: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The images in a new order, (N, S, S, 3) uint8, with their class indices, (N,)."""
    for chosen in torch.randperm(len(split), generator=chance).split(params.batch_size):
        index = chosen.numpy()
        yield torch.from_numpy(split.images[index]), torch.from_numpy(split.indices[index])


def _validate(model: ConvNet, split: Split) -> tuple[float, float]:
    """Mean loss and accuracy on images that are not learned from."""
    logits, indices = logits_of(model, split.images), torch.from_numpy(split.indices)
    loss = nn.functional.cross_entropy(logits, indices).item()
    return round(loss, 6), int((logits.argmax(1) == indices).sum()) / len(split)


def _best(history: list[Epoch]) -> Epoch:
    """Highest validation accuracy; among equals the first."""
    return max(history, key=lambda epoch: epoch.validation_accuracy)


def _write_history(path: Path, history: list[Epoch]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Epoch))
        writer.writerows(asdict(epoch).values() for epoch in history)


if __name__ == "__main__":
    run(lambda params: train(params.train))
