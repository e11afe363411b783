"""Results as csv, json, jsonl or parquet, piece by piece: no export is ever in memory as a whole.

The columns of csv and parquet, in this order (the names of `Result.to_dict`, flattened):

    id filename source status label confidence needs_review corrected_label reviewed_at
    error_code error_detail sha256 bytes width height format path duplicate_of
    model_name model_version received_at classified_at latency_ms scores

In csv a missing value is an empty cell, a truth value is `true` or `false`, times are ISO 8601 in
UTC, and `scores` is the JSON list that `to_dict` gives. A text cell that a spreadsheet could take
for a formula gets one apostrophe in front (OWASP, "CSV Injection"), and so does one that begins
with an apostrophe: take one leading apostrophe off every text cell that has one, and you have the
data as it was. In parquet, times are timestamps in UTC and `scores` is a list of {label, score}.

File names are strangers' text: JSON escapes every character that a terminal might obey, and halves
of surrogates are spelled out in all formats, since UTF-8 cannot hold them.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Literal, get_args

from storage.results import Result

Format = Literal["csv", "json", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}

PIECE_BYTES = 64 * 1024
_GROUP_ROWS = 5000  # rows of parquet that are in memory at once

# What a spreadsheet takes for the start of a formula, in both widths, and our own mark.
_FORMULA = frozenset("=+-@\t\r\n＝＋－＠'")  # noqa: RUF001

# Inside JSON these can only be within a string, so \uXXXX means the same and no terminal obeys it:
# DEL, C1 controls, line separators, marks of direction and halves of surrogates.
_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def export(
    rows: Iterable[Result], file_format: Format, piece_bytes: int = PIECE_BYTES
) -> Iterator[bytes]:
    """The file that holds these rows, in pieces of about `piece_bytes`, as the rows come.

    With `piece_bytes` 1, every row of csv, json and jsonl is a piece of its own.
    """
    encode: dict[Format, Callable[[Iterable[Result]], Iterator[bytes]]] = {
        "csv": _csv,
        "json": _json,
        "jsonl": _jsonl,
        "parquet": _parquet,
    }
    return _pieces(encode[file_format](rows), piece_bytes)


def to_json(value: object, indent: int | None = None) -> str:
    """JSON that is safe to print: what a terminal might obey is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _pieces(parts: Iterable[bytes], piece_bytes: int) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= piece_bytes:
            yield b"".join(held)
            held, size = [], 0
    if size:
        yield b"".join(held)


def _jsonl(rows: Iterable[Result]) -> Iterator[bytes]:
    for row in rows:
        yield f"{to_json(row.to_dict())}\n".encode()


def _json(rows: Iterable[Result]) -> Iterator[bytes]:
    opening = "[\n"
    for row in rows:
        yield f"{opening}{to_json(row.to_dict())}".encode()
        opening = ",\n"
    yield b"[]\n" if opening == "[\n" else b"\n]\n"


def _csv(rows: Iterable[Result]) -> Iterator[bytes]:
    line = io.StringIO()
    writer = csv.writer(line)  # RFC 4180: lines end in CRLF
    writer.writerow(_COLUMNS)
    yield line.getvalue().encode()
    for row in rows:
        line.seek(0)
        line.truncate()
        writer.writerow([_cell(value) for value in _flat(row).values()])
        yield line.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: object) -> object:
    if isinstance(value, str):  # most are
        return f"'{value}" if value[:1] in _FORMULA else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return to_json(value)
    return value


def _flat(row: Result) -> dict[str, Any]:
    """The columns of one row, as `to_dict` has them."""
    whole = row.to_dict()
    error = whole.pop("error") or {"code": None, "detail": None}
    model = whole.pop("model")
    whole |= {"error_code": error["code"], "error_detail": error["detail"]}
    whole |= {"model_name": model["name"], "model_version": model["version"]}
    return {name: whole[name] for name in _COLUMNS}


def _parquet(rows: Iterable[Result]) -> Iterator[bytes]:
    import pyarrow as pa  # noqa: PLC0415 - large, and nobody else needs it
    from pyarrow import parquet  # noqa: PLC0415

    schema = pa.schema([(name, _arrow_type(pa, name)) for name in _COLUMNS])
    sink = _Sink()
    remaining = iter(rows)
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        while group := list(islice(remaining, _GROUP_ROWS)):
            table = pa.Table.from_pylist([_typed(row) for row in group], schema=schema)
            writer.write_table(table)
            yield sink.taken()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """What parquet writes to: bytes wait here until they are taken."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting = bytearray()
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - any kind of buffer
        self._waiting += data
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def taken(self) -> bytes:
        data = bytes(self._waiting)
        self._waiting.clear()
        return data


def _arrow_type(pa: Any, name: str) -> Any:  # noqa: ANN401 - pyarrow ships no types
    if name == "scores":
        return pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())]))
    kinds = {
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        datetime: pa.timestamp("us", tz="UTC"),
    }
    return kinds.get(_COLUMNS[name], pa.string())


def _typed(row: Result) -> dict[str, Any]:
    """The columns of one row as Arrow takes them."""
    flat = _flat(row)
    for name, value in flat.items():
        if isinstance(value, str):
            flat[name] = _whole(value)
        elif isinstance(value, list):
            flat[name] = [{**item, "label": _whole(item["label"])} for item in value]
    return {
        **flat,
        "reviewed_at": row.reviewed_at,
        "received_at": row.received_at,
        "classified_at": row.classified_at,
    }


def _whole(text: str) -> str:
    """Halves of surrogates spelled out: no encoder takes them."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


_COLUMNS: dict[str, type] = {
    "id": str,
    "filename": str,
    "source": str,
    "status": str,
    "label": str,
    "confidence": float,
    "needs_review": bool,
    "corrected_label": str,
    "reviewed_at": datetime,
    "error_code": str,
    "error_detail": str,
    "sha256": str,
    "bytes": int,
    "width": int,
    "height": int,
    "format": str,
    "path": str,
    "duplicate_of": str,
    "model_name": str,
    "model_version": str,
    "received_at": datetime,
    "classified_at": datetime,
    "latency_ms": float,
    "scores": list,
}
