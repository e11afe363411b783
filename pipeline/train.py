"""Stage `train`: fit one network that starts from nothing; keep the epoch that is best on valid.

    python -m pipeline.train VARIANT

Training stopped in the middle goes on where it was, to the same weights. It never looks at test.
"""

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from core.recipe import Recipe
from pipeline import fit, networks, variants
from pipeline.dataset import prepared, read_labels, read_recipe, read_split
from pipeline.fit import Data
from pipeline.networks import Classifier
from pipeline.params import Cnn, Fit, Residual, Train
from pipeline.stage import StageError, console, run
from pipeline.variants import UNFINISHED


def train(params: Train, name: str, root: Path = Path()) -> None:
    """Write models/variants/NAME, metrics/train/NAME.json and metrics/history/NAME.csv."""
    folder = root / prepared(params.recipe)
    data = Data(read_split(folder, "train"), read_split(folder, "valid"))
    recipe = read_recipe(folder)
    model = new_model(params, name, recipe, classes=len(read_labels(folder)))
    unfinished = root / UNFINISHED / f"{name}.pt"
    fitted = fit.fit(
        model,
        data,
        rules(params, name),
        seed=params.seed,
        name=name,
        unfinished=unfinished,
        key=training_key(asdict(params.fit), asdict(params.variants[name]), params.seed, data),
    )
    variant = variants.write(
        root,
        model,
        data.valid,
        name=name,
        prepared=params.recipe,
        recipe=recipe,
        epochs=fitted.history,
        chosen=fit.best(fitted.history),
        seconds=fitted.seconds,
        shown=_shown(params.variants[name]),
    )
    unfinished.unlink(missing_ok=True)
    console.print(
        f"{name}: epoch {variant.best_epoch} of {variant.epochs}, "
        f"validation accuracy {variant.validation_accuracy:.4f}, {fitted.seconds:.0f} s"
    )


def new_model(params: Train, name: str, recipe: Recipe, classes: int) -> Classifier:
    """The untrained network of a variant; the same seed gives the same weights."""
    if name not in params.variants:
        raise StageError(f"train.run names {name}, but train.variants in params.yaml has no such.")
    fit.prepare(params.seed, params.threads)
    return networks.new(params.variants[name], recipe, classes)


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint; nothing but tensors is accepted."""
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)
    return state


def rules(params: Train, name: str) -> Fit:
    """The common rules with what the variant has of its own."""
    variant = params.variants[name]
    common = {key: getattr(params.fit, key) for key in params.fit.__dataclass_fields__}
    return Fit(
        **common,
        epochs=variant.epochs,
        learning_rate=variant.learning_rate,
        grow_from=variant.grow_from if isinstance(variant, Residual) else 1.0,
    )


def training_key(*parts: object) -> str:
    """Which training this is: what was noted of any other must not be gone on with."""
    digest = hashlib.sha256(str(torch.__version__).encode())
    for part in parts:
        if isinstance(part, Data):
            for split in part:
                digest.update(split.indices.tobytes())
                for image in split.images:
                    digest.update(image.tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


def _shown(params: Cnn | Residual) -> dict[str, object]:
    """The parameters as a reader of MLflow's table wants them."""
    common: dict[str, object] = {"epochs": params.epochs, "learning_rate": params.learning_rate}
    if isinstance(params, Residual):
        return {"widths": "-".join(map(str, params.widths)), "normalize": True, **common}
    first, second = params.filters
    layer = f"k{params.kernel_px} p{params.padding_px}"
    return {
        "conv1": f"3-{first} {layer}",
        "conv2": f"{first}-{second} {layer}",
        "normalize": params.batch_norm,
        **common,
    }


if __name__ == "__main__":
    run(lambda params: train(params.train, sys.argv[1]))
