"""Uploads to results: classify, keep, record. One answer per upload, in order."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from api.parts import Parts
from api.problems import ProblemError
from api.recorder import Recorded, Upload
from core.ids import uuid7
from core.types import Failure, ModelRef, Outcome, Prediction
from storage.results import Result
from storage.store import Store

Answer = Result | ProblemError
Keep = Callable[[Connection, list[Answer]], None]


async def predict(
    parts: Parts, uploads: Sequence[Upload], *, store: bool, keep: Keep | None = None
) -> list[Answer]:
    """Classify all of them together; `store` keeps each image with its row.

    An image that cannot be classified leaves neither, and no other one suffers. `keep` is called
    with the answers in the transaction that commits the rows; if there are none, in one of its own.

    Raises what stops all of them: `EngineBusyError`, `CannotStoreError`, a database that fails,
    what `keep` raises.
    """
    outcomes = _submit(parts, uploads)
    try:
        if store:
            answers, has_rows = await _recorded(parts, uploads, outcomes, keep)
        else:
            answers, has_rows = await _unrecorded(parts, uploads, outcomes), False
    except BaseException:
        for outcome in outcomes:
            outcome.cancel()
        raise
    now_s = time.monotonic()
    for outcome, upload in zip(outcomes, uploads, strict=True):
        parts.metrics.finished(outcome.result(), "upload", now_s - upload.started_s)
    if keep and not has_rows:
        await run_in_threadpool(_keep, parts, keep, answers)
    return answers


def _submit(parts: Parts, uploads: Sequence[Upload]) -> list[Future[Outcome]]:
    """Queue each content once; all of it or nothing."""
    futures: list[Future[Outcome]] = []
    try:
        for upload in uploads:
            same = [number for number in range(len(futures)) if uploads[number].data == upload.data]
            futures.append(futures[same[0]] if same else _ask(parts, upload))
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return futures


def _ask(parts: Parts, upload: Upload) -> Future[Outcome]:
    return parts.engine.submit(upload.data, partial(_recall, parts.store, upload))


def _recall(store: Store, upload: Upload, model: ModelRef) -> Outcome | None:
    """What this model has said of the same bytes before; on a thread of the engine."""
    sha256 = upload.image.sha256
    return store.known([sha256], model).get(sha256)


async def _recorded(
    parts: Parts,
    uploads: Sequence[Upload],
    outcomes: Sequence[Future[Outcome]],
    keep: Keep | None,
) -> tuple[list[Answer], bool]:
    """Each file and the row that names it; and whether there is any."""

    def within(connection: Connection, recorded: list[Recorded]) -> None:
        if keep:
            keep(connection, _answers(uploads, recorded))

    recorded = await asyncio.wrap_future(parts.recorder.record(uploads, outcomes, within))
    return _answers(uploads, recorded), any(isinstance(each, Result) for each in recorded)


async def _unrecorded(
    parts: Parts, uploads: Sequence[Upload], outcomes: Sequence[Future[Outcome]]
) -> list[Answer]:
    given = [await asyncio.wrap_future(outcome) for outcome in outcomes]
    return _answers(
        uploads,
        [
            outcome
            if isinstance(outcome, Failure)
            else _unstored(upload, outcome, parts.settings.min_confidence)
            for outcome, upload in zip(given, uploads, strict=True)
        ],
    )


def _keep(parts: Parts, keep: Keep, answers: list[Answer]) -> None:
    with parts.store.database.write() as connection:
        keep(connection, answers)


# --- answers -------------------------------------------------------------------------------------


def _answers(uploads: Sequence[Upload], recorded: Sequence[Recorded]) -> list[Answer]:
    return [
        _refusal(each, upload) if isinstance(each, Failure) else each
        for each, upload in zip(recorded, uploads, strict=True)
    ]


def _refusal(failure: Failure, upload: Upload) -> ProblemError:
    """A file that says it is an image is a broken one; anything else is not an image."""
    if failure.code == "unsupported_format" and upload.is_called_image:
        return ProblemError("unreadable_image", failure.detail)
    return ProblemError(failure.code, failure.detail)


def _unstored(upload: Upload, prediction: Prediction, min_confidence: float) -> Result:
    """The result as the store would have made it, with an id that leads nowhere."""
    image = upload.image
    return Result(
        id=str(uuid7()),
        filename=image.filename,
        source="upload",
        status="classified",
        label=prediction.label,
        confidence=prediction.confidence,
        scores=prediction.scores,
        needs_review=prediction.confidence < min_confidence,
        corrected_label=None,
        reviewed_at=None,
        error=None,
        sha256=image.sha256,
        size_bytes=image.size_bytes,
        width_px=prediction.image.width_px,
        height_px=prediction.image.height_px,
        format=prediction.image.format,
        path=None,
        duplicate_of=None,
        model=prediction.model,
        received_at=upload.received_at,
        classified_at=datetime.now(UTC),
        latency_ms=round((time.monotonic() - upload.started_s) * 1e3, 3),
    )
