"""ETag, If-None-Match, If-Match (RFC 9110, section 13): who has it already, and who may write."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response

from api.problems import ProblemError
from storage.results import Result

_SOME_TAGS = re.compile(r'^([*]|.*"[^"]*".*)$')
_TAG = re.compile(r'(?:W/)?"[^"]*"')
REVALIDATE = "private, no-cache"

ETAG: dict[str, Any] = {
    "ETag": {"description": "another one when the answer is another", "schema": {"type": "string"}}
}
IF_MATCH: dict[str, Any] = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "the ETag that was read, or `*`",
    "schema": {"type": "string", "pattern": _SOME_TAGS.pattern},
}
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "The one that If-None-Match names is still good"}
}


def etag_of(result: Result) -> str:
    """The strong tag of one result: the same wherever it is shown alone."""
    return f'"{result.revision}"'


def json_answer(
    request: Request, content: object, *, etag: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """200 with this content and its tag, or 304 when the client has it."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    tag = etag or f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"Cache-Control": REVALIDATE, **(headers or {}), "ETag": tag}
    if is_fresh(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def is_fresh(request: Request, etag: str) -> bool:
    """Whether If-None-Match names this tag; there weak and strong are alike."""
    asked = ",".join(request.headers.getlist("if-none-match"))
    if asked.strip() == "*":
        return True
    return etag in (tag.removeprefix("W/") for tag in _TAG.findall(asked))


def is_matched(if_match: str, etag: str) -> bool:
    """Whether If-Match names this tag; a weak one is no match."""
    return if_match.strip() == "*" or etag in _TAG.findall(if_match)


def required_match(request: Request) -> str:
    """What If-Match says; raises when it says nothing."""
    given = ",".join(request.headers.getlist("if-match"))
    if not given.strip():
        raise ProblemError("precondition_required")
    if not _SOME_TAGS.match(given.strip()):
        errors = [{"parameter": "If-Match", "detail": 'must be * or tags such as "0f3a"'}]
        raise ProblemError(
            "bad_parameter", 'If-Match: must be * or tags such as "0f3a".', errors=errors
        )
    return given
