"""The photographs that are measured with: real ones where there are some, else painted."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.types import Pixels

SEED = 7
_SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
_ARCHIVES = ("dev5_inbox.zip", "dev5.zip")


class Photos(NamedTuple):
    """Different files, and a sentence on what they are."""

    files: list[bytes]
    what: str


def photographs(count: int) -> Photos:
    """`count` different JPEGs."""
    found = {hashlib.sha256(data).digest(): data for data in _first(count, _real())}
    files = list(found.values())[:count]
    if len(files) == count:
        return Photos(files, f"{count} photographs, {_mean_kb(files)} kB on average")
    files = [painted(np.random.default_rng((SEED, number)), 500, 375) for number in range(count)]
    return Photos(files, f"{count} painted JPEGs of 500 x 375, {_mean_kb(files)} kB on average")


def large(count: int) -> Photos:
    """JPEGs of 12 megapixels, as telephones make them."""
    picture = _picture(np.random.default_rng(SEED), 4000, 3000)
    files = [_jpeg(np.roll(picture, 400 * number, axis=1)) for number in range(count)]
    return Photos(files, f"{count} painted JPEGs of 4000 x 3000, {_mean_kb(files)} kB on average")


def painted(chance: np.random.Generator, width_px: int, height_px: int) -> bytes:
    """A JPEG with detail at every scale."""
    return _jpeg(_picture(chance, width_px, height_px))


def _picture(chance: np.random.Generator, width_px: int, height_px: int) -> Pixels:
    pixels = np.zeros((height_px, width_px, 3), np.float32)
    for scale in (4, 16, 64, 256):
        noise = chance.normal(128, 40, (scale * 3 // 4, scale, 3)).clip(0, 255)
        layer = Image.fromarray(noise.astype(np.uint8))
        pixels += np.asarray(layer.resize((width_px, height_px), Image.Resampling.BICUBIC))
    return (pixels / 4).astype(np.uint8)


def _jpeg(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88)
    return file.getvalue()


def _real() -> Iterator[bytes]:
    for name in _ARCHIVES:
        if (_SHARED / name).is_file():
            with zipfile.ZipFile(_SHARED / name) as archive:
                for entry in archive.namelist():
                    if entry.lower().endswith((".jpg", ".jpeg")):
                        yield archive.read(entry)


def _first(count: int, files: Iterator[bytes]) -> Iterator[bytes]:
    """Somewhat more than needed: a few may be the same."""
    for number, data in enumerate(files):
        if number >= count * 1.2:
            return
        yield data


def _mean_kb(files: list[bytes]) -> int:
    return round(sum(map(len, files)) / len(files) / 1000)
