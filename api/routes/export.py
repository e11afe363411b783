"""GET /v1/results/export: all results that match, as one file, streamed."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import StreamingResponse

from api.access import v1_router
from api.parts import Given
from api.problems import responses
from api.schemas import ExportQuery
from storage.export import MEDIA_TYPES, export

router = v1_router("results")

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_TYPES = {name.partition(";")[0]: _BINARY for name in MEDIA_TYPES.values()}


@router.get(
    "/results/export",
    summary="Take results along as a file",
    response_class=StreamingResponse,
    responses={
        **responses("unauthorized", "scope_missing", "bad_parameter", "database_unavailable"),
        200: {"description": "The file", "content": _TYPES},
    },
)
def export_results(query: Annotated[ExportQuery, Query()], parts: Given) -> StreamingResponse:
    """Every result that matches, as CSV, JSON lines or Parquet.

    However many there are, they are never in memory together, and the database is not held up. In
    CSV, text that a spreadsheet would take for a formula has an apostrophe in front.
    """
    rows = parts.store.stream(query.filter(), order=query.order)
    pieces: Iterator[bytes] = export(rows, query.format)
    first = next(pieces, b"")  # a database that does not answer is a problem, not half a file
    name = f"results-{datetime.now(UTC):%Y%m%d-%H%M%S}.{query.format}"
    return StreamingResponse(
        chain([first], pieces),
        media_type=MEDIA_TYPES[query.format],
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "private, no-store",
        },
    )
