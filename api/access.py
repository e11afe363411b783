"""Who may come in, and how they must ask: keys with scopes, and no parameter said twice."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Security
from fastapi.params import Depends as Dependency
from fastapi.security import APIKeyHeader
from starlette.concurrency import run_in_threadpool

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
    await require(parts, given, _SCOPE_OF_METHOD.get(request.method, "admin"))


async def _admin_key(given: Annotated[str | None, Security(_header)], parts: Given) -> None:
    await require(parts, given, "admin")


async def require(parts: Parts, given: str | None, scope: Scope) -> Key | None:
    """The key that was given; None where none is asked for. Raises `ProblemError`."""
    keyring = parts.keyring
    if keyring.is_stale:
        await run_in_threadpool(keyring.refresh)
    if not keyring.is_asked_for:
        return None
    # Header values are bytes, which Starlette reads as Latin-1; the key is text.
    key = keyring.find((given or "").encode("latin-1").decode("utf-8", "surrogateescape"))
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
    return [Depends(_admin_key if is_admin else _key), Depends(_said_once)]


def v1_router(tag: str, *, is_admin: bool = False) -> APIRouter:
    """A router below /v1. Scopes: GET read, POST write, PATCH review; or all of it admin."""
    return APIRouter(
        prefix="/v1",
        tags=[tag],
        dependencies=guarded(is_admin=is_admin),
        responses=responses("unauthorized", "scope_missing", "bad_parameter"),
    )
