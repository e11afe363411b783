"""Every error as RFC 9457 problem details: one catalogue, one shape, one place that makes them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.parts import parts_of
from core.errors import ModelError, PigeonholeError

log = structlog.get_logger("api")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


class Kind(NamedTuple):
    """What a code means; docs/rest.md shows this table."""

    status: int
    title: str
    remedy: str


CATALOG = {
    "unauthorized": Kind(
        401, "No valid API key", "Send PIGEONHOLE_API_KEY, or a key that was made, as X-API-Key."
    ),
    "scope_missing": Kind(
        403, "This key is not for that", "Use one that was made with the scope `detail` names."
    ),
    "cross_origin": Kind(
        403, "Not from another page", "Send it from a page of this server, or from a program."
    ),
    "not_found": Kind(404, "No such address", "See /docs for the addresses that there are."),
    "result_not_found": Kind(404, "No such result", "Ask GET /v1/results for the ids."),
    "image_not_found": Kind(
        404, "No image any more", "It was not kept, or was moved or deleted since; the row stays."
    ),
    "no_thumbnail": Kind(404, "No small picture of this", "Ask for ?size=full, the file itself."),
    "model_not_found": Kind(
        404, "This model does not serve", "`detail` and GET /v1/model name the one that does."
    ),
    "method_not_allowed": Kind(
        405, "Not with this method", "The header Allow names the methods of this address."
    ),
    "not_classified": Kind(
        409, "Nothing to correct", "Only results with a label can be corrected."
    ),
    "cannot_retry": Kind(
        409, "Not to be tried again", "Only a file that lies in quarantine can be tried again."
    ),
    "request_in_progress": Kind(
        409, "Not done yet", "Wait as long as Retry-After says; send the request again."
    ),
    "precondition_failed": Kind(
        412, "Somebody was faster", "Read the result again; send its ETag as If-Match."
    ),
    "precondition_required": Kind(
        428, "No version is named", "Send the ETag of the result as If-Match."
    ),
    "unknown_host": Kind(
        421, "Not under this name", "Ask by localhost, or add the name to PIGEONHOLE_ALLOWED_HOSTS."
    ),
    "body_too_large": Kind(
        413, "Too many bytes", "Send a smaller image, or raise PIGEONHOLE_MAX_BODY_BYTES."
    ),
    "not_multipart": Kind(
        415,
        "Neither an image nor a form",
        "Send image/*, or multipart/form-data with a part `file`.",
    ),
    "not_json": Kind(415, "Not JSON", "Send application/json."),
    "range_not_satisfiable": Kind(
        416, "Nothing in this range", "Content-Range says how many bytes there are."
    ),
    "unsupported_format": Kind(
        415, "Not an image that we can read", "Convert the file to JPEG or PNG."
    ),
    "bad_parameter": Kind(
        422, "A parameter cannot be used", "`errors` names each parameter and what it may be."
    ),
    "bad_cursor": Kind(422, "Not one of our cursors", "Start again without `cursor`."),
    "bad_multipart": Kind(
        422, "The form is damaged", "Let an HTTP library build it, and send one file."
    ),
    "idempotency_key_reused": Kind(
        422, "Another request had this key", "Take a new Idempotency-Key for every new request."
    ),
    "empty_file": Kind(422, "The file is empty", "Send the file again."),
    "unreadable_image": Kind(
        422, "The image cannot be read", "Copy it again from its source, or convert it."
    ),
    "too_many_pixels": Kind(
        422, "Too many pixels", "Scale the image down, or raise PIGEONHOLE_MAX_PIXELS."
    ),
    "too_large": Kind(422, "The image needs too much memory", "Scale the image down."),
    "not_ready": Kind(503, "Not ready", "GET /readyz says why."),
    "busy": Kind(503, "Too much to do just now", "Wait as long as Retry-After says; ask again."),
    "model_failed": Kind(
        503,
        "The model broke down",
        "The log says why. `pigeonhole models rollback` takes the model of before.",
    ),
    "database_unavailable": Kind(
        503, "The database does not answer", "Wait as long as Retry-After says; ask again."
    ),
    "cannot_store": Kind(
        507, "The image cannot be kept", "Make room below PIGEONHOLE_HOME, or give access to it."
    ),
    "internal_error": Kind(
        500, "A fault of ours", "The log of the API says more; please report it."
    ),
    "bad_digest": Kind(
        400, "Not what was sent", "Send it again; Content-Digest is the hash of the whole body."
    ),
    "bad_tensor": Kind(400, "The tensors cannot be used", "GET /v2/models/NAME says how they are."),
    "bad_request": Kind(400, "The request cannot be used", "`detail` says what is wrong with it."),
}

_OF_STATUS = {
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    416: "range_not_satisfiable",
    422: "bad_parameter",
    503: "busy",
}


class ProblemError(Exception):
    """Raised anywhere below a route: becomes the answer."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers


def answer(
    path: str,
    code: str,
    detail: str = "",
    *,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The response for one problem; `path` is what was asked for."""
    content = body(path, code, detail)
    if errors:
        content["errors"] = list(errors)
    status = CATALOG[code].status
    return JSONResponse(content, status, _headers(code, headers), MEDIA_TYPE)


def code_of(status: int) -> str:
    """The code for an error that only has a status."""
    return _OF_STATUS.get(status, "bad_request" if status < 500 else "internal_error")


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of the problems that a route may answer with."""
    of_status: dict[int, list[str]] = {}
    for code in (*codes, "internal_error"):
        of_status.setdefault(CATALOG[code].status, []).append(code)
    return {status: _documented(of_one) for status, of_one in of_status.items()}


def _documented(codes: Sequence[str]) -> dict[str, Any]:
    examples = {
        code: {"summary": CATALOG[code].title, "value": body("/v1/predict", code)} for code in codes
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": "; ".join(CATALOG[code].title for code in codes),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }


def install(app: FastAPI) -> None:
    """Let every exception that we know become a problem; `middleware.LastResort` has the rest."""
    for known in (
        ProblemError,
        PigeonholeError,
        HTTPException,
        RequestValidationError,
        OperationalError,
        ClientDisconnect,
    ):
        app.add_exception_handler(known, _handled)


async def _handled(request: Request, error: Exception) -> JSONResponse:
    problem = _translated(error)
    if problem.code == "method_not_allowed":
        problem.headers = {"Allow": ", ".join(_methods(request))}
    if CATALOG[problem.code].status >= 500:
        log.warning(problem.code, error=str(error), path=request.scope["path"])
        parts_of(request).metrics.error(problem.code)
    return answer(
        request.scope["path"],
        problem.code,
        problem.detail,
        errors=problem.errors,
        headers=problem.headers,
    )


def _methods(request: Request) -> list[str]:
    """What this address may be asked with: Starlette knows only its first route."""
    routes = [
        route
        for route in iter_route_contexts(request.app.routes)
        if route.methods and route.path_regex.match(request.scope["path"])
    ]
    same = [route.methods or () for route in routes if route.path == routes[0].path]
    return sorted(set().union(*same))


def _translated(error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            problem = error
        case ModelError():
            log.error("model_failed", reason=str(error))
            problem = ProblemError("model_failed")
        case PigeonholeError() if error.code in CATALOG:
            problem = ProblemError(error.code, str(error))
        case HTTPException():
            problem = ProblemError(code_of(error.status_code), headers=error.headers)
        case RequestValidationError():
            problem = _invalid(error)
        case OperationalError():
            problem = ProblemError("database_unavailable")
        case ClientDisconnect():
            problem = ProblemError("bad_request", "The client went away before it had said all.")
        case _:
            problem = ProblemError("internal_error")
    return problem


def _invalid(error: RequestValidationError) -> ProblemError:
    errors = [_named(item) for item in error.errors()]
    detail = "; ".join(f"{next(iter(item.values()))}: {item['detail']}" for item in errors)
    return ProblemError("bad_parameter", detail, errors=errors)


def _named(item: Mapping[str, Any]) -> dict[str, str]:
    """One of pydantic's complaints, with the name that the client used."""
    where, *names = item["loc"]
    kind = "field" if where == "body" else "parameter"
    name = ".".join(str(part) for part in names)
    if item["type"] == "extra_forbidden":
        return {kind: name, "detail": "there is no such parameter (misspelt?)"}
    return {kind: name, "detail": str(item["msg"]).removeprefix("Value error, ")}


def body(path: str, code: str, detail: str = "") -> dict[str, Any]:
    """A problem as its JSON has it."""
    kind = CATALOG[code]
    members = {
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail or kind.remedy,
        "instance": quote(path),
        "code": code,
    }
    # The Open Inference Protocol has a word of its own for it, and RFC 9457 allows more members.
    return {**members, "error": members["detail"]} if path.startswith("/v2") else members


def _headers(code: str, headers: Mapping[str, str] | None) -> dict[str, str]:
    wait = (
        {"Retry-After": str(RETRY_AFTER_S)}
        if CATALOG[code].status == 503 or code == "request_in_progress"
        else {}
    )
    return {**wait, **(headers or {})}
