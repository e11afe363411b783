"""The same preparation of images done in another way, to check `core.image` and `core.recipe`.

Nothing of `core.image` is used: Pillow decodes at full size, EXIF orientation and transparency are
applied by other functions, and filters of our own scale. Small differences are right: serving
decodes large JPEGs at a half or a quarter.
"""

import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.ndimage import uniform_filter
from scipy.sparse import csr_array

from core.recipe import Recipe
from core.types import Pixels

Floats = NDArray[np.float32]

_MOST_DB = 99.0  # of equal images, whose ratio is infinite
_WINDOW_PX = 7  # of the structural similarity, with its usual constants
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class Comparison(NamedTuple):
    """Prepared pixels against independently prepared ones; differences on the scale 0..1."""

    psnr_db: float
    ssim: float
    mean_difference: tuple[float, float, float]
    std_difference: tuple[float, float, float]


def compare(data: bytes, pixels: Pixels, recipe: Recipe) -> Comparison | None:
    """How near `pixels`, (S, S, 3), are to what the file holds; None: of a kind not compared.

    Raises whatever Pillow raises if the file is no image.
    """
    original = decoded(data, recipe.background)
    if original is None:
        return None
    expected, given = resized(original, recipe), pixels.astype(np.float32)
    (mean, std), (given_mean, given_std) = _figures(expected), _figures(given)
    return Comparison(
        psnr_db(expected, given),
        ssim(expected, given),
        _triple((given_mean - mean) / 255),
        _triple((given_std - std) / 255),
    )


def decoded(data: bytes, background: tuple[int, int, int]) -> Floats | None:
    """(H, W, 3), 0..255, upright; None for greys of unknown range (32 bits, floats)."""
    Image.MAX_IMAGE_PIXELS = None  # what comes here has been decoded under a limit before
    with Image.open(io.BytesIO(data)) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode in ("I", "F"):
            return None
        if image.mode.startswith("I;16"):
            grey = np.asarray(image).astype(np.float32) / 257
            return np.repeat(grey[:, :, None], 3, axis=2)
        if image.has_transparency_data:
            rgba = np.asarray(image.convert("RGBA"), dtype=np.float32)
            opacity = rgba[:, :, 3:] / 255
            behind = np.array(background, dtype=np.float32)
            return np.asarray(rgba[:, :, :3] * opacity + behind * (1 - opacity), np.float32)
        return np.asarray(image.convert("RGB"), dtype=np.float32)


def resized(image: Floats, recipe: Recipe) -> Floats:
    """(H, W, 3) to (S, S, 3): the whole image, or its middle as `crop: center` has it."""
    height, width = image.shape[:2]
    sides = (float(height), float(width))
    if recipe.crop == "center":
        side = min(sides) * recipe.size_px / recipe.resized_side_px
        sides = (side, side)
    rows = _weights(height, sides[0], recipe)
    columns = _weights(width, sides[1], recipe)
    tall = rows @ image.reshape(height, -1)  # (S, W * 3)
    wide = tall.reshape(recipe.size_px, width, 3).transpose(1, 0, 2).reshape(width, -1)
    scaled = columns @ wide  # (S, S * 3), columns first
    turned = scaled.reshape(recipe.size_px, recipe.size_px, 3).transpose(1, 0, 2)
    return np.asarray(np.clip(turned, 0, 255), dtype=np.float32)


def psnr_db(expected: Floats, given: Floats) -> float:
    """The peak signal-to-noise ratio of two images, 0..255."""
    error = float(np.mean((expected - given) ** 2))
    return _MOST_DB if error == 0 else min(_MOST_DB, float(10 * np.log10(255**2 / error)))


def ssim(expected: Floats, given: Floats) -> float:
    """The mean structural similarity of two images as grey ones (Wang et al., 2004), at most 1."""
    left, right = (image @ np.full(3, 1 / 3, dtype=np.float32) for image in (expected, given))
    mean_left, mean_right, squares_left, squares_right, products = (
        uniform_filter(values, _WINDOW_PX)
        for values in (left, right, left * left, right * right, left * right)
    )
    covariance = products - mean_left * mean_right
    variances = squares_left - mean_left**2 + squares_right - mean_right**2
    similarity = ((2 * mean_left * mean_right + _C1) * (2 * covariance + _C2)) / (
        (mean_left**2 + mean_right**2 + _C1) * (variances + _C2)
    )
    return float(similarity.mean())


def _figures(image: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation per channel, by products: much faster than `mean(axis=(0, 1))`."""
    pixels = image.reshape(-1, 3)
    shares = np.full(len(pixels), 1 / len(pixels), dtype=np.float32)
    mean = shares @ pixels
    return mean, np.sqrt(np.maximum(shares @ pixels**2 - mean**2, 0))


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _weights(length: int, extent: float, recipe: Recipe) -> csr_array:
    """(size, length) weights that scale the middle `extent` of `length` values to `size_px`."""
    size = recipe.size_px
    radius, kernel = _KERNELS[recipe.interpolation]
    scale = extent / size
    stretch = max(scale, 1.0)
    centers = (length - extent) / 2 + (np.arange(size) + 0.5) * scale
    first_taps = np.floor(centers - radius * stretch).astype(int)
    taps = first_taps[:, None] + np.arange(int(2 * radius * stretch) + 3)
    distances = np.abs(taps + 0.5 - centers[:, None]) / stretch
    weights = np.where(distances < radius, kernel(distances), 0)
    # As Pillow does with `box`: beyond the cut, and beyond the edge, nothing is seen.
    first, last = round((length - extent) / 2), round((length + extent) / 2)
    weights[(taps < max(0, first)) | (taps >= min(length, last))] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(size), taps.shape[1])
    used = weights.ravel() != 0
    coordinates = (rows[used], taps.ravel()[used])
    return csr_array((weights.ravel()[used].astype(np.float32), coordinates), (size, length))


def _triangle(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - distances


def _cubic(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel (1981) with a = -1/2."""
    near = 1.5 * distances**3 - 2.5 * distances**2 + 1
    far = -0.5 * distances**3 + 2.5 * distances**2 - 4 * distances + 2
    return np.where(distances < 1, near, far)


def _lanczos(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    windowed: NDArray[np.float64] = np.sinc(distances) * np.sinc(distances / 3)
    return windowed


# Radius and kernel. The nearest pixel is compared with the mean around it.
_KERNELS = {
    "nearest": (1.0, _triangle),
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}
