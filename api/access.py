"""Who may come in, and how they must ask: keys with scopes, and no parameter said twice."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Security
from fastapi.params import Depends as Dependency
from fastapi.security import APIKeyHeader
from starlette.concurrency import run_in_threadpool

from api import session
from api.parts import Given, Parts
from api.problems import ProblemError, responses
from storage.keys import Key, Scope

_header = APIKeyHeader(
    name="X-API-Key",
    scheme_name="ApiKey",
    auto_error=False,
    description="PIGEONHOLE_API_KEY, or a key of `pigeonhole keys add`. Where neither is, none "
    "is asked for on this machine.",
)
_SCOPE_OF_METHOD: dict[str, Scope] = {"GET": "read", "POST": "write", "PATCH": "review"}


async def _key(
    given: Annotated[str | None, Security(_header)], request: Request, parts: Given
) -> None:
    await require(request, parts, given, _SCOPE_OF_METHOD.get(request.method, "admin"))


async def _admin_key(
    given: Annotated[str | None, Security(_header)], request: Request, parts: Given
) -> None:
    await require(request, parts, given, "admin")


async def refuse_other_origins(request: Request) -> None:
    """A browser must not write here for a page of somebody else, signed in or not."""
    if session.is_foreign(request.method, request.headers):
        raise ProblemError("cross_origin")


async def require(request: Request, parts: Parts, given: str | None, scope: Scope) -> Key | None:
    """The key that was given, or signed in with; None where none is asked for.

    Raises `ProblemError`.
    """
    keyring = parts.keyring
    if keyring.is_stale:
        await run_in_threadpool(keyring.refresh)
    if not keyring.is_asked_for:
        return None
    if given is None:
        key = session.key_of(request.cookies, keyring, time.time())
    else:
        # Header values are bytes, which Starlette reads as Latin-1; the key is text.
        key = keyring.find(given.encode("latin-1").decode("utf-8", "surrogateescape"))
    if key is None:
        raise ProblemError("unauthorized", headers={"WWW-Authenticate": 'ApiKey realm="v1"'})
    if not key.may(scope):
        raise ProblemError("scope_missing", f"The key {key.name} has no scope `{scope}`.")
    return key


async def _said_once(request: Request) -> None:
    for name in request.query_params:
        if len(request.query_params.getlist(name)) > 1:
            errors = [{"parameter": name, "detail": "may be given once"}]
            raise ProblemError("bad_parameter", f"{name}: may be given once.", errors=errors)


def guarded(*, is_admin: bool = False) -> list[Dependency]:
    """What every route of data depends on: a key, asked for before the body is read."""
    key = _admin_key if is_admin else _key
    return [Depends(refuse_other_origins), Depends(key), Depends(_said_once)]


def v1_router(tag: str, *, is_admin: bool = False) -> APIRouter:
    """A router below /v1. Scopes: GET read, POST write, PATCH review; or all of it admin."""
    return APIRouter(
        prefix="/v1",
        tags=[tag],
        dependencies=guarded(is_admin=is_admin),
        responses=responses("unauthorized", "scope_missing", "bad_parameter"),
    )
