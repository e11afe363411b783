"""GET /v1/model and /v1/labels: who answers, and what it can say."""

from fastapi import Request, Response

from api.access import v1_router
from api.conditional import ETAG, NOT_MODIFIED, json_answer
from api.parts import Given
from api.problems import responses
from api.schemas import Labels, Model

router = v1_router("model")

_RESPONSES = {**responses("unauthorized", "scope_missing"), **NOT_MODIFIED, 200: {"headers": ETAG}}


@router.get("/model", summary="The model", response_model=Model, responses=_RESPONSES)
async def get_model(request: Request, parts: Given) -> Response:
    """The model that answers now."""
    return json_answer(request, parts.bundle.manifest.to_dict())


@router.get("/labels", summary="Its labels", response_model=Labels, responses=_RESPONSES)
async def get_labels(request: Request, parts: Given) -> Response:
    """The labels that the model knows."""
    bundle = parts.bundle  # once: it may change over at any moment
    model = {"name": bundle.ref.name, "version": bundle.ref.version}
    return json_answer(request, {"labels": list(bundle.labels), "model": model})
