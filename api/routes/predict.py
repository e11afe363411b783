"""POST /v1/predict: one image in, one answer out."""

import asyncio
import hashlib
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query, Response
from starlette.concurrency import run_in_threadpool

from api.access import v1_router
from api.parts import Given, Parts
from api.problems import ProblemError, responses
from api.schemas import PredictQuery
from api.schemas import Result as ResultSchema
from api.uploads import Sent, Upload
from core.ids import uuid7
from core.types import Failure, ImageRef, Outcome, Prediction
from storage.results import Result
from storage.store import Finished

router = v1_router("predict")

_HEADERS = {
    "X-Model-Version": {"description": "the model that answered", "schema": {"type": "string"}}
}
_LOCATION = {"Location": {"description": "the address of the result", "schema": {"type": "string"}}}


@router.post(
    "/predict",
    summary="Classify one image",
    status_code=201,
    response_model=ResultSchema,
    response_description="Classified and stored",
    responses={
        **responses(
            "body_too_large",
            "not_multipart",
            "unsupported_format",
            "bad_parameter",
            "bad_multipart",
            "empty_file",
            "unreadable_image",
            "too_many_pixels",
            "too_large",
            "busy",
            "database_unavailable",
            "unauthorized",
        ),
        200: {
            "description": "Classified, and not stored (`store=false`)",
            "model": ResultSchema,
            "headers": _HEADERS,
        },
        201: {"headers": _HEADERS | _LOCATION},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/Upload"}}},
        }
    },
)
async def predict(
    query: Annotated[PredictQuery, Query()], parts: Given, upload: Sent, response: Response
) -> dict[str, Any]:
    """Classify one image, and keep a record of the answer.

    The file itself is not kept. Bytes that this model has seen before cost no second inference;
    `duplicate_of` then names the first result for them.
    """
    image, outcome = await _classify(parts, upload)
    latency_s = time.monotonic() - upload.started_s
    if isinstance(outcome, Failure):
        parts.metrics.finished(outcome, "upload", latency_s)
        raise _refusal(outcome, upload)
    finished = Finished(image, outcome, upload.received_at, latency_s * 1000)
    response.headers["X-Model-Version"] = outcome.model.version
    if query.store:
        result = await run_in_threadpool(_record, parts, finished)
        response.headers["Location"] = f"/v1/results/{result.id}"
    else:
        result = _unstored(finished, outcome, parts.settings.min_confidence)
        response.status_code = 200
    parts.metrics.finished(outcome, "upload", time.monotonic() - upload.started_s)
    return result.to_dict()


async def _classify(parts: Parts, upload: Upload) -> tuple[ImageRef, Outcome]:
    image, known = await run_in_threadpool(_look_up, parts, upload)
    if known is not None:
        return image, known
    return image, await asyncio.wrap_future(parts.engine.submit(upload.data))


def _look_up(parts: Parts, upload: Upload) -> tuple[ImageRef, Prediction | None]:
    sha256 = hashlib.sha256(upload.data).hexdigest()
    image = ImageRef(sha256, upload.filename, len(upload.data))
    return image, parts.store.known([sha256], parts.bundle.ref).get(sha256)


def _record(parts: Parts, finished: Finished) -> Result:
    started = time.perf_counter()
    rows = parts.store.record(
        [finished],
        source="upload",
        model=parts.bundle.ref,
        min_confidence=parts.settings.min_confidence,
        audit_share=parts.settings.audit_share,
        now=datetime.now(UTC),
    )
    parts.metrics.stage("store", time.perf_counter() - started)
    (result,) = filter(None, rows)  # None is for deliveries, and an upload is none
    return result


def _refusal(failure: Failure, upload: Upload) -> ProblemError:
    """A file that says it is an image is a broken one; anything else is not an image."""
    if failure.code == "unsupported_format" and upload.is_called_image:
        return ProblemError("unreadable_image", failure.detail)
    return ProblemError(failure.code, failure.detail)


def _unstored(finished: Finished, outcome: Prediction, min_confidence: float) -> Result:
    """The result as the store would have made it, with an id that leads nowhere."""
    return Result(
        id=str(uuid7()),
        filename=finished.image.filename,
        source="upload",
        status="classified",
        label=outcome.label,
        confidence=outcome.confidence,
        scores=outcome.scores,
        needs_review=outcome.confidence < min_confidence,
        corrected_label=None,
        reviewed_at=None,
        error=None,
        sha256=finished.image.sha256,
        size_bytes=finished.image.size_bytes,
        width_px=outcome.image.width_px,
        height_px=outcome.image.height_px,
        format=outcome.image.format,
        path=None,
        duplicate_of=None,
        model=outcome.model,
        received_at=finished.received_at,
        classified_at=datetime.now(UTC),
        latency_ms=round(finished.latency_ms, 3),
    )
