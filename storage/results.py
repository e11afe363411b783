"""What users ask for: a `Result` per image, filters, pages that stay put while rows arrive."""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Select, select

from core.errors import PigeonholeError
from core.types import InputStatistics, LabelScore, ModelRef
from storage.schema import results

Source = Literal["watcher", "upload", "batch"]
Status = Literal["classified", "quarantined"]
Order = Literal["asc", "desc"]


class CursorError(PigeonholeError):
    """The cursor is not one that we gave out. Start again without it."""

    code = "bad_cursor"


@dataclass(frozen=True, slots=True)
class ResultError:
    """Why an image was not classified."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Result:
    """One row: what became of one image. `path` is relative to PIGEONHOLE_HOME."""

    id: str
    filename: str
    source: Source
    status: Status
    label: str | None
    confidence: float | None
    scores: tuple[LabelScore, ...]
    needs_review: bool
    corrected_label: str | None
    reviewed_at: datetime | None
    error: ResultError | None
    sha256: str
    size_bytes: int
    width_px: int | None
    height_px: int | None
    format: str | None
    path: str | None
    duplicate_of: str | None
    model: ModelRef
    received_at: datetime
    classified_at: datetime
    latency_ms: float

    def to_dict(self) -> dict[str, Any]:
        """The result as REST, the command line and exports write it."""
        return {
            "id": self.id,
            "filename": self.filename,
            "source": self.source,
            "status": self.status,
            "label": self.label,
            "confidence": self.confidence,
            "scores": [{"label": item.label, "score": item.score} for item in self.scores],
            "needs_review": self.needs_review,
            "corrected_label": self.corrected_label,
            "reviewed_at": iso(self.reviewed_at),
            "error": (
                {"code": self.error.code, "detail": self.error.detail} if self.error else None
            ),
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            "width": self.width_px,
            "height": self.height_px,
            "format": self.format,
            "path": self.path,
            "duplicate_of": self.duplicate_of,
            "model": {"name": self.model.name, "version": self.model.version},
            "received_at": iso(self.received_at),
            "classified_at": iso(self.classified_at),
            "latency_ms": self.latency_ms,
        }

    @property
    def revision(self) -> str:
        """Another word whenever anything of this result is another."""
        return hashlib.sha256(json.dumps(self.to_dict()).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ResultFilter:
    """Which rows; every field that is set must hold. `q` is part of the file name, in any case.

    `since` (inclusive) and `until` (exclusive) are about `classified_at`.
    """

    label: str | None = None
    status: Status | None = None
    source: Source | None = None
    model_version: str | None = None
    needs_review: bool | None = None
    min_confidence: float | None = None
    max_confidence: float | None = None
    q: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and the cursor that continues after them (None: there are no more)."""

    items: tuple[Result, ...]
    next_cursor: str | None


def conditions(wanted: ResultFilter) -> Iterator[ColumnElement[bool]]:
    """The WHERE clauses of a filter."""
    equals = {
        results.c.label: wanted.label,
        results.c.status: wanted.status,
        results.c.source: wanted.source,
        results.c.model_version: wanted.model_version,
        results.c.needs_review: wanted.needs_review,
    }
    for column, value in equals.items():
        if value is not None:
            yield column == value
    if wanted.min_confidence is not None:
        yield results.c.confidence >= wanted.min_confidence
    if wanted.max_confidence is not None:
        yield results.c.confidence <= wanted.max_confidence
    if wanted.q is not None:
        yield results.c.filename.icontains(wanted.q, autoescape=True)
    if wanted.since is not None:
        yield results.c.classified_at >= wanted.since
    if wanted.until is not None:
        yield results.c.classified_at < wanted.until


def page_query(wanted: ResultFilter, order: Order, cursor: str | None) -> Select[Any]:
    """All matching rows after the cursor, in the order of their commit."""
    query = select(results).where(*conditions(wanted))
    if cursor is not None:
        seq = decode_cursor(cursor, order)
        query = query.where(results.c.seq > seq if order == "asc" else results.c.seq < seq)
    return query.order_by(results.c.seq.asc() if order == "asc" else results.c.seq.desc())


def encode_cursor(seq: int, order: str) -> str:
    """An opaque word for "after this row, in this order"."""
    return base64.urlsafe_b64encode(f"{order}:{seq}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str, order: Order) -> int:
    """The row that a cursor stands for; raises `CursorError`."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        made_for, seq = base64.urlsafe_b64decode(padded.encode("ascii")).decode("ascii").split(":")
        number = int(seq)
        is_ours = encode_cursor(number, made_for) == cursor and 0 <= number < 2**63
    except (binascii.Error, ValueError):
        is_ours, made_for, number = False, "", 0
    if not is_ours:
        raise CursorError("This cursor is not one of ours. Start again without it.")
    if made_for != order:
        raise CursorError(f"This cursor was not made for order={order}. Start again without it.")
    return number


def from_row(row: Row[Any]) -> Result:
    """One database row as a `Result`."""
    return from_mapping(row._asdict())


def from_mapping(row: Mapping[str, Any]) -> Result:
    """The columns of one row as a `Result`, read or about to be written."""
    return Result(
        id=row["id"],
        filename=row["filename"],
        source=row["source"],
        status=row["status"],
        label=row["label"],
        confidence=row["confidence"],
        scores=tuple(LabelScore(label, score) for label, score in row["scores"]),
        needs_review=row["needs_review"],
        corrected_label=row["corrected_label"],
        reviewed_at=row["reviewed_at"],
        error=ResultError(row["error_code"], row["error_detail"]) if row["error_code"] else None,
        sha256=row["sha256"],
        size_bytes=row["size_bytes"],
        width_px=row["width_px"],
        height_px=row["height_px"],
        format=row["format"],
        path=row["path"],
        duplicate_of=row["duplicate_of"],
        model=ModelRef(row["model_name"], row["model_version"]),
        received_at=row["received_at"],
        classified_at=row["classified_at"],
        latency_ms=row["latency_ms"],
    )


def input_statistics(row: Row[Any]) -> InputStatistics | None:
    """What the image of a row looked like; None where that was not kept."""
    if row.brightness is None:
        return None
    megapixels = row.width_px * row.height_px / 1e6
    return InputStatistics(row.brightness, row.contrast, row.sharpness, megapixels)


def iso(moment: datetime | None) -> str | None:
    """A time as REST, the command line and exports write it."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
