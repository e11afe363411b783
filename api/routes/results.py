"""GET /v1/results and /v1/results/{id}: what became of the images."""

from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Path, Query, Request, Response

from api.access import v1_router
from api.parts import Given
from api.problems import ProblemError, responses
from api.schemas import Result, ResultPage, ResultQuery

router = v1_router("results")


@router.get(
    "/results",
    summary="List results",
    response_model=ResultPage,
    responses={
        **responses("unauthorized", "bad_parameter", "bad_cursor", "database_unavailable"),
        200: {
            "headers": {
                "Link": {
                    "description": 'the next page, as `<...>; rel="next"`',
                    "schema": {"type": "string"},
                }
            }
        },
    },
)
def list_results(
    query: Annotated[ResultQuery, Query()], request: Request, response: Response, parts: Given
) -> dict[str, Any]:
    """A page of results.

    Pages follow the order in which results were recorded, so none is skipped or shown twice while
    new ones arrive. The cursor holds no filters: give the same ones again, or follow `Link`.
    """
    page = parts.store.page(
        query.filter(), order=query.order, limit=query.limit, cursor=query.cursor
    )
    if page.next_cursor:
        again = urlencode({**request.query_params, "cursor": page.next_cursor})
        response.headers["Link"] = f'</v1/results?{again}>; rel="next"'
    return {"items": [item.to_dict() for item in page.items], "next_cursor": page.next_cursor}


@router.get(
    "/results/{id}",
    summary="One result",
    response_model=Result,
    responses=responses("unauthorized", "result_not_found", "database_unavailable"),
)
def get_result(
    identifier: Annotated[
        str, Path(alias="id", description="a UUID", json_schema_extra={"format": "uuid"})
    ],
    parts: Given,
) -> dict[str, Any]:
    """What became of one image."""
    canonical = _canonical(identifier)
    result = parts.store.result(canonical) if canonical else None
    if result is None:
        raise ProblemError("result_not_found")
    return result.to_dict()


def _canonical(identifier: str) -> str | None:
    """The id as we write it; None for what can be no id, which the database need not see."""
    try:
        return str(UUID(identifier))
    except ValueError:
        return None
