"""Gradient descent that can be killed: each epoch is noted, and a later run goes on from there."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from core.types import Batch
from pipeline.augment import augment
from pipeline.dataset import Split
from pipeline.networks import Classifier
from pipeline.params import Fit
from pipeline.stage import console

_FORWARD = 32  # images per forward pass when nothing is learned, at most
_FORWARD_PIXELS = 150_000  # likewise: more would leave the processor's cache
_WARM_UP = 0.2  # of all steps, in which the learning rate rises
_GROWN = 0.7  # of all epochs, after which images have their full size
_GRID_PX = 8  # sides that grow do so in steps of this


class Data(NamedTuple):
    """What a variant learns from, and what chooses its best epoch."""

    train: Split
    valid: Split


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training images; losses are means per image, in nats."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass
class _State:
    """All that the next epoch depends on."""

    model: Classifier
    optimiser: torch.optim.Optimizer
    chance: torch.Generator  # order and augmentation; dropout draws from the global one
    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def save(self, path: Path, key: str) -> None:
        """Whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        torch.save(
            {
                "key": key,
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "chance": self.chance.get_state(),
                "global_chance": torch.get_rng_state(),
                "history": [asdict(epoch) for epoch in self.history],
                "best": self.best,
                "seconds": self.seconds,
            },
            part,
        )
        part.replace(path)

    def load(self, path: Path, key: str) -> None:
        """Go on from what an interrupted run of the same training noted, if there is one."""
        if not path.is_file():
            return
        saved = torch.load(path, weights_only=True)
        if saved["key"] != key:
            return
        self.model.load_state_dict(saved["model"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.chance.set_state(saved["chance"])
        torch.set_rng_state(saved["global_chance"])
        self.history = [Epoch(**epoch) for epoch in saved["history"]]
        self.best, self.seconds = saved["best"], saved["seconds"]
        console.print(f"going on after epoch {len(self.history)}, where the last run was stopped")


class Fitted(NamedTuple):
    """The history of all epochs; `seconds` without those of the start."""

    history: list[Epoch]
    seconds: float


def prepare(seed: int, threads: int) -> None:
    """The same seed gives the same weights; `threads` is fixed as sums depend on their split."""
    # Says what `use_deterministic_algorithms(True)` says, without two seconds of imports.
    torch.set_deterministic_debug_mode("error")
    # Or every new tensor would be written once more, against reads of what nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_num_threads(threads)
    torch.manual_seed(seed)


def fit(
    model: Classifier, data: Data, params: Fit, *, seed: int, name: str, unfinished: Path, key: str
) -> Fitted:
    """Fit in place; ends with the weights of the best epoch.

    `unfinished` is where an interrupted run is noted, `key` says which training that was: a note of
    another one is ignored. The caller deletes it once the result is safe.
    """
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=params.learning_rate,
        weight_decay=params.weight_decay,
        fused=True,
    )
    state = _State(model, optimiser, torch.Generator().manual_seed(seed))
    state.load(unfinished, key)
    with _progress() as progress:
        bar = progress.add_task(name, total=params.epochs, completed=len(state.history), said="")
        for number in range(len(state.history) + 1, params.epochs + 1):
            if _is_stale(state.history, params.patience):
                break
            started = time.perf_counter()
            learned = _learn(state, data.train, params, number)
            state.history.append(Epoch(number, *learned, *validate(model, data.valid)))
            if best(state.history).epoch == number:
                state.best = copy.deepcopy(model.state_dict())
            state.seconds += time.perf_counter() - started
            state.save(unfinished, key)
            last = state.history[-1]
            said = f"loss {last.train_loss:.3f}, validation accuracy {last.validation_accuracy:.4f}"
            progress.update(bar, advance=1, said=said)
    model.load_state_dict(state.best)
    return Fitted(state.history, state.seconds)


def best(history: list[Epoch]) -> Epoch:
    """Highest validation accuracy; among equals the least loss, then the first."""
    return max(history, key=lambda epoch: (epoch.validation_accuracy, -epoch.validation_loss))


def logits_of(model: Classifier, images: Batch) -> torch.Tensor:
    """(N, S, S, 3) uint8 to (N, C) logits, without learning anything."""
    model.eval()
    size = max(1, min(_FORWARD, _FORWARD_PIXELS // math.prod(images.shape[1:3])))
    with torch.inference_mode():
        parts = [
            model(torch.from_numpy(np.array(images[start : start + size])))
            for start in range(0, len(images), size)
        ]
    return torch.cat(parts)


def validate(model: Classifier, split: Split) -> tuple[float, float]:
    """Mean loss and accuracy on images that are not learned from."""
    logits, indices = logits_of(model, split.images), torch.from_numpy(split.indices)
    loss = nn.functional.cross_entropy(logits, indices).item()
    return round(loss, 6), int((logits.argmax(1) == indices).sum()) / len(split)


def learning_rate(params: Fit, progress: float) -> float:
    """At `progress` 0..1 through all steps: up in a line, down in a cosine (Smith 2018)."""
    if params.schedule == "constant":
        return params.learning_rate
    if progress < _WARM_UP:
        return params.learning_rate * (0.04 + 0.96 * progress / _WARM_UP)
    fallen = (progress - _WARM_UP) / (1 - _WARM_UP)
    return params.learning_rate * (1 + math.cos(math.pi * fallen)) / 2


def side_px(params: Fit, full_px: int, epoch: int) -> int:
    """The side of training images in an epoch: small ones first, which cost less."""
    grown = min(1.0, (epoch - 1) / max(1.0, _GROWN * params.epochs))
    wanted_px = full_px * (params.grow_from + (1 - params.grow_from) * grown)
    return min(full_px, math.ceil(wanted_px / _GRID_PX) * _GRID_PX)


def _learn(state: _State, split: Split, params: Fit, epoch: int) -> tuple[float, float]:
    """One epoch: the mean loss and the accuracy while learning."""
    state.model.train()
    steps = math.ceil(len(split) / params.batch_size)
    size_px = side_px(params, split.images.shape[1], epoch)
    loss_sum, right = 0.0, 0
    for step, (images, indices) in enumerate(_batches(split, params, state.chance)):
        rate = learning_rate(params, (epoch - 1 + step / steps) / params.epochs)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        logits = state.model(augment(images, params.augment, size_px, state.chance))
        loss = nn.functional.cross_entropy(logits, indices, label_smoothing=params.label_smoothing)
        state.optimiser.zero_grad()
        loss.backward()
        state.optimiser.step()
        loss_sum += loss.item() * len(indices)
        right += int((logits.argmax(1) == indices).sum())
    return round(loss_sum / len(split), 6), right / len(split)


def _batches(
    split: Split, params: Fit, chance: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The images in a new order, (N, S, S, 3) uint8, with their class indices, (N,)."""
    for chosen in torch.randperm(len(split), generator=chance).split(params.batch_size):
        index = chosen.numpy()
        yield torch.from_numpy(split.images[index]), torch.from_numpy(split.indices[index])


def _is_stale(history: list[Epoch], patience: int) -> bool:
    return bool(history) and len(history) - best(history).epoch >= patience


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
        console=console,
    )
