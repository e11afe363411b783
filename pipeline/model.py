"""The network: two convolutions with max pooling, two fully connected layers."""

from typing import Any

import torch
from torch import nn

from core.recipe import Recipe
from pipeline.params import Train
from pipeline.stage import StageError

_POOL_PX = 2


class ConvNet(nn.Module):  # type: ignore[misc]
    """(N, S, S, 3) uint8 to (N, C) logits. Scaling and normalisation are its first layer."""

    def __init__(self, params: Train, recipe: Recipe, classes: int) -> None:
        super().__init__()
        # Buffers: they belong to the graph, but the optimiser leaves them alone.
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(recipe.std).view(1, 3, 1, 1))
        first, second = params.filters
        self.features = nn.Sequential(
            *_convolution(3, first, params), *_convolution(first, second, params)
        )
        side_px = _side_after(_side_after(recipe.size_px, params), params)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * side_px**2, params.hidden),
            nn.ReLU(),
            nn.Linear(params.hidden, classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, S, S, 3) uint8 to (N, C) float32."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 255  # (N, 3, S, S)
        return self.head(self.features((pixels - self.mean) / self.std))


def _convolution(channels: int, filters: int, params: Train) -> list[Any]:
    norm = [nn.BatchNorm2d(filters)] if params.batch_norm else []
    convolution = nn.Conv2d(channels, filters, params.kernel_px, padding=params.padding_px)
    return [convolution, *norm, nn.ReLU(), nn.MaxPool2d(_POOL_PX)]


def _side_after(side_px: int, params: Train) -> int:
    """The side after one convolution and its pooling; raises `StageError` when nothing is left."""
    left_px = (side_px + 2 * params.padding_px - params.kernel_px + 1) // _POOL_PX
    if left_px < 1:
        raise StageError(
            "the images are too small for two convolutions: raise preprocess.size_px, or lower "
            "train.kernel_px, in params.yaml."
        )
    return left_px
