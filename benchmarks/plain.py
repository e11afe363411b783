"""What people write: torch over a folder. Prints images per second, the start left out."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torchvision import datasets, transforms

from benchmarks import networks

_TO_INPUT = transforms.Compose(
    [transforms.Resize((networks.SIDE_PX, networks.SIDE_PX)), transforms.PILToTensor()]
)


def one_by_one(network: torch.nn.Module, folder: Path) -> int:
    """Open, resize, ask: an image at a time, as the mission's own code does."""
    count = 0
    with torch.inference_mode():
        for path in sorted(folder.rglob("*.jpg")):
            pixels = _TO_INPUT(Image.open(path).convert("RGB")).permute(1, 2, 0)
            network(pixels[None]).softmax(1).argmax().item()
            count += 1
    return count


def loader(network: torch.nn.Module, folder: Path) -> int:
    """ImageFolder and DataLoader, two workers, batches of 32."""
    images = datasets.ImageFolder(str(folder), _TO_INPUT)
    count = 0
    with torch.inference_mode():
        for pixels, _ in torch.utils.data.DataLoader(images, batch_size=32, num_workers=2):
            network(pixels.permute(0, 2, 3, 1)).softmax(1).argmax(1)
            count += len(pixels)
    return count


_HOW: dict[str, Callable[[torch.nn.Module, Path], int]] = {
    "one-by-one": one_by_one,
    "loader": loader,
}


def main(how: str, name: str, weights: str, folder: str) -> None:
    """Measure once."""
    network = networks.load(name, Path(weights))
    with torch.inference_mode():
        network(torch.zeros((1, networks.SIDE_PX, networks.SIDE_PX, 3), dtype=torch.uint8))
    started_s = time.perf_counter()
    count = _HOW[how](network, Path(folder))
    print(count / (time.perf_counter() - started_s))  # noqa: T201 - the answer to our parent


if __name__ == "__main__":
    main(*sys.argv[1:])
