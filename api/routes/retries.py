"""POST /v1/results/{id}/retry: a file in quarantine gets another try."""

from starlette.concurrency import run_in_threadpool

from api.access import v1_router
from api.parts import Given, Parts
from api.problems import ProblemError, responses
from api.routes.results import ResultId
from api.schemas import Retry
from core.names import original, written
from storage.retry import retry

router = v1_router("results")


@router.post(
    "/results/{id}/retry",
    summary="Try a quarantined file again",
    response_model=Retry,
    responses=responses(
        "unauthorized",
        "cross_origin",
        "result_not_found",
        "cannot_retry",
        "cannot_store",
        "database_unavailable",
    ),
)
async def retry_result(identifier: ResultId, parts: Given) -> dict[str, str]:
    """Put the file back into the inbox, where it gets a result of its own.

    This result stays as history; its `path` is null from then on. The same as `pigeonhole retry`.
    """
    return {"path": await run_in_threadpool(_retry, parts, identifier)}


def _retry(parts: Parts, identifier: str) -> str:
    result = parts.store.result(identifier)
    if result is None:
        raise ProblemError("result_not_found")
    if result.status != "quarantined" or result.path is None:
        raise ProblemError("cannot_retry", "This file is not in quarantine (any more).")
    try:
        back = retry(parts.settings, parts.store, parts.settings.home / original(result.path))
    except OSError as error:
        raise ProblemError(
            "cannot_store", f"{error.strerror}; the file stays in quarantine."
        ) from error
    return written(str(back))
