"""Who may come in, and how they must ask: the API key, and no parameter said twice."""

import secrets
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import APIKeyHeader

from api import session
from api.parts import Given, Parts
from api.problems import ProblemError, responses

_header = APIKeyHeader(
    name="X-API-Key",
    scheme_name="ApiKey",
    auto_error=False,
    description="The value of PIGEONHOLE_API_KEY. Not asked for when that is not set.",
)


def is_admitted(request: Request, parts: Parts, given: str | None = None) -> bool:
    """Whether the key is right, or the cookie of somebody who had the right key."""
    if not parts.settings.api_key:
        return True
    wanted = parts.settings.api_key.get_secret_value()
    if given is not None:
        # Header values are bytes, which Starlette reads as Latin-1; the key is text.
        return secrets.compare_digest(given.encode("latin-1"), wanted.encode())
    return session.is_sealed(request.cookies.get(session.COOKIE, ""), wanted, time.time())


async def refuse_other_origins(request: Request) -> None:
    """A browser must not write here for a page of somebody else, signed in or not."""
    if session.is_foreign(request.method, request.headers):
        raise ProblemError("cross_origin")


async def _key(
    request: Request, given: Annotated[str | None, Security(_header)], parts: Given
) -> None:
    if not is_admitted(request, parts, given):
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
        dependencies=[Depends(refuse_other_origins), Depends(_key), Depends(_said_once)],
        responses=responses("unauthorized", "bad_parameter"),
    )
