"""Where results go: to stdout as they come, or into a file that is whole or not there."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Literal

from core.errors import PigeonholeError
from core.types import LabelScore
from pigeonhole.escape import printable
from pigeonhole.terminal import result_tables
from storage.export import FORMATS, Format, export
from storage.results import Result, ResultError

Shown = Literal["table", "json", "jsonl", "csv", "parquet"]


class OutputError(PigeonholeError):
    """The results cannot be written where they were asked for."""

    code = "bad_output"


def chosen(shown: Shown | None, out: Path | None) -> Shown:
    """The format that was asked for; else by the suffix of `out`, else what stdout is made for."""
    if shown is None:
        by_suffix: dict[str, Format] = {f".{name}": name for name in FORMATS}
        if out is not None:
            return by_suffix.get(out.suffix.lower(), "jsonl")
        return "table" if sys.stdout.isatty() else "jsonl"
    if shown == "parquet" and out is None and sys.stdout.isatty():
        raise OutputError("Parquet is not for reading: give --out FILE, or send it to a pipe.")
    return shown


def write(
    rows: Iterable[Result],
    shown: Shown,
    out: Path | None,
    *,
    name: Callable[[Result], str],
    with_times: bool = False,
    piece_bytes: int,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Write rows as they come; `name` is what a table shows of a file.

    `around` surrounds every piece that goes to a terminal.
    """
    is_watched = out is None and sys.stdout.isatty()
    if shown == "table":
        pieces = result_tables(rows, name, with_times=with_times)
    else:
        must_tame = is_watched and shown == "csv"
        pieces = export(map(_tame, rows) if must_tame else rows, shown, piece_bytes)
    with _file(out) as file:
        for piece in pieces:
            with around() if is_watched else nullcontext():
                file.write(piece)
                file.flush()


def _tame(row: Result) -> Result:
    """A row whose names no terminal obeys: CSV, unlike JSON, has no escapes of its own."""
    error = row.error and ResultError(row.error.code, printable(row.error.detail))
    return replace(
        row,
        filename=printable(row.filename),
        label=_maybe(row.label),
        corrected_label=_maybe(row.corrected_label),
        path=_maybe(row.path),
        error=error,
        scores=tuple(LabelScore(printable(item.label), item.score) for item in row.scores),
    )


def _maybe(text: str | None) -> str | None:
    return None if text is None else printable(text)


@contextmanager
def _file(out: Path | None) -> Iterator[BinaryIO]:
    if out is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    if out.exists() and not out.is_file():
        with _opened(out) as file:  # a device or a pipe cannot be replaced
            yield file
        return
    out = out.resolve()  # a link stays a link, its target is replaced
    part = out.with_name(f".pigeonhole-{os.getpid()}.part")
    try:
        with _opened(part) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise OutputError(
            f"--out: cannot write in {path.parent} ({error.strerror}). Choose another folder."
        ) from None
