"""GET /v1/model and /v1/labels: who answers, and what it can say."""

from typing import Any

from api.access import v1_router
from api.parts import Given
from api.problems import responses
from api.schemas import Labels, Model

router = v1_router("model")


@router.get(
    "/model", summary="The model", response_model=Model, responses=responses("unauthorized")
)
async def get_model(parts: Given) -> dict[str, Any]:
    """The model that answers now."""
    return parts.bundle.manifest.to_dict()


@router.get(
    "/labels", summary="Its labels", response_model=Labels, responses=responses("unauthorized")
)
async def get_labels(parts: Given) -> dict[str, Any]:
    """The labels that the model knows."""
    bundle = parts.bundle  # once: it may change over at any moment
    ref = bundle.ref
    return {
        "labels": list(bundle.labels),
        "model": {"name": ref.name, "version": ref.version},
    }
