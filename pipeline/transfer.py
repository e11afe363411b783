"""Stage `transfer`: a linear head on a network that was trained on ImageNet; seconds, not minutes.

    python -m pipeline.transfer BACKBONE

Where params.yaml asks for it, the whole network is then fine-tuned; epoch 0 is the frozen one, and
the best on valid is kept. It never looks at test.
"""

import copy
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from core.recipe import Recipe
from pipeline import backbone, embeddings, fit, variants
from pipeline.backbone import Pretrained
from pipeline.dataset import prepared, read_labels, read_recipe, read_split
from pipeline.fit import Data, Epoch
from pipeline.networks import Classifier
from pipeline.params import Transfer
from pipeline.stage import StageError, console, run
from pipeline.train import training_key
from pipeline.variants import UNFINISHED

_STEPS = 100  # of L-BFGS; the loss is convex, so it ends at the same place from anywhere


def transfer(params: Transfer, name: str, root: Path = Path()) -> None:
    """Write models/variants/NAME, metrics/train/NAME.json and metrics/history/NAME.csv."""
    folder = root / prepared(params.recipe)
    data = Data(read_split(folder, "train"), read_split(folder, "valid"))
    pretrained, recipe = _pretrained(params, name, read_recipe(folder))
    started = time.perf_counter()
    model = backbone.classifier(pretrained, recipe, new_head(pretrained, len(read_labels(folder))))
    history = _fit_head(model, pretrained, data, params, root)
    chosen = _best_head(history)
    unfinished = root / UNFINISHED / f"{name}.pt"
    if params.finetune is not None:
        key = training_key(
            asdict(params.finetune), params.weight_decays, name, pretrained.sha256, data
        )
        start = replace(chosen, epoch=0)
        history = _tune(model, data, params, start, name=name, unfinished=unfinished, key=key)
        chosen = fit.best(history)
    seconds = time.perf_counter() - started
    variant = variants.write(
        root,
        model,
        data.valid,
        name=name,
        prepared=params.recipe,
        recipe=recipe,
        epochs=history,
        chosen=chosen,
        seconds=seconds,
        shown={"backbone": name, "finetune": params.finetune is not None, "normalize": True},
    )
    unfinished.unlink(missing_ok=True)
    console.print(f"{name}: validation accuracy {variant.validation_accuracy:.4f}, {seconds:.0f} s")


def new_model(params: Transfer, name: str, recipe: Recipe, classes: int) -> Classifier:
    """The network of a variant before its head has learned; `recipe` is the prepared images'."""
    pretrained, recipe = _pretrained(params, name, recipe)
    return backbone.classifier(pretrained, recipe, new_head(pretrained, classes))


def new_head(pretrained: Pretrained, classes: int) -> nn.Linear:
    """A linear layer for other classes than those of ImageNet."""
    return nn.Linear(pretrained.head.in_features, classes)


def _pretrained(params: Transfer, name: str, recipe: Recipe) -> tuple[Pretrained, Recipe]:
    """The backbone, and the recipe with the normalisation that the backbone knows."""
    if name not in params.backbones:
        raise StageError(
            f"transfer.run names {name}, but transfer.backbones in params.yaml has no such."
        )
    fit.prepare(params.seed, params.threads)
    pretrained = backbone.load(name, params.backbones[name])
    return pretrained, replace(recipe, mean=pretrained.mean, std=pretrained.std)


def _fit_head(
    model: Classifier, pretrained: Pretrained, data: Data, params: Transfer, root: Path
) -> list[Epoch]:
    """Set the head to that which is best on valid; an `Epoch` for each weight decay, rising."""
    recipe = replace(
        read_recipe(root / prepared(params.recipe)), mean=pretrained.mean, std=pretrained.std
    )
    found = embeddings.embed(pretrained, recipe, data, params.threads, root)
    (train, valid) = (torch.from_numpy(features).double() for features in found)
    (truth, valid_truth) = (torch.from_numpy(np.array(split.indices)) for split in data)
    middle, spread = train.mean(0), train.std(0).clamp(min=1e-6)
    history: list[Epoch] = []
    for number, decay in enumerate(sorted(params.weight_decays), start=1):
        head = nn.Linear(train.shape[1], model.head.out_features, dtype=torch.float64)
        _fit_linear(head, (train - middle) / spread, truth, decay)
        weight = head.weight / spread
        head.weight.data = weight.data
        head.bias.data = (head.bias - weight @ middle).data
        epoch = Epoch(number, *_measured(head, train, truth), *_measured(head, valid, valid_truth))
        history.append(epoch)
        if _best_head(history).epoch == number:
            model.head.load_state_dict(head.float().state_dict())
    return history


def _best_head(history: list[Epoch]) -> Epoch:
    """Highest accuracy on valid; among equals the strongest decay, whose epoch is the last.

    The losses of heads that are equally often right differ by less than chance, and then the most
    regular one is the safest (the one-standard-error rule in small: Hastie et al., "The Elements of
    Statistical Learning", 7.10). That it is less sure is mended by `calibrate`.
    """
    return max(history, key=lambda epoch: (epoch.validation_accuracy, epoch.epoch))


def _tune(
    model: Classifier,
    data: Data,
    params: Transfer,
    start: Epoch,
    *,
    name: str,
    unfinished: Path,
    key: str,
) -> list[Epoch]:
    """Fine-tune the whole network, or leave it as it is where no epoch is better on valid."""
    assert params.finetune is not None  # noqa: S101 - the caller has looked
    frozen = copy.deepcopy(model.state_dict())
    tuned = fit.fit(
        model, data, params.finetune, seed=params.seed, name=name, unfinished=unfinished, key=key
    )
    history = [start, *tuned.history]
    if fit.best(history).epoch == 0:
        model.load_state_dict(frozen)
    return history


def _fit_linear(head: nn.Linear, features: torch.Tensor, truth: torch.Tensor, decay: float) -> None:
    """Multinomial logistic regression with an L2 penalty, by L-BFGS."""
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(head(features), truth)
        value = value + decay / 2 * head.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)


def _measured(head: nn.Linear, features: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    with torch.inference_mode():
        logits = head(features)
        loss = nn.functional.cross_entropy(logits, truth).item()
    return round(loss, 6), int((logits.argmax(1) == truth).sum()) / len(truth)


if __name__ == "__main__":
    run(lambda params: transfer(params.transfer, sys.argv[1]))
