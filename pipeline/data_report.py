"""The page about the data: every check, every offender with its picture, and samples per class.

One file without scripts and without anything from elsewhere. Names and labels come from strangers:
the template escapes all of them.
"""

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from core.errors import ImageError
from core.image import decode
from pipeline.archive import SPLITS
from pipeline.checks import Check, Offender
from pipeline.dataset import Row, images_file, prepared, read_manifest
from pipeline.stage import shown
from pipeline.unzip import IMAGES

_TEMPLATE = Path(__file__).with_suffix(".html")
_SIDE_PX = 96
_MAX_PIXELS = 100_000_000
_PICTURES = 24  # offenders of one check that are shown
_LISTED = 200  # offenders of one check that are named
_SAMPLES, _CLASSES = 6, 30  # pictures of a class, and classes, in the samples


def page(
    done: Sequence[Check],
    rows: Sequence[Row],
    labels: Sequence[str],
    about_zip: dict[str, Any],
    root: Path,
) -> str:
    """The report as HTML; the same data give the same bytes."""
    counts = Counter((row.split, row.path.split("/")[1]) for row in rows)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["shown"] = shown
    return environment.from_string(_TEMPLATE.read_text("utf-8")).render(
        checks=done,
        breaches=[check for check in done if check.is_breach],
        sections=[_section(check, root) for check in done if check.offenders],
        splits=SPLITS,
        labels=labels,
        counts=counts,
        samples=_samples(rows, root),
        notes=about_zip["notes"],
    )


def _section(check: Check, root: Path) -> dict[str, Any]:
    offenders = [
        {
            "names": one.paths,
            "detail": one.detail,
            "pictures": _pictures(one, root) if number < _PICTURES else [],
        }
        for number, one in enumerate(check.offenders[:_LISTED])
    ]
    return {"check": check, "offenders": offenders, "more": len(check.offenders) - len(offenders)}


def _pictures(offender: Offender, root: Path) -> list[str]:
    """The files of an offender, and its pixels where these are the fault."""
    found = [_of_file(root / IMAGES / path) for path in offender.paths]
    if offender.recipe:
        found += [_of_pixels(root, offender.recipe, path) for path in offender.paths]
    return [picture for picture in found if picture]


def _of_file(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return _data_uri(decode(path.read_bytes(), _MAX_PIXELS, at_least_px=_SIDE_PX).image)
    except ImageError:
        return None


def _of_pixels(root: Path, recipe: str, path: str) -> str | None:
    folder = root / prepared(recipe)
    split = path.split("/", maxsplit=1)[0]
    of_split = [row.path for row in read_manifest(folder) if row.split == split]
    if path not in of_split:
        return None
    images = np.load(images_file(folder, split), mmap_mode="r")
    number = of_split.index(path)
    is_picture = images.ndim == 4 and images.dtype == np.uint8 and number < len(images)
    return _data_uri(Image.fromarray(np.array(images[number]))) if is_picture else None


def _samples(rows: Sequence[Row], root: Path) -> dict[str, list[str]]:
    """The first training images of each class, as files hold them."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        label = row.path.split("/")[1]
        is_wanted = row.split == "train" and (label in found or len(found) < _CLASSES)
        if is_wanted and len(found[label]) < _SAMPLES:
            picture = _of_file(root / IMAGES / row.path)
            found[label] += [picture] if picture else []
    return dict(found)


def _data_uri(image: Image.Image) -> str:
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
