"""GET /v1/events: one server-sent event per result, as it is committed."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.exc import OperationalError

from api.access import v1_router
from api.parts import Given
from api.problems import responses
from storage.export import to_json

router = v1_router("results")

RECONNECT_MS = 1000


async def _seat(parts: Given) -> AsyncIterator[None]:
    async with parts.events.seat():
        yield


async def _start(
    parts: Given,
    after: Annotated[
        int | None,
        Query(ge=0, lt=2**63, description="as Last-Event-ID, for those who cannot set a header"),
    ] = None,
    last_event_id: Annotated[
        int | None,
        Header(
            alias="Last-Event-ID",
            ge=0,
            lt=2**63,
            description="the `id` of the last event that was seen: go on after it",
        ),
    ] = None,
) -> int:
    return await parts.events.start(after if last_event_id is None else last_event_id)


@router.get(
    "/events",
    summary="Follow results",
    response_class=EventSourceResponse,
    response_description="One event `result` for each result, with the result as its data",
    responses=responses(
        "unauthorized", "scope_missing", "bad_parameter", "busy", "database_unavailable"
    ),
    dependencies=[Depends(_seat)],
)
async def follow_results(
    request: Request, parts: Given, start: Annotated[int, Depends(_start)]
) -> AsyncIterator[ServerSentEvent]:
    """Every result from now on, as server-sent events; the stream does not end by itself.

    After a break, `Last-Event-ID` resumes it: no result is left out and none comes twice. Without
    it the stream begins with the next result. A comment every 15 seconds keeps the line open.
    """
    yield ServerSentEvent(comment="results follow", retry=RECONNECT_MS)
    if request.scope.get("is_head"):
        return
    try:
        async for entry in parts.events.entries(start):
            data = to_json(entry.result.to_dict())
            yield ServerSentEvent(raw_data=data, event="result", id=str(entry.seq))
    except OperationalError:
        return  # the client comes again, and is told then what is wrong
