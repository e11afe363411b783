"""POST /v1/predict and /v1/predict/batch: images in, answers out."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from fastapi import Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from api import predictions, problems
from api.access import v1_router
from api.conditional import ETAG, etag_of
from api.parts import Given, Parts
from api.predictions import Answer
from api.problems import CATALOG, ProblemError, responses
from api.recorder import Upload
from api.schemas import Batch, PredictQuery
from api.schemas import Result as ResultSchema
from api.uploads import Sent, SentTogether
from storage import repeats

router = v1_router("predict")

_HEADERS = {
    "X-Model-Version": {"description": "the model that answered", "schema": {"type": "string"}}
}
_LOCATION = {"Location": {"description": "the address of the result", "schema": {"type": "string"}}}
_STOPPED_BY = (
    "body_too_large", "not_multipart", "bad_parameter", "bad_multipart", "bad_digest",
    "idempotency_key_reused", "request_in_progress", "busy", "cannot_store",
    "model_failed", "database_unavailable", "unauthorized", "scope_missing",
)  # fmt: skip
_REFUSED_FOR = (
    "unsupported_format", "empty_file", "unreadable_image", "too_many_pixels", "too_large",
)  # fmt: skip
_FORM = {"schema": {"$ref": "#/components/schemas/Upload"}}
_FORM_OF_MANY = {"schema": {"$ref": "#/components/schemas/Uploads"}}
_IMAGE = {"schema": {"type": "string", "format": "binary"}}


class _Shown(NamedTuple):
    """An answer as the client gets it."""

    body: dict[str, Any]
    status: int
    headers: dict[str, str]


RepeatKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="a word of your own: the same request with the same word gets the same answer",
    ),
    Field(min_length=1, max_length=255),
]


@router.post(
    "/predict",
    summary="Classify one image",
    status_code=201,
    response_model=ResultSchema,
    response_description="Classified and stored",
    responses={
        **responses(*_REFUSED_FOR, *_STOPPED_BY),
        200: {
            "description": "Classified, and not stored (`store=false`)",
            "model": ResultSchema,
            "headers": _HEADERS,
        },
        201: {"headers": _HEADERS | _LOCATION | ETAG},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": _FORM, "image/*": _IMAGE},
        }
    },
)
async def predict(
    query: Annotated[PredictQuery, Query()],
    request: Request,
    parts: Given,
    upload: Sent,
    key: RepeatKey = None,
) -> JSONResponse:
    """Classify one image, and keep it with a record of the answer.

    With `store=false` neither is kept. Bytes that this model has seen before cost no second
    inference; `duplicate_of` then names the first result for them.
    """

    def shown(answers: Sequence[Answer]) -> _Shown:
        (answer,) = answers
        if isinstance(answer, ProblemError):
            raise answer
        headers = {"X-Model-Version": answer.model.version}
        if not query.store:
            return _Shown(answer.to_dict(), 200, headers)
        headers |= {"Location": f"/v1/results/{answer.id}", "ETag": etag_of(answer)}
        return _Shown(answer.to_dict(), 201, headers)

    return await _once(request, parts, [upload], key, shown, store=query.store)


@router.post(
    "/predict/batch",
    summary="Classify several images",
    status_code=207,
    response_model=Batch,
    response_description="What became of each",
    responses=responses(*_STOPPED_BY),
    openapi_extra={
        "requestBody": {"required": True, "content": {"multipart/form-data": _FORM_OF_MANY}}
    },
)
async def predict_batch(
    query: Annotated[PredictQuery, Query()],
    request: Request,
    parts: Given,
    uploads: SentTogether,
    key: RepeatKey = None,
) -> JSONResponse:
    """Classify up to 32 images of one form, all under the name `file`.

    Each has an outcome of its own, as if it had been sent alone. Together they may weigh as much
    as one upload.
    """

    def shown(answers: Sequence[Answer]) -> _Shown:
        items = [
            _item(request, upload, answer, is_stored=query.store)
            for upload, answer in zip(uploads, answers, strict=True)
        ]
        return _Shown({"items": items}, 207, {})

    return await _once(request, parts, uploads, key, shown, store=query.store)


def _item(request: Request, upload: Upload, answer: Answer, *, is_stored: bool) -> dict[str, Any]:
    if isinstance(answer, ProblemError):
        return {
            "filename": upload.filename,
            "status": CATALOG[answer.code].status,
            "result": None,
            "problem": problems.body(request.url.path, answer.code, answer.detail),
        }
    return {
        "filename": upload.filename,
        "status": 201 if is_stored else 200,
        "result": answer.to_dict(),
        "problem": None,
    }


async def _once(
    request: Request,
    parts: Parts,
    uploads: Sequence[Upload],
    key: str | None,
    shown: Callable[[Sequence[Answer]], _Shown],
    *,
    store: bool,
) -> JSONResponse:
    """The answer, or the one that the same request with the same key got before."""
    if key is None:
        return JSONResponse(*shown(await predictions.predict(parts, uploads, store=store)))
    database = parts.store.database
    whose = request.headers.get("x-api-key", "")
    key_sha256 = repeats.fingerprint(whose, key)
    contents = [word for upload in uploads for word in (upload.filename, upload.image.sha256)]
    asked = repeats.fingerprint(request.url.path, request.url.query, *contents)
    now = datetime.now(UTC)
    claimed = await run_in_threadpool(repeats.claim, database, key_sha256, asked, now)
    if not isinstance(claimed, repeats.Claim):
        return JSONResponse(*_Shown(**claimed))

    def keep(connection: Connection, answers: list[Answer]) -> None:
        repeats.finish(connection, claimed, shown(answers)._asdict())

    try:
        answers = await predictions.predict(parts, uploads, store=store, keep=keep)
    except BaseException:
        await run_in_threadpool(repeats.abandon, database, claimed)
        raise
    return JSONResponse(*shown(answers))
