import io
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from core import recipe as recipes
from core.errors import ImageError
from core.image import MAX_SIDE_PX, Decoded, decode, preprocess
from core.recipe import Recipe

Paint = Callable[..., bytes]
MAX_PIXELS = 1_000_000
SAVED_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "TGA")


def encoded(image: Image.Image, file_format: str, **how_to_save: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **how_to_save)
    return file.getvalue()


def pixels(data: bytes, **how_to_decode: Any) -> NDArray[np.int16]:  # noqa: ANN401 - passed on
    image = decode(data, MAX_PIXELS, **how_to_decode).image
    assert image.mode == "RGB"
    return np.asarray(image, dtype=np.int16)


def is_near(ours: NDArray[Any], theirs: NDArray[Any], mean: float) -> bool:
    return ours.shape == theirs.shape and bool(
        np.abs(ours.astype(int) - theirs.astype(int)).mean() <= mean
    )


def quadrants() -> NDArray[np.uint8]:
    """48 wide, 32 high; red, green over blue, white: each of eight orientations looks different."""
    image = np.zeros((32, 48, 3), dtype=np.uint8)
    image[:16, :24] = 255, 0, 0
    image[:16, 24:] = 0, 255, 0
    image[16:, :24] = 0, 0, 255
    image[16:, 24:] = 255, 255, 255
    return image


def landscape(width_px: int, height_px: int) -> Image.Image:
    """Smooth waves under a little noise: it behaves like a photograph."""
    y, x = np.mgrid[0:height_px, 0:width_px] / 40
    waves = np.stack([np.sin(x + y), np.sin(2 * x), np.cos(y - x)], axis=2) * 90 + 128
    noise = np.random.default_rng(1).normal(0, 6, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


# Orientation: how a camera that was held that way has stored the upright image.
STORED: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),  # to be turned clockwise by whoever shows it
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_every_exif_orientation_is_turned_upright(orientation: int, file_format: str) -> None:
    upright = quadrants()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    how: dict[str, Any] = {"exif": exif}
    if file_format in ("JPEG", "AVIF"):
        how |= {"quality": 95, "subsampling": "4:4:4"}
    if file_format == "WEBP":
        how |= {"lossless": True}
    if file_format == "MPO":
        how |= {"quality": 95, "save_all": True, "append_images": [stored]}

    decoded = decode(encoded(stored, file_format, **how), MAX_PIXELS)

    assert is_near(np.asarray(decoded.image), upright, mean=8)  # a wrong turn is above 100
    assert (decoded.info.width_px, decoded.info.height_px) == (48, 32)
    assert decoded.info.format == file_format


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation

    data = encoded(Image.fromarray(quadrants()), "PNG", exif=exif)

    assert (pixels(data) == quadrants()).all()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0no TIFF header", b"Exif\0\0II*\0\xff\xff\xff\xff", b"x"]
)
def test_a_damaged_exif_block_does_not_spoil_a_whole_picture(exif: bytes) -> None:
    image = Image.fromarray(quadrants())

    assert (pixels(encoded(image, "PNG", exif=exif)) == quadrants()).all()
    assert is_near(pixels(encoded(image, "JPEG", exif=exif)), quadrants(), mean=8)


# Modes of colour


def test_what_is_half_transparent_mixes_with_the_background(paint: Paint) -> None:
    data = paint((255, 0, 0, 128), mode="RGBA")

    assert pixels(data)[0, 0].tolist() == [255, 127, 127]
    assert pixels(data, background=(0, 0, 255))[0, 0].tolist() == [128, 0, 127]


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "AVIF", "JPEG2000", "TGA", "ICO"])
def test_the_colour_behind_what_is_transparent_is_never_seen(
    paint: Paint, file_format: str
) -> None:
    data = paint((255, 0, 0, 0), (16, 16), file_format, mode="RGBA")

    assert (pixels(data) == 255).all()
    assert (pixels(data, background=(1, 2, 3)) == (1, 2, 3)).all()


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    image = landscape(40, 30)
    with_alpha = image.copy()
    with_alpha.putalpha(255)

    assert (pixels(encoded(with_alpha, "PNG")) == np.asarray(image)).all()


def test_grey_with_alpha_lies_on_the_background(paint: Paint) -> None:
    assert pixels(paint((0, 255), mode="LA"))[0, 0].tolist() == [0, 0, 0]
    assert pixels(paint((0, 0), mode="LA"))[0, 0].tolist() == [255, 255, 255]
    assert pixels(paint((0, 51), mode="LA"))[0, 0].tolist() == [204, 204, 204]


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_the_transparent_entry_of_a_palette_shows_the_background(file_format: str) -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 1)

    shown = pixels(encoded(image, file_format, transparency=0))

    assert shown[0, 0].tolist() == [0, 255, 0]
    assert shown[3, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "clear", "opaque", "shown"),
    [
        ("L", 10, 200, [200, 200, 200]),
        ("RGB", (1, 2, 3), (4, 5, 6), [4, 5, 6]),
        ("I;16", 5_000, 0x8001, [0x80, 0x80, 0x80]),
    ],
)
def test_the_one_colour_that_a_png_calls_transparent_shows_the_background(
    mode: str,
    clear: int | tuple[int, int, int],
    opaque: int | tuple[int, int, int],
    shown: list[int],
) -> None:
    image = Image.new(mode, (4, 4), clear)
    image.putpixel((0, 0), opaque)

    rgb = pixels(encoded(image, "PNG", transparency=clear), background=(9, 99, 9))

    assert rgb[0, 0].tolist() == shown
    assert rgb[3, 3].tolist() == [9, 99, 9]


def test_cmyk_becomes_rgb(paint: Paint) -> None:
    shown = pixels(paint((0, 255, 255, 0), (16, 16), "JPEG", mode="CMYK"))

    assert is_near(shown, np.full((16, 16, 3), (255, 0, 0)), mean=3)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_black_and_white_stay_black_and_white(mode: str) -> None:
    image = Image.fromarray((np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8))

    shown = pixels(encoded(image.convert(mode), "PNG"))

    assert (shown == np.asarray(image)[..., None]).all()


def test_sixteen_bit_grey_is_scaled_and_not_clipped_in_every_format() -> None:
    values = np.linspace(0, 65_535, 256 * 4).astype(np.uint16).reshape(4, 256)
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    files = {
        "PNG": encoded(image, "PNG"),
        "TIFF": encoded(image, "TIFF"),
        "big-endian TIFF": encoded(image, "TIFF", big_endian=True),
        "PGM": b"P5 256 4 65535\n" + values.astype(">u2").tobytes(),
    }

    for name, data in files.items():
        assert (pixels(data) == (values >> 8)[..., None]).all(), name


GREYS = [
    ([0.0, 0.5, 1.0], [0, 128, 255]),  # unit scale
    ([0.0, 0.0, 1.0], [0, 0, 255]),  # a mask
    ([0.0, 0.25, 0.5], [0, 64, 128]),
    ([0.0, 100.0, 255.0], [0, 100, 255]),  # 8 bits
    ([0.0, 25_600.0, 65_535.0], [0, 100, 255]),  # 16 bits
    ([-1.0, 0.0, 1.0], [0, 128, 255]),  # anything else is stretched
    ([0.0, 1e6, 4e6], [0, 64, 255]),
    ([-3.0, -3.0, -3.0], [0, 0, 0]),
    ([float("nan"), float("inf"), 1.0], [0, 0, 255]),
]


@pytest.mark.parametrize(("values", "shown"), GREYS)
def test_fractions_of_any_range_become_visible_greys(values: list[float], shown: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")

    assert pixels(data)[0, :, 0].tolist() == shown


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0, 256, 65_535], [0, 1, 255]),
        ([0, 1, 255], [0, 0, 0]),  # as dark as 16 bits make it
        ([0, 1_000_000, 4_000_000], [0, 64, 255]),
        ([-128, 0, 127], [0, 128, 255]),
        ([-7, -7, -7], [0, 0, 0]),
    ],
)
def test_integers_of_32_bits_become_visible_greys(values: list[int], shown: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF")

    assert pixels(data)[0, :, 0].tolist() == shown


# Sizes, formats, frames


@pytest.mark.parametrize("file_format", SAVED_FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (1000, 1), (1, 1000), (37, 23)])
def test_size_and_format_are_those_of_the_file(
    paint: Paint, size: tuple[int, int], file_format: str
) -> None:
    decoded = decode(paint("red", size, file_format), MAX_PIXELS)

    assert decoded.image.size == size
    assert (decoded.info.width_px, decoded.info.height_px) == size
    assert decoded.info.format == file_format
    assert is_near(np.asarray(decoded.image), np.full((*size[::-1], 3), (255, 0, 0)), mean=3)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_of_an_animation_the_first_frame_is_taken(file_format: str) -> None:
    red, lime, blue = (Image.new("RGB", (32, 32), color) for color in ("red", "lime", "blue"))

    data = encoded(red, file_format, save_all=True, append_images=[lime, blue])

    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert is_near(pixels(data), np.full((32, 32, 3), (255, 0, 0)), mean=3)


# Large JPEGs


@pytest.mark.parametrize("file_format", ["JPEG", "MPO"])
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(file_format: str) -> None:
    photo = landscape(1200, 900)
    how = {"save_all": True, "append_images": [photo]} if file_format == "MPO" else {}
    data = encoded(photo, file_format, quality=90, **how)
    full = decode(data, 2_000_000)

    small = decode(data, 2_000_000, at_least_px=100)

    assert full.image.size == (1200, 900)
    assert small.image.size == (300, 225)  # a quarter: an eighth would be under 2 x 100
    assert small.info == full.info
    assert (full.info.width_px, full.info.height_px) == (1200, 900)
    for crop in ("none", "center"):
        recipe = Recipe(100, (0, 0, 0), (1, 1, 1), crop=crop)
        ours, info = preprocess(data, recipe, 2_000_000)
        assert is_near(ours, recipes.apply(full.image, recipe), mean=0.5)
        assert info == full.info


def test_a_jpeg_that_is_decoded_small_and_turned_says_the_size_of_the_upright_original() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(landscape(801, 603), "JPEG", exif=exif)

    decoded = decode(data, MAX_PIXELS, at_least_px=50)

    assert decoded.image.size == (151, 201)
    assert (decoded.info.width_px, decoded.info.height_px) == (603, 801)


def test_an_image_is_never_decoded_under_twice_the_side_that_the_recipe_resizes_to() -> None:
    data = encoded(landscape(640, 480), "JPEG")

    for short_side_px, expected in ((60, (160, 120)), (61, (320, 240)), (241, (640, 480))):
        assert decode(data, MAX_PIXELS, at_least_px=short_side_px).image.size == expected


def test_the_background_of_the_recipe_lies_behind_what_is_transparent(paint: Paint) -> None:
    recipe = Recipe(8, (0, 0, 0), (1, 1, 1), background=(1, 2, 3))

    shown, _ = preprocess(paint((0, 0, 0, 0), mode="RGBA"), recipe, MAX_PIXELS)

    assert (shown == (1, 2, 3)).all()


# What is refused


def refusal(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[str, str]:
    with pytest.raises(ImageError) as refused:
        decode(data, max_pixels)
    return refused.value.code, str(refused.value)


def test_an_empty_file_is_refused() -> None:
    code, detail = refusal(b"")

    assert code == "empty_file"
    assert "Send it again" in detail


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypheix\0\0\0\0mif1heix", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF"),
        (b"\xff\x0a\xfa\x1f\0", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6 \0\0\0", "EPS"),
        (b"PK\x03\x04\x14\0\0\0", "ZIP"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- hand made -->\n<svg/>', "SVG"),
    ],
)
def test_a_format_that_cannot_be_read_is_refused_by_its_name(data: bytes, name: str) -> None:
    assert refusal(data + bytes(200)) == (
        "unsupported_format",
        f"{name} cannot be read here. Convert it to JPEG or PNG.",
    )


def test_eps_is_refused_although_pillow_could_start_ghostscript_for_it(paint: Paint) -> None:
    assert refusal(paint("red", (9, 9), "EPS"))[0] == "unsupported_format"


@pytest.mark.parametrize("data", [b"Dear Sir or Madam,", b"\0", b"\0" * 1000, b"<html></html>"])
def test_what_is_no_image_at_all_is_refused(data: bytes) -> None:
    assert refusal(data) == (
        "unsupported_format",
        "This is not an image in a format that we know.",
    )


@pytest.mark.parametrize(
    "file_format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM"]
)
def test_an_image_that_was_cut_in_half_is_refused_as_unreadable(file_format: str) -> None:
    data = encoded(landscape(64, 48), file_format)

    code, detail = refusal(data[: len(data) // 2])

    assert code == "unreadable_image"
    assert "Copy it again" in detail


@pytest.mark.parametrize(
    ("file_format", "name"),
    [
        ("JPEG", "JPEG"),
        ("PNG", "PNG"),
        ("GIF", "GIF"),
        ("WEBP", "WebP"),
        ("TIFF", "TIFF"),
        ("BMP", "BMP"),
        ("AVIF", "AVIF"),
    ],
)
def test_an_image_of_which_only_the_first_bytes_came_is_named(
    paint: Paint, file_format: str, name: str
) -> None:
    first = {"JPEG": 4, "GIF": 7, "TIFF": 6}.get(file_format, 13)
    code, detail = refusal(paint("red", file_format=file_format)[:first])

    assert code == "unreadable_image"
    assert detail.startswith(f"This {name} is damaged")


# Bombs


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width_px: int, height_px: int) -> bytes:
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def bmp_header(width_px: int, height_px: int) -> bytes:
    body = struct.pack("<IiiHHIIiiII", 40, width_px, height_px, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + body


def gif_header(width_px: int, height_px: int) -> bytes:
    size = struct.pack("<HH", width_px, height_px)
    return b"GIF89a" + size + b"\0\0\0," + bytes(4) + size + b"\0\x02\x02L\x01\0;"


@pytest.mark.parametrize("header", [png_header, bmp_header, gif_header])
@pytest.mark.parametrize("size", [(1001, 1000), (1500, 1000), (30_000, 30_000)])
def test_a_bomb_is_refused_by_its_header_alone(
    header: Callable[[int, int], bytes], size: tuple[int, int]
) -> None:
    code, detail = refusal(header(*size))

    assert code == "too_many_pixels"
    assert "more than 1000000 pixels" in detail
    assert "PIGEONHOLE_MAX_PIXELS" in detail


def test_the_limit_itself_is_still_allowed(paint: Paint) -> None:
    data = paint("red", (40, 25))

    assert decode(data, 1000).info.width_px == 40
    assert refusal(data, 999)[0] == "too_many_pixels"


def test_the_limit_holds_when_somebody_has_silenced_warnings(paint: Paint) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert refusal(paint("red", (40, 25)), 999)[0] == "too_many_pixels"


def test_a_frame_inside_an_icon_is_held_to_the_limit_too() -> None:
    bomb = png_header(30_000, 30_000)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(bomb), 22)

    assert refusal(b"\0\0\x01\0\x01\0" + entry + bomb)[0] == "too_many_pixels"


def test_a_line_too_long_to_be_resampled_is_refused(paint: Paint) -> None:
    assert decode(paint(0, (MAX_SIDE_PX, 1), mode="1"), MAX_PIXELS).info.height_px == 1

    code, detail = refusal(paint(0, (1, MAX_SIDE_PX + 1), mode="1"))

    assert code == "too_many_pixels"
    assert detail.startswith("1 x 100001 pixels: no side may be longer than 100000")


# Damage of every kind: an image or an ImageError, never anything else


@cache
def sound(file_format: str) -> bytes:
    return encoded(landscape(24, 18), file_format)


def outcome(data: bytes) -> Decoded | ImageError:
    try:
        return decode(data, MAX_PIXELS)
    except ImageError as error:
        return error


def assert_is_an_outcome(data: bytes) -> None:
    answer = outcome(data)
    if isinstance(answer, ImageError):
        assert answer.code in ("unsupported_format", "unreadable_image", "too_many_pixels")
        assert str(answer)
    else:
        assert answer.image.mode == "RGB"
        assert answer.info.width_px * answer.info.height_px <= MAX_PIXELS


@pytest.mark.parametrize("file_format", SAVED_FORMATS)
def test_a_file_cut_at_any_length_is_an_image_or_an_image_error(file_format: str) -> None:
    data = sound(file_format)

    for length in {*range(1, 40), *range(40, len(data), max(1, len(data) // 60))}:
        assert_is_an_outcome(data[:length])


@given(
    file_format=st.sampled_from(SAVED_FORMATS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8),
    in_header=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_a_file_with_flipped_bits_is_an_image_or_an_image_error(
    file_format: str, changes: list[tuple[float, int]], in_header: bool
) -> None:
    data = bytearray(sound(file_format))
    for place, flip in changes:
        data[int(place * (min(len(data), 64) if in_header else len(data)))] ^= flip

    assert_is_an_outcome(bytes(data))


@given(
    start=st.sampled_from([b"", *(sound(name)[:24] for name in SAVED_FORMATS)]),
    rest=st.binary(min_size=1, max_size=200),
)
@settings(deadline=None, max_examples=300)
def test_random_bytes_are_an_image_or_an_image_error(start: bytes, rest: bytes) -> None:
    assert_is_an_outcome(start + rest)
