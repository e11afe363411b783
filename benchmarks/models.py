"""The bundles that are measured: made once, kept in the cache."""

import io
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from core import bundle
from core.recipe import Recipe

NAMES = ("cnn", "efflite0")
MEANING = {
    "cnn": "the mission's CNN, 224 px",
    "efflite0": "a network of EfficientNet-Lite0's size, 224 px",
}


class Model(NamedTuple):
    """One network in the two forms that are served."""

    name: str
    bundle: Path
    weights: Path  # torch, for the peers

    @property
    def graph(self) -> Path:
        """The ONNX file of the bundle, for peers that are given the same runtime."""
        return self.bundle / "model.onnx"


def prepare(cache: Path) -> list[Model]:
    """Every model, made where it is missing: in a process of its own, for torch is large."""
    models = [
        Model(name, cache / "models" / name, cache / "models" / f"{name}.pt") for name in NAMES
    ]
    for model in models:
        if not (model.bundle.is_dir() and model.weights.is_file()):
            command = [sys.executable, "-m", "benchmarks.models", model.name, str(cache)]
            subprocess.run(command, check=True)
    return models


def _make(name: str, cache: Path) -> None:
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
        recipe=Recipe(networks.SIDE_PX, (127 / 255,) * 3, (128 / 255,) * 3),
    )
    (cache / "models" / f"{name}.pt").write_bytes(weights.getvalue())


if __name__ == "__main__":
    _make(sys.argv[1], Path(sys.argv[2]))
