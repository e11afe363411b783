"""The two networks that are measured, with random weights: what they answer takes the same time.

`cnn`: the mission's own, two convolutions with max pooling and two fully connected layers.
`efflite0`: the size and shape of EfficientNet-Lite0 (Tan and Le 2019; without squeeze-excitation
and swish), 1,000 classes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

SIDE_PX = 224
CLASSES = {"cnn": 5, "efflite0": 1000}
# Of each stage: expansion, channels, blocks, stride, kernel.
_STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)  # fmt: skip


class FromBytes(nn.Module):  # type: ignore[misc]
    """(N, S, S, 3) uint8 to logits: scaling is the first layer, as in our bundles."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, S, S, 3) uint8 to (N, C) float32."""
        return self.network((images.permute(0, 3, 1, 2).float() - 127) / 128)


def new(name: str) -> FromBytes:
    """The network by its name, with weights of its own seed."""
    torch.manual_seed(7)
    network = _cnn() if name == "cnn" else _efflite0()
    return FromBytes(network).eval()


def load(name: str, weights: Path) -> Any:  # noqa: ANN401 - torch ships no types
    """The network with the weights that were exported."""
    network = new(name)
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 54 * 54, 128), nn.ReLU(), nn.Linear(128, CLASSES["cnn"]),
    )  # fmt: skip


def _efflite0() -> nn.Module:
    layers: list[nn.Module] = [_convolution(3, 32, 3, 2)]
    channels = 32
    for expansion, out, blocks, stride, kernel in _STAGES:
        for number in range(blocks):
            layers.append(_Block(channels, out, expansion, kernel, 1 if number else stride))
            channels = out
    return nn.Sequential(
        *layers,
        _convolution(channels, 1280, 1, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1280, CLASSES["efflite0"]),
    )


class _Block(nn.Module):  # type: ignore[misc]
    """Expand, convolve each channel by itself, project; with a way around where shapes agree."""

    def __init__(self, channels: int, out: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = channels * expansion
        widen = [] if expansion == 1 else [_convolution(channels, wide, 1, 1)]
        self.layers = nn.Sequential(
            *widen,
            _convolution(wide, wide, kernel, stride, groups=wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.has_way_around = stride == 1 and channels == out

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        projected = self.layers(features)
        return features + projected if self.has_way_around else projected


def _convolution(channels: int, out: int, kernel: int, stride: int, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    )
