"""Training images, each time a little different: another cut, mirrored, in another light."""

import torch
from torch import nn

from pipeline.params import Augment


def augment(
    images: torch.Tensor, params: Augment, side_px: int, chance: torch.Generator
) -> torch.Tensor:
    """(N, S, S, 3) uint8 to (N, side_px, side_px, 3) float32, 0..255."""
    pixels = _cut(images.permute(0, 3, 1, 2).to(torch.float32), params, side_px, chance)
    return _light(pixels, params.light, chance).permute(0, 2, 3, 1)


def _cut(
    pixels: torch.Tensor, params: Augment, side_px: int, chance: torch.Generator
) -> torch.Tensor:
    """A random rectangle of each image, resized: at least `crop` of its area, sides up to 4:3."""
    count = len(pixels)
    area = _uniform(count, params.crop, 1.0, chance)
    reach = min(4 / 3, 1 / params.crop)
    stretch = torch.exp(_uniform(count, -1.0, 1.0, chance) * torch.tensor(reach).log() / 2)
    width = (area.sqrt() * stretch).clamp(max=1.0)
    height = (area.sqrt() / stretch).clamp(max=1.0)
    left = _uniform(count, -1.0, 1.0, chance) * (1 - width)
    top = _uniform(count, -1.0, 1.0, chance) * (1 - height)
    turned = torch.rand(count, generator=chance) < (0.5 if params.flip else 0.0)
    zero = torch.zeros(count)
    rows = (torch.where(turned, -width, width), zero, left, zero, height, top)
    places = nn.functional.affine_grid(
        torch.stack(rows, dim=1).view(count, 2, 3),
        [count, 3, side_px, side_px],
        align_corners=False,
    )
    cut: torch.Tensor = nn.functional.grid_sample(
        pixels, places, padding_mode="border", align_corners=False
    )
    return cut


def _light(pixels: torch.Tensor, reach: float, chance: torch.Generator) -> torch.Tensor:
    """Brightness, contrast and saturation of each image, changed by up to `reach`."""
    if not reach:
        return pixels
    brightness, contrast, saturation = (
        _uniform(len(pixels), 1 - reach, 1 + reach, chance).view(-1, 1, 1, 1) for _ in range(3)
    )
    grey = pixels.mean(dim=1, keepdim=True)
    pixels = grey + (pixels - grey) * saturation
    middle = grey.mean(dim=(2, 3), keepdim=True)
    pixels = (middle + (pixels - middle) * contrast) * brightness
    return pixels.clamp(0, 255)


def _uniform(count: int, low: float, high: float, chance: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=chance) * (high - low) + low
