"""How an image becomes the model's input: one recipe and one function for training and for serving.

The recipe travels inside the model bundle, so serving cannot prepare an image in another way than
training did. Scaling to floats and normalisation by `mean` and `std` are in the model graph itself:
what leaves here is bytes.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from PIL import Image

from core.errors import BundleError
from core.types import Pixels

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Crop = Literal["none", "center"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything about preprocessing that changes an answer.

    `size_px`: side of the square that the model sees. `crop`: `none` squeezes the whole image into
    the square; `center` scales the short side to `short_side_px` and cuts the middle out.
    `background`: the RGB colour behind transparent pixels. `mean`, `std`: per channel on the scale
    0..1, applied in the graph and kept here for the record.
    """

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: Crop = "none"
    short_side_px: int | None = None
    interpolation: Interpolation = "bilinear"
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        """Refuse a recipe that cannot be cooked."""
        if not 1 <= self.size_px <= 4096:
            raise BundleError(f"recipe: size_px must be 1..4096, not {self.size_px}")
        if self.interpolation not in _FILTERS:
            raise BundleError(f"recipe: unknown interpolation {self.interpolation!r}")
        if self.crop not in ("none", "center"):
            raise BundleError(f"recipe: unknown crop {self.crop!r}")
        if self.crop == "center" and self.resized_side_px < self.size_px:
            raise BundleError("recipe: short_side_px must be at least size_px")
        if any(value <= 0 for value in self.std):
            raise BundleError("recipe: every std must be above 0")

    @property
    def resized_side_px(self) -> int:
        """The side to which an image is scaled before it is cut."""
        return self.short_side_px or self.size_px

    def to_dict(self) -> dict[str, Any]:
        """The recipe as bundle.json and REST show it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Recipe":
        """Read a recipe; a key too many or of the wrong shape is a `BundleError`, never ignored."""
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise BundleError(
                f"recipe: unknown keys {sorted(unknown)}; this bundle is newer than we are"
            )
        try:
            triples: dict[str, Any] = {
                key: tuple(data[key]) for key in ("mean", "std", "background") if key in data
            }
            if any(len(triple) != 3 for triple in triples.values()):
                raise BundleError("recipe: mean, std and background need three values each")
            return cls(**{**data, **triples})
        except (TypeError, ValueError) as error:
            raise BundleError(f"recipe: {error}") from error


def apply(image: Image.Image, recipe: Recipe) -> Pixels:
    """Resize and crop an upright RGB image: (S, S, 3), uint8, S = `recipe.size_px`."""
    if recipe.crop == "center":
        image = _center_crop(image, recipe)
    else:
        image = image.resize((recipe.size_px, recipe.size_px), _FILTERS[recipe.interpolation])
    return np.asarray(image, dtype=np.uint8)


def _center_crop(image: Image.Image, recipe: Recipe) -> Image.Image:
    """The middle square, taken out of the source first so that a 10,000 x 1 image stays cheap."""
    size, short_px = recipe.size_px, min(image.size)
    # Never above the short side, as rounding would have it: 224 * (4090 / 224) > 4090, and Pillow
    # refuses a box that sticks out by a hair.
    side = min(size * (short_px / recipe.resized_side_px), short_px)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), _FILTERS[recipe.interpolation], box=box)
