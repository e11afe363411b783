"""The bundles that are measured: made once, kept in the cache."""

import io
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.photos import photographs
from core import bundle
from core.image import preprocess
from core.recipe import Recipe

INT8 = "-int8"
NAMES = ("cnn", "efflite0", f"efflite0{INT8}")
MEANING = {
    "cnn": "the mission's CNN, 224 px",
    "efflite0": "a network of EfficientNet-Lite0's size, 224 px",
    "efflite0-int8": "the same with int8 weights, as a bundle has them whose export allowed it",
}
_RECIPE = Recipe(224, (127 / 255,) * 3, (128 / 255,) * 3)


class Model(NamedTuple):
    """One network in the two forms that are served."""

    name: str
    bundle: Path
    weights: Path  # torch, for the peers

    @property
    def network(self) -> str:
        """Its name in `networks`."""
        return self.name.removesuffix(INT8)

    @property
    def is_int8(self) -> bool:
        """Whether ours answers in int8, and the peers in fp32."""
        return self.name.endswith(INT8)

    @property
    def graph(self) -> Path:
        """The ONNX file of the bundle, for peers that are given the same runtime."""
        return self.bundle / "model.onnx"


def prepare(cache: Path) -> list[Model]:
    """Every model, made where it is missing: in a process of its own, for torch is large."""
    models = [
        Model(name, cache / "models" / name, cache / "models" / f"{name.removesuffix(INT8)}.pt")
        for name in NAMES
    ]
    for model in models:
        if not (model.bundle.is_dir() and model.weights.is_file()):
            command = [sys.executable, "-m", "benchmarks.models", model.name, str(cache)]
            subprocess.run(command, check=True)
    return models


def _make(name: str, cache: Path) -> None:
    if name.endswith(INT8):
        _quantise(name, cache)
        return
    import torch  # noqa: PLC0415 - only the process that makes a model needs it

    from benchmarks import networks  # noqa: PLC0415

    network = networks.new(name)
    example = torch.zeros((2, networks.SIDE_PX, networks.SIDE_PX, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        verbose=False,
    )
    weights = io.BytesIO()
    torch.save(network.state_dict(), weights)
    bundle.write(
        cache / "models" / name,
        name=name,
        weights=program.model_proto.SerializeToString(),
        labels=[f"class {number}" for number in range(networks.CLASSES[name])],
        recipe=_RECIPE,
    )
    (cache / "models" / f"{name}.pt").write_bytes(weights.getvalue())


def _quantise(name: str, cache: Path) -> None:
    """The bundle of before, with the int8 weights that our own export makes of it."""
    from pipeline import int8  # noqa: PLC0415 - see `_make`

    source = cache / "models" / name.removesuffix(INT8)
    weights = (source / "model.onnx").read_bytes()
    images = [preprocess(data, _RECIPE, 10**8)[0] for data in photographs(64).files]
    bundle.write(
        cache / "models" / name,
        name=name,
        weights=weights,
        labels=bundle.read_manifest(source).labels,
        recipe=_RECIPE,
        int8_weights=int8.quantised(weights, np.stack(images)),
    )


if __name__ == "__main__":
    _make(sys.argv[1], Path(sys.argv[2]))
