"""The networks that start from nothing: two plain convolutions, or a few residual blocks."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from core.recipe import Recipe
from pipeline.params import Cnn, Residual, TrainVariant
from pipeline.stage import StageError

_POOL_PX = 2
_STEM_PX = 28  # residual networks halve larger images until they are about this large


class Classifier(nn.Module):  # type: ignore[misc]
    """(N, S, S, 3), 0..255, to (N, C) logits. Scaling and normalisation are its first layer."""

    def __init__(self, recipe: Recipe, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        # Buffers: they belong to the graph, but the optimiser leaves them alone.
        self.register_buffer("mean", 255 * torch.tensor(recipe.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(recipe.std).view(1, 3, 1, 1))
        self.features = features
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, S, S, 3) to (N, C) float32; in memory the permuted pixels are channels-last."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)  # (N, 3, S, S)
        return self.head(self.features((pixels - self.mean) / self.std))


def new(params: TrainVariant, recipe: Recipe, classes: int) -> Classifier:
    """An untrained network; raises `StageError` when the images are too small for it."""
    if isinstance(params, Cnn):
        features, head = _plain(params, recipe.size_px, classes)
    else:
        features, head = _residual(params, recipe.size_px, classes)
    model: Classifier = Classifier(recipe, features, head).to(memory_format=torch.channels_last)
    return model


def multiply_adds(model: Classifier, size_px: int) -> int:
    """Multiplications of convolutions and linear layers for one image."""
    total = 0

    def count(layer: Any, _: object, output: torch.Tensor) -> None:  # noqa: ANN401
        nonlocal total
        total += output[0, 0].numel() * layer.weight.numel()

    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    model.eval()
    with torch.inference_mode():
        model(torch.zeros((1, size_px, size_px, 3), dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return total


def _plain(params: Cnn, size_px: int, classes: int) -> tuple[nn.Module, nn.Module]:
    """Two convolutions with max pooling, two fully connected layers."""
    first, second = params.filters
    features = nn.Sequential(
        *_convolution(3, first, params), *_convolution(first, second, params), nn.Flatten()
    )
    side_px = _side_after(_side_after(size_px, params), params)
    head = nn.Sequential(
        nn.Linear(second * side_px**2, params.hidden),
        nn.ReLU(),
        nn.Dropout(params.dropout),
        nn.Linear(params.hidden, classes),
    )
    return features, head


def _convolution(channels: int, filters: int, params: Cnn) -> list[Any]:
    norm = [nn.BatchNorm2d(filters)] if params.batch_norm else []
    convolution = nn.Conv2d(channels, filters, params.kernel_px, padding=params.padding_px)
    # Pooling first gives the same numbers, and leaves ReLU a quarter of them.
    return [convolution, *norm, nn.MaxPool2d(_POOL_PX), nn.ReLU()]


def _side_after(side_px: int, params: Cnn) -> int:
    """The side after one convolution and its pooling; raises `StageError` when nothing is left."""
    left_px = (side_px + 2 * params.padding_px - params.kernel_px + 1) // _POOL_PX
    if left_px < 1:
        raise StageError(
            "the images are too small for two convolutions: raise max_size_px of the recipe "
            "(preprocess.recipes), or lower kernel_px of the variant, in params.yaml."
        )
    return left_px


def _residual(params: Residual, size_px: int, classes: int) -> tuple[nn.Module, nn.Module]:
    """A stem that halves large images, one residual block per width, the mean over all places."""
    halvings = max(0, round(math.log2(size_px / _STEM_PX)))
    stem: list[Any] = [_normed(3, params.widths[0], stride=2 if halvings else 1), nn.ReLU()]
    for _ in range(halvings - 1):
        stem += [_normed(params.widths[0], params.widths[0], stride=2), nn.ReLU()]
    blocks = [
        _Block(before, width, stride=1 if number == 0 else 2)
        for number, (before, width) in enumerate(pairwise((params.widths[0], *params.widths)))
    ]
    features = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = nn.Sequential(nn.Dropout(params.dropout), nn.Linear(params.widths[-1], classes))
    return features, head


class _Block(nn.Module):  # type: ignore[misc]
    """Two convolutions and a way around them (He et al. 2015); starts as the way around alone."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.first = _normed(channels, filters, stride=stride)
        self.second = _normed(filters, filters)
        nn.init.zeros_(self.second[1].weight)
        # An odd side is halved upwards, as the convolution does it.
        pool = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
        wider = [_normed(channels, filters, kernel_px=1)] if channels != filters else []
        self.around = nn.Sequential(*pool, *wider)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, F, H / stride, W / stride)."""
        bent = self.second(torch.relu(self.first(maps)))
        return torch.relu(bent + self.around(maps))


def _normed(channels: int, filters: int, kernel_px: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(
        channels, filters, kernel_px, stride=stride, padding=kernel_px // 2, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(filters))
