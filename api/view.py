"""Results to HTML: the templates, and how they write numbers, times and names.

File names and labels are strangers' text: every template escapes what it is given, and nothing is
ever marked as safe.
"""

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context

from api.conditional import etag_of
from storage.results import Result

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_HUES = 10  # of page.css
_UNFILED = timedelta(minutes=1)  # how long the watcher may need to put a file away
_HEADERS = {"Cache-Control": "private, no-cache"}


def percent(share: float | None, digits: int = 0) -> str:
    """`98 %`; never 100 for what is less, nor 0 for what is more."""
    if share is None:
        return ""
    step = 10.0**-digits
    shown = round(100 * share, digits)
    if shown >= 100 > 100 * share:
        shown = 100 - step
    elif shown <= 0 < share:
        return f"< {step:.{digits}f} %"
    return f"{shown:.{digits}f} %"


def size(size_bytes: int) -> str:
    """`48 kB`, with two digits that matter; a kB is 1000 B."""
    number = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"


def duration(milliseconds: float) -> str:
    """`41 ms` or `2.3 s`."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms" if milliseconds >= 1 else "< 1 ms"
    return f"{milliseconds / 1000:.1f} s"


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(result: Result) -> str | None:
    """What it is: what a person said, or else the model."""
    return result.corrected_label or result.label


def _has_picture(result: Result) -> bool:
    """Whether there should be a picture to show: a file that was filed, or is about to be."""
    if result.status != "classified":
        return False
    is_new = datetime.now(UTC) - result.classified_at < _UNFILED
    return result.path is not None or (result.source == "watcher" and is_new)


@pass_context
def _hue(context: Context, label: str | None) -> str:
    """The class that colours a label: its own by its number, so that it keeps its colour."""
    if label is None:
        return "hue-none"
    number = context["hues"].get(label)
    return f"hue-{(zlib.crc32(label.encode()) if number is None else number) % _HUES}"


_environment = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,  # a template that names what it was not given is a bug
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "clock": lambda moment: f"{moment.astimezone(UTC):%H:%M:%S} UTC",
    "duration": duration,
    "etag": etag_of,
    "has_picture": _has_picture,
    "hue": _hue,
    "iso": _iso,
    "percent": percent,
    "shown": _shown,
    "size": size,
    "whole": lambda number: f"{number:,}".replace(",", "\u202f"),
    "words": lambda code: code.replace("_", " "),
}


def compile_templates() -> None:
    """Get every template ready, so that the first visitor need not wait for it."""
    for name in _environment.list_templates():
        _environment.get_template(name)


def page(
    template: str, labels: Sequence[str] = (), *, status: int = 200, **values: object
) -> HTMLResponse:
    """A page, or a part of one; `labels` are those of the model."""
    hues = {label: number for number, label in enumerate(labels)}
    text = _environment.get_template(template).render(labels=labels, hues=hues, **values)
    return HTMLResponse(text, status, _HEADERS)
