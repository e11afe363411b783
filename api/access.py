"""Who may come in, and how they must ask: the API key, and no parameter said twice."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import APIKeyHeader

from api.parts import Given
from api.problems import ProblemError, responses

_header = APIKeyHeader(
    name="X-API-Key",
    scheme_name="ApiKey",
    auto_error=False,
    description="The value of PIGEONHOLE_API_KEY. Not asked for when that is not set.",
)


async def _key(given: Annotated[str | None, Security(_header)], parts: Given) -> None:
    wanted = parts.settings.api_key
    if not wanted:
        return
    # Header values are bytes, which Starlette reads as Latin-1; the key is text.
    same = secrets.compare_digest(
        (given or "").encode("latin-1"), wanted.get_secret_value().encode()
    )
    if not same:
        raise ProblemError("unauthorized", headers={"WWW-Authenticate": 'ApiKey realm="v1"'})


async def _said_once(request: Request) -> None:
    for name in request.query_params:
        if len(request.query_params.getlist(name)) > 1:
            errors = [{"parameter": name, "detail": "may be given once"}]
            raise ProblemError("bad_parameter", f"{name}: may be given once.", errors=errors)


def v1_router(tag: str) -> APIRouter:
    """A router below /v1; the key is asked for before the body is read."""
    return APIRouter(
        prefix="/v1",
        tags=[tag],
        dependencies=[Depends(_key), Depends(_said_once)],
        responses=responses("unauthorized", "bad_parameter"),
    )
