"""GET /livez, /readyz and /metrics: for those who keep this running. No key is asked for."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from api.parts import Given, Parts
from api.problems import responses
from api.schemas import Health
from monitoring.health import Check, examine
from monitoring.metrics import CONTENT_TYPE

router = APIRouter(tags=["operations"])

MIN_FREE_BYTES = 64 * 1024**2


@router.get(
    "/livez",
    summary="Is it alive?",
    response_model=Health,
    response_model_exclude_unset=True,
    responses=responses(),
)
async def get_livez() -> dict[str, Any]:
    """Whether the process answers at all; if not, restart it."""
    return examine({}).to_dict()


@router.get(
    "/readyz",
    summary="Can it work?",
    response_model=Health,
    response_model_exclude_unset=True,
    responses={**responses(), 503: {"description": "Not ready, and why", "model": Health}},
)
def get_readyz(parts: Given, response: Response) -> dict[str, Any]:
    """Whether it can do its work: database, model, disk."""
    report = examine(checks(parts), {"model": parts.follower.complaint})
    response.status_code = report.status
    return report.to_dict()


@router.get(
    "/metrics",
    summary="What is counted",
    response_class=Response,
    responses={
        **responses(),
        200: {
            "description": "Prometheus' text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
    },
)
def get_metrics(parts: Given) -> Response:
    """Everything that is counted."""
    return Response(parts.metrics.exposition(), media_type=CONTENT_TYPE)


def checks(parts: Parts) -> dict[str, Check]:
    """What has to work here, by name."""
    return {
        "database": parts.store.ping,
        "model": lambda: _engine(parts),
        "disk": lambda: _disk(parts.settings.home),
    }


def _engine(parts: Parts) -> None:
    parts.engine.classify([])  # raises when the engine is closed


def _disk(home: Path) -> str | None:
    with tempfile.TemporaryFile(dir=home) as file:
        file.write(b"writable")
    free_bytes = shutil.disk_usage(home).free
    if free_bytes < MIN_FREE_BYTES:
        return f"{home}: {free_bytes} bytes are free. Make room for {MIN_FREE_BYTES}."
    return None
