"""GET /v1/results, GET and PATCH /v1/results/{id}: what became of the images, and what is right."""

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Depends, Path, Query, Request, Response
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool

from api import cursors
from api.access import v1_router
from api.bodies import json_body, json_request
from api.conditional import (
    ETAG,
    IF_MATCH,
    NOT_MODIFIED,
    etag_of,
    is_matched,
    json_answer,
    required_match,
)
from api.parts import Given, Parts
from api.problems import ProblemError, responses
from api.schemas import Result, ResultPage, ResultQuery, Review
from storage import reviews
from storage.results import Result as StoredResult

router = v1_router("results")

_REVIEW = TypeAdapter(Review)


async def _canonical(
    identifier: Annotated[
        str, Path(alias="id", description="a UUID", json_schema_extra={"format": "uuid"})
    ],
) -> str:
    """The id as we write it; what can be no id, the database need not see."""
    if identifier == "export":  # an address of its own, which answers GET alone
        raise ProblemError("method_not_allowed")
    try:
        return str(UUID(identifier))
    except ValueError:
        raise ProblemError("result_not_found") from None


ResultId = Annotated[str, Depends(_canonical)]


@router.get(
    "/results",
    summary="List results",
    response_model=ResultPage,
    responses={
        **responses(
            "unauthorized", "scope_missing", "bad_parameter", "bad_cursor", "database_unavailable"
        ),
        **NOT_MODIFIED,
        200: {
            "headers": {
                **ETAG,
                "Link": {
                    "description": 'the next page, as `<...>; rel="next"`',
                    "schema": {"type": "string"},
                },
            }
        },
    },
)
def list_results(
    query: Annotated[ResultQuery, Query()], request: Request, parts: Given
) -> Response:
    """A page of results.

    Pages follow the order in which results were recorded, so none is skipped or shown twice while
    new ones arrive. The cursor holds no filters: give the same ones again, or follow `Link`.
    """
    page = parts.store.page(
        query.filter(),
        order=query.order,
        limit=query.limit,
        cursor=cursors.verify(query.cursor, parts.cursor_secret) if query.cursor else None,
    )
    headers = {}
    cursor = cursors.sign(page.next_cursor, parts.cursor_secret) if page.next_cursor else None
    if cursor:
        again = urlencode({**request.query_params, "cursor": cursor})
        headers["Link"] = f'</v1/results?{again}>; rel="next"'
    content = {"items": [item.to_dict() for item in page.items], "next_cursor": cursor}
    return json_answer(request, content, headers=headers)


@router.get(
    "/results/{id}",
    summary="One result",
    response_model=Result,
    responses={
        **responses("unauthorized", "scope_missing", "result_not_found", "database_unavailable"),
        **NOT_MODIFIED,
        200: {"headers": ETAG},
    },
)
def get_result(identifier: ResultId, request: Request, parts: Given) -> Response:
    """What became of one image."""
    result = parts.store.result(identifier)
    if result is None:
        raise ProblemError("result_not_found")
    return json_answer(request, result.to_dict(), etag=etag_of(result))


@router.patch(
    "/results/{id}",
    summary="Confirm or correct a result",
    response_model=Result,
    responses={
        **responses(
            "unauthorized",
            "cross_origin",
            "scope_missing",
            "bad_parameter",
            "result_not_found",
            "not_classified",
            "precondition_failed",
            "precondition_required",
            "not_json",
            "body_too_large",
            "database_unavailable",
        ),
        200: {"headers": ETAG},
    },
    openapi_extra={**json_request("Review"), "parameters": [IF_MATCH]},
)
async def patch_result(
    identifier: ResultId,
    request: Request,
    parts: Given,
) -> Response:
    """Say what a person has seen: `{"corrected_label": "cat"}` or `{"reviewed": true}`.

    Either sets `reviewed_at`, and the result needs review no more. `{"corrected_label": null}` or
    `{"reviewed": false}` takes back what was said. The label need not be one of the model's: new
    classes begin so. The filed image stays where it is.
    """
    wanted = required_match(request)
    said = await json_body(request, _REVIEW)
    result = await run_in_threadpool(_review, parts, identifier, said.root.meaning(), wanted)
    return json_answer(request, result.to_dict(), etag=etag_of(result))


def _review(parts: Parts, identifier: str, said: reviews.Review, wanted: str) -> StoredResult:
    settings = parts.settings
    result = reviews.review(
        parts.store.database,
        identifier,
        said,
        is_expected=lambda seen: is_matched(wanted, etag_of(seen)),
        doubt=reviews.Doubt(settings.min_confidence, settings.audit_share),
        now=datetime.now(UTC),
    )
    if result is None:
        raise ProblemError("result_not_found")
    return result
