"""Uploads to results: look up, classify, keep, record. One answer per upload, in order."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from api.parts import Parts
from api.problems import ProblemError
from api.recorder import Received
from api.uploads import Upload
from core.engine import Engine
from core.ids import uuid7
from core.types import Failure, ImageRef, Outcome, Prediction
from storage import uploads as kept_uploads
from storage.results import Result
from storage.store import Finished

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
    images, known = await run_in_threadpool(_look_up, parts, uploads)
    futures = _submit(parts.engine, images, uploads, known)
    received: list[Path] = []
    try:
        if store:
            received = await run_in_threadpool(_receive, parts, uploads)
        fresh = {name: await asyncio.wrap_future(future) for name, future in futures.items()}
    except BaseException:
        for future in futures.values():
            future.cancel()
        _discard(received)
        raise
    outcomes: dict[str, Outcome] = {**known, **fresh}
    now_s = time.monotonic()
    finished = [
        Finished(
            image, outcomes[image.sha256], upload.received_at, (now_s - upload.started_s) * 1e3
        )
        for image, upload in zip(images, uploads, strict=True)
    ]
    if store:
        answers = await _record(parts, uploads, finished, received, keep)
    else:
        unstored = [_unstored(item, parts.settings.min_confidence) for item in finished]
        answers = _answers(uploads, finished, unstored)
    for item, upload in zip(finished, uploads, strict=True):
        parts.metrics.finished(item.outcome, "upload", time.monotonic() - upload.started_s)
    has_rows = store and any(isinstance(answer, Result) for answer in answers)
    if keep and not has_rows:
        await run_in_threadpool(_keep, parts, keep, answers)
    return answers


def sha256(upload: Upload) -> str:
    """The name of these bytes."""
    return hashlib.sha256(upload.data).hexdigest()


def _look_up(
    parts: Parts, uploads: Sequence[Upload]
) -> tuple[list[ImageRef], dict[str, Prediction]]:
    images = [ImageRef(sha256(upload), upload.filename, len(upload.data)) for upload in uploads]
    return images, parts.store.known([image.sha256 for image in images], parts.bundle.ref)


def _submit(
    engine: Engine,
    images: Sequence[ImageRef],
    uploads: Sequence[Upload],
    known: Mapping[str, Prediction],
) -> dict[str, Future[Outcome]]:
    """Queue what nobody has seen yet, each content once; all of it or nothing."""
    futures: dict[str, Future[Outcome]] = {}
    try:
        for image, upload in zip(images, uploads, strict=True):
            if image.sha256 not in known and image.sha256 not in futures:
                futures[image.sha256] = engine.submit(upload.data)
    except BaseException:
        for future in futures.values():
            future.cancel()
        raise
    return futures


# --- on a thread: files and rows -----------------------------------------------------------------


def _receive(parts: Parts, uploads: Sequence[Upload]) -> list[Path]:
    received: list[Path] = []
    try:
        for upload in uploads:
            received += [kept_uploads.receive(parts.settings.home, upload.data)]
    except BaseException:
        _discard(received)
        raise
    return received


def _discard(received: Sequence[Path]) -> None:
    for part in received:
        part.unlink(missing_ok=True)


async def _record(
    parts: Parts,
    uploads: Sequence[Upload],
    finished: Sequence[Finished],
    received: Sequence[Path],
    keep: Keep | None,
) -> list[Answer]:
    """Each file and the row that names it; what has no label is not kept."""
    good: list[Received] = []
    for item, part in zip(finished, received, strict=True):
        if isinstance(item.outcome, Prediction):
            good.append(Received(item, part, item.outcome.image.format))
        else:
            part.unlink(missing_ok=True)

    def answers(rows: list[Result]) -> list[Answer]:
        remaining = iter(rows)
        return _answers(
            uploads,
            finished,
            [
                next(remaining) if isinstance(each.outcome, Prediction) else None
                for each in finished
            ],
        )

    def within(connection: Connection, rows: list[Result]) -> None:
        if keep:
            keep(connection, answers(rows))

    recorded = await asyncio.wrap_future(parts.recorder.record(good, within))
    return answers(recorded)


def _keep(parts: Parts, keep: Keep, answers: list[Answer]) -> None:
    with parts.store.database.write() as connection:
        keep(connection, answers)


# --- answers -------------------------------------------------------------------------------------


def _answers(
    uploads: Sequence[Upload], finished: Sequence[Finished], results: Sequence[Result | None]
) -> list[Answer]:
    return [
        result or _refusal(item.outcome, upload)
        for result, item, upload in zip(results, finished, uploads, strict=True)
    ]


def _refusal(outcome: Outcome, upload: Upload) -> ProblemError:
    """A file that says it is an image is a broken one; anything else is not an image."""
    assert isinstance(outcome, Failure)  # noqa: S101 - every prediction has its result
    if outcome.code == "unsupported_format" and upload.is_called_image:
        return ProblemError("unreadable_image", outcome.detail)
    return ProblemError(outcome.code, outcome.detail)


def _unstored(finished: Finished, min_confidence: float) -> Result | None:
    """The result as the store would have made it, with an id that leads nowhere."""
    outcome = finished.outcome
    if isinstance(outcome, Failure):
        return None
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
