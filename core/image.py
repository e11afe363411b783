"""Strangers' bytes to upright RGB pixels, or one `ImageError` that says why not."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from core import recipe as recipes
from core.errors import ImageError
from core.recipe import Recipe
from core.types import ImageInfo, Pixels

# What we let Pillow try. Left out: EPS and WMF (they start other programs), stubs that only name a
# format (GRIB, HDF5, BUFR), and films.
FORMATS = (
    "JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "ICO", "PPM", "DIB", "CUR",
    "ICNS", "TGA", "PCX", "SGI", "PSD", "QOI", "DDS", "XBM", "SUN", "MSP",
)  # fmt: skip

# First bytes by which we name what Pillow did not recognise: formats that it cannot read, ...
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"PK\x03\x04", "ZIP"),
)
# ... and formats that it reads, so this file is damaged.
_FAMILIAR: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"BM", "BMP"),
    (4, b"ftypavi", "AVIF"),
    (4, b"jP  ", "JPEG 2000"),
)

_WHITE = (255, 255, 255)
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")

_EXIF_ORIENTATION = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = (5, 6, 7, 8)

# Resampling needs 16 to 48 bytes per pixel of a side for each output pixel, whatever the other side
# is: 1.6 GB for an image of 100,000,000 x 1 pixels. A JPEG ends at 65,535.
MAX_SIDE_PX = 100_000

# Above the limit is an error to us, not advice to the terminal.
warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB image, and what its file said of itself before any scaling."""

    image: Image.Image
    info: ImageInfo


def preprocess(data: bytes, recipe: Recipe, max_pixels: int) -> tuple[Pixels, ImageInfo]:
    """Bytes to the model's input, (S, S, 3) uint8: the one function of training and of serving.

    Raises `ImageError`.
    """
    decoded = decode(data, max_pixels, recipe.background, at_least_px=recipe.resized_side_px)
    return recipes.apply(decoded.image, recipe), decoded.info


def decode(
    data: bytes,
    max_pixels: int,
    background: tuple[int, int, int] = _WHITE,
    at_least_px: int | None = None,
) -> Decoded:
    """Decode anything in `FORMATS` to upright RGB: first frame, EXIF orientation applied.

    `background`: the colour behind transparent pixels. `at_least_px`: the caller will shrink the
    short side to this many pixels, so a large JPEG may be decoded at a half, a quarter or an eighth
    (the DCT scaling of libjpeg), but never under twice that size; docs/performance.md has what that
    gains and costs.

    Raises `ImageError` for every kind of bad input. The broad `except` is the only one of the
    house: damaged files make decoders raise nearly anything.
    """
    if not data:
        raise ImageError("empty_file", "The file is empty. Was the copy cut short? Send it again.")
    Image.MAX_IMAGE_PIXELS = max_pixels  # also guards the frames inside containers such as ICO
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _load(image, max_pixels, background, at_least_px)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(max_pixels) from None
    except MemoryError:
        raise ImageError("too_large", "The image needs more memory than there is.") from None
    except Exception as error:  # see the docstring
        raise ImageError(
            "unreadable_image", _damaged(str(error) or type(error).__name__)
        ) from error


def thumbnail(data: bytes, max_pixels: int, side_px: int) -> bytes:
    """A small JPEG of anything in `FORMATS`, upright, at most `side_px` wide and high.

    Raises `ImageError`.
    """
    small = decode(data, max_pixels, at_least_px=side_px // 2).image
    small.thumbnail((side_px, side_px), reducing_gap=2.0)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return file.getvalue()


def _load(
    image: Image.Image, max_pixels: int, background: tuple[int, int, int], at_least_px: int | None
) -> Decoded:
    width_px, height_px = image.size
    if width_px * height_px > max_pixels:
        raise _too_many_pixels(max_pixels)
    if max(width_px, height_px) > MAX_SIDE_PX:
        raise _too_long(width_px, height_px)
    file_format = image.format or "unknown"
    if at_least_px is not None and file_format in ("JPEG", "MPO"):
        image.draft(None, (2 * at_least_px, 2 * at_least_px))
    image.load()
    # TIFF has been turned by `load` and no longer carries the tag; the others are turned here.
    orientation = _orientation(image)
    if orientation in _QUARTER_TURNS:
        width_px, height_px = height_px, width_px
    upright = to_rgb(image, background)
    if orientation in _TO_UPRIGHT:
        upright = upright.transpose(_TO_UPRIGHT[orientation])
    return Decoded(upright, ImageInfo(width_px, height_px, file_format))


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 as well when the EXIF block is damaged, since the picture itself may be whole."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - strangers' bytes again, see `decode`
        return 1


def to_rgb(image: Image.Image, background: tuple[int, int, int] = _WHITE) -> Image.Image:
    """Any of Pillow's modes to RGB: transparency lies on `background`, deep greys are scaled.

    Pillow's own `convert` clips 16-bit grey to white and drops transparency.
    """
    if image.mode in _SIXTEEN_BIT_MODES:
        image = _from_16_bit(np.asarray(image).astype(np.uint16), image.info.get("transparency"))
    elif image.mode in ("I", "F"):
        is_integer = image.mode == "I"
        image = Image.fromarray(_to_8_bit(np.array(image, dtype=np.float32), is_integer))
    if image.has_transparency_data:
        # `paste` takes half the memory of `alpha_composite`: 8 bytes a pixel instead of 16.
        opaque = Image.new("RGB", image.size, background)
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        opaque.paste(image, mask=image)
        return opaque
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(values: NDArray[np.uint16], transparent: int | None) -> Image.Image:
    """The high byte of each grey value; `transparent`: the one that a PNG calls see-through."""
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _to_8_bit(values: NDArray[np.float32], is_integer: bool) -> NDArray[np.uint8]:
    """Grey values of unknown range to 0..255; overwrites `values`.

    Integers up to 65,535 are taken for 16 bit, as 16-bit PGM comes. Fractions up to 1 are taken for
    unit scale, up to 255 for 8 bit, up to 65,535 for 16 bit. Any wider range is stretched from its
    least to its greatest value.
    """
    np.nan_to_num(values, copy=False, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65_535:
        values -= low
        values *= 255 / (high - low) if high > low else 0.0
    elif is_integer or high > 255:
        values /= 256
        np.floor(values, out=values)
    elif high <= 1:
        values *= 255
    return np.round(values).astype(np.uint8)


def _starts(data: bytes, signatures: tuple[tuple[int, bytes, str], ...]) -> str | None:
    for offset, signature, name in signatures:
        if data[offset : offset + len(signature)] == signature:
            return name
    return None


def _unidentified(data: bytes) -> ImageError:
    if familiar := _starts(data, _FAMILIAR):
        return ImageError(
            "unreadable_image",
            f"This {familiar} is damaged, or of a rare kind that cannot be read here. Copy it "
            "again from its source, or convert it to a plain JPEG or PNG.",
        )
    if foreign := _starts(data, _FOREIGN) or _svg(data):
        return ImageError(
            "unsupported_format", f"{foreign} cannot be read here. Convert it to JPEG or PNG."
        )
    return ImageError("unsupported_format", "This is not an image in a format that we know.")


def _svg(data: bytes) -> str | None:
    """SVG is text: its root element comes after any prolog, comments and doctype."""
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    return "SVG" if head.startswith(b"<") and b"<svg" in head else None


def _damaged(reason: str) -> str:
    return f"The image is damaged or cut short ({reason[:300]}). Copy it again from its source."


def _too_many_pixels(max_pixels: int) -> ImageError:
    return ImageError(
        "too_many_pixels",
        f"This image, or a frame inside it, has more than {max_pixels} pixels. Scale it down, or "
        "raise PIGEONHOLE_MAX_PIXELS.",
    )


def _too_long(width_px: int, height_px: int) -> ImageError:
    return ImageError(
        "too_many_pixels",
        f"{width_px} x {height_px} pixels: no side may be longer than {MAX_SIDE_PX}. "
        "Cut it into pieces.",
    )
