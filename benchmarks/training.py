"""The recipe of a textbook beside ours, in one run: `python -m benchmarks.training ZIP`.

The textbook: torchvision's ImageFolder, resized to 224 pixels as it is read, DataLoader, two
convolutions with max pooling (3-16-32, k3, p0), Adam 0.001, batches of 32, five epochs. Ours: the
stages unzip, preprocess and `train` of the same network (variant cnn1 of params.yaml), by their
functions; images are read once. Both on the same machine, one after the other, with two threads.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

from pipeline import onnx_file, params, variants
from pipeline.dataset import prepared, read_split
from pipeline.metrics import accuracy
from pipeline.preprocess import preprocess
from pipeline.train import train
from pipeline.unzip import IMAGES, unzip
from pipeline.variants import folder_of

_SIDE_PX = 224
_EPOCHS, _BATCH, _RATE = 5, 32, 0.001
_VARIANT = "cnn1"


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.training")
    parser.add_argument("zip", type=Path)
    parser.add_argument("--epochs", type=int, default=_EPOCHS, help="of the textbook")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ours_s, ours = _ours(chosen.zip.resolve(), root)
        theirs_s, theirs = _textbook(root / IMAGES, chosen.epochs)
    table = Table("recipe", "seconds", "test accuracy", box=None)
    table.add_row(f"textbook, {chosen.epochs} epochs", f"{theirs_s:.0f}", f"{theirs:.4f}")
    table.add_row(f"ours, {_VARIANT}", f"{ours_s:.0f}", f"{ours:.4f}")
    console = Console()
    console.print(table)
    console.print(f"ours takes {ours_s / theirs_s:.2f} of its time")


def _ours(archive: Path, root: Path) -> tuple[float, float]:
    """Seconds from the unpacked images to the network, and its accuracy on test."""
    read = params.read()
    unzip(dataclasses.replace(read.unzip, archive=str(archive)), root)
    started = time.perf_counter()
    preprocess(read.preprocess, read.train.recipe, root)
    train(read.train, _VARIANT, root)
    seconds = time.perf_counter() - started
    test = read_split(root / prepared(read.train.recipe), "test")
    weights = variants.onnx_path(folder_of(root, _VARIANT)).read_bytes()
    answers = onnx_file.run(onnx_file.session(weights), test.images).argmax(axis=1)
    return seconds, accuracy(test.indices, answers)


def _textbook(images: Path, epochs: int) -> tuple[float, float]:
    """Seconds to train, validation after each epoch included, and the accuracy on test."""
    torch.use_deterministic_algorithms(mode=False)
    torch.manual_seed(7)
    torch.set_num_threads(2)
    as_tensor = transforms.Compose([transforms.Resize((_SIDE_PX, _SIDE_PX)), transforms.ToTensor()])
    folders = {
        split: ImageFolder(str(images / split), as_tensor) for split in ("train", "valid", "test")
    }
    loaders = {
        split: torch.utils.data.DataLoader(folder, _BATCH, shuffle=split == "train")
        for split, folder in folders.items()
    }
    started = time.perf_counter()
    model = _network(len(folders["train"].classes))
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    for _ in range(epochs):
        model.train()
        for pixels, truth in loaders["train"]:
            loss = nn.functional.cross_entropy(model(pixels), truth)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        _share_right(model, loaders["valid"])
    seconds = time.perf_counter() - started
    return seconds, _share_right(model, loaders["test"])


def _network(classes: int) -> nn.Sequential:
    side_px = ((_SIDE_PX - 2) // 2 - 2) // 2
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * side_px**2, 128), nn.ReLU(), nn.Linear(128, classes),
    )  # fmt: skip


def _share_right(model: nn.Module, loader: Any) -> float:  # noqa: ANN401 - torch has no types here
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for pixels, truth in loader:
            right += int((model(pixels).argmax(1) == truth).sum())
            total += len(truth)
    return right / total


if __name__ == "__main__":
    main()
