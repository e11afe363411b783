"""Open Inference Protocol v2 (KServe, Triton): the model for clients that speak it already."""

from collections.abc import Sequence
from typing import Annotated, Any

import anyio
import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray

from api import tensors
from api.access import guarded
from api.bodies import json_request
from api.parts import Given, Parts
from api.problems import ProblemError, responses
from api.routes.health import checks
from api.schemas import (
    InferOutput,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from api.tensors import Output
from core.bundle import Bundle
from core.errors import ImageError
from core.image import preprocess
from monitoring.health import examine

EXTENSIONS = ["classification", "binary_tensor_data"]
MAX_WAITING = 16  # requests; more are told to come back
_LENGTH = "Inference-Header-Content-Length"

_open = APIRouter(prefix="/v2", tags=["inference"])
_guarded = APIRouter(
    prefix="/v2",
    tags=["inference"],
    dependencies=guarded(),
    responses=responses("unauthorized", "scope_missing", "bad_parameter"),
)
router = APIRouter()


@_open.get("/health/live", summary="Is it alive?", response_model=ServerLive, responses=responses())
async def get_server_live() -> dict[str, Any]:
    """Whether the process answers."""
    return {"live": True}


@_open.get(
    "/health/ready",
    summary="Can it work?",
    response_model=ServerReady,
    responses=responses("not_ready"),
)
def get_server_ready(parts: Given) -> dict[str, Any]:
    """Whether /readyz says so."""
    if examine(checks(parts)).status != 200:
        raise ProblemError("not_ready")
    return {"ready": True}


@_guarded.get("", summary="The server", response_model=ServerMetadata)
async def get_server_metadata(request: Request) -> dict[str, Any]:
    """Its name and the extensions of the protocol that it knows."""
    return {"name": "pigeonhole", "version": request.app.version, "extensions": EXTENSIONS}


async def _latest(parts: Given, model: str) -> Bundle:
    return _named(parts, model)


async def _exact(parts: Given, model: str, version: str) -> Bundle:
    return _named(parts, model, version)


Latest = Annotated[Bundle, Depends(_latest)]
Exact = Annotated[Bundle, Depends(_exact)]
_MODEL, _VERSION = "/models/{model}", "/models/{model}/versions/{version}"
_OF_MODEL = responses("unauthorized", "scope_missing", "bad_parameter", "model_not_found")
_OF_INFERENCE = {
    **responses(
        "unauthorized", "scope_missing", "bad_parameter", "model_not_found", "bad_tensor",
        "body_too_large", "unsupported_format", "empty_file", "unreadable_image",
        "too_many_pixels", "too_large", "busy", "model_failed",
    ),
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    },
}  # fmt: skip


@_guarded.get(_MODEL, summary="A model", response_model=ModelMetadata, responses=_OF_MODEL)
async def get_model_metadata(bundle: Latest) -> dict[str, Any]:
    """Inputs and outputs. Send one of the inputs: `image`, encoded images, or `pixels`."""
    return _metadata(bundle)


@_guarded.get(_VERSION, summary="A version", response_model=ModelMetadata, responses=_OF_MODEL)
async def get_version_metadata(bundle: Exact) -> dict[str, Any]:
    """Inputs and outputs. Send one of the inputs: `image`, encoded images, or `pixels`."""
    return _metadata(bundle)


@_guarded.get(
    f"{_MODEL}/ready", summary="Does it serve?", response_model=ModelReady, responses=_OF_MODEL
)
async def get_model_ready(bundle: Latest) -> dict[str, Any]:
    """Whether this model serves."""
    return {"name": bundle.ref.name, "ready": True}


@_guarded.get(
    f"{_VERSION}/ready", summary="Does it serve?", response_model=ModelReady, responses=_OF_MODEL
)
async def get_version_ready(bundle: Exact) -> dict[str, Any]:
    """Whether this version serves."""
    return {"name": bundle.ref.name, "ready": True}


@_guarded.post(
    f"{_MODEL}/infer",
    summary="Classify",
    response_model=InferResponse,
    responses=_OF_INFERENCE,
    openapi_extra=json_request("InferRequest"),
)
async def infer(request: Request, parts: Given, bundle: Latest) -> Response:
    """Classify, without keeping anything.

    `image`: BYTES of shape [N] or [N, 1], encoded images, behind the JSON or as base64 in it.
    `pixels`: UINT8 of shape [N, S, S, 3], what the model sees. The parameter `classification` of
    the output `scores` gives the best classes as "score:index:label".
    """
    return await _infer(request, parts, bundle)


@_guarded.post(
    f"{_VERSION}/infer",
    summary="Classify",
    response_model=InferResponse,
    responses=_OF_INFERENCE,
    openapi_extra=json_request("InferRequest"),
)
async def infer_version(request: Request, parts: Given, bundle: Exact) -> Response:
    """The same, by exactly this version."""
    return await _infer(request, parts, bundle)


router.include_router(_open)
router.include_router(_guarded)


def _metadata(bundle: Bundle) -> dict[str, Any]:
    size, labels = bundle.recipe.size_px, len(bundle.labels)
    return {
        "name": bundle.ref.name,
        "versions": [bundle.ref.version],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, size, size, 3]},
        ],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, labels]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
    }


async def _infer(request: Request, parts: Parts, bundle: Bundle) -> Response:
    if parts.inferrers.statistics().tasks_waiting >= MAX_WAITING:
        raise ProblemError("busy")
    asked, behind = tensors.parse(await request.body(), request.headers.get(_LENGTH))
    scores = await anyio.to_thread.run_sync(
        _scores, bundle, asked, behind, parts.settings.max_pixels, limiter=parts.inferrers
    )
    head = {"model_name": bundle.ref.name, "model_version": bundle.ref.version}
    if asked.id is not None:
        head["id"] = asked.id
    return _answer(head, asked, bundle.labels, scores)


def _named(parts: Parts, model: str, version: str = "") -> Bundle:
    bundle = parts.bundle
    if model != bundle.ref.name or version not in ("", bundle.ref.version):
        raise ProblemError(
            "model_not_found",
            f"What serves is {bundle.ref.name}, version {bundle.ref.version}.",
        )
    return bundle


def _scores(
    bundle: Bundle, asked: InferRequest, behind: bytes, max_pixels: int
) -> NDArray[np.float32]:
    parts = tensors.raw_parts(asked, behind)
    if len(asked.inputs) != 1:
        raise ProblemError("bad_tensor", "Send one input: `image` or `pixels`.")
    (tensor,), (raw,) = asked.inputs, parts
    match tensor.name, tensor.datatype:
        case "image", "BYTES":
            batch = _prepared(bundle, tensors.images(tensor, raw), max_pixels)
        case "pixels", "UINT8":
            batch = tensors.pixels(tensor, raw, bundle.recipe.size_px)
        case _:
            raise ProblemError("bad_tensor", "The input is `image` of BYTES or `pixels` of UINT8.")
    return bundle.scores(batch)


def _prepared(bundle: Bundle, images: Sequence[bytes], max_pixels: int) -> NDArray[np.uint8]:
    prepared = []
    for number, image in enumerate(images):
        try:
            prepared.append(preprocess(image, bundle.recipe, max_pixels)[0])
        except ImageError as error:
            raise ProblemError(error.code, f"Image {number}: {error}") from None
    return np.stack(prepared)


def _answer(
    head: dict[str, Any],
    asked: InferRequest,
    labels: Sequence[str],
    scores: NDArray[np.float32],
) -> Response:
    outputs = asked.outputs or [InferOutput(name="scores"), InferOutput(name="label")]
    default = bool(asked.parameters.get("binary_data_output"))
    chosen = [
        (_output(output, labels, scores), bool(output.parameters.get("binary_data", default)))
        for output in outputs
    ]
    body, length = tensors.answer(head, chosen)
    if length is None:
        return Response(body, media_type="application/json")
    return Response(body, headers={_LENGTH: str(length)}, media_type="application/octet-stream")


def _output(output: InferOutput, labels: Sequence[str], scores: NDArray[np.float32]) -> Output:
    best = output.parameters.get("classification", 0)
    if not isinstance(best, int) or best < 0:
        raise ProblemError("bad_tensor", "`classification` is a number of classes.")
    match output.name:
        case "scores" if best:
            return tensors.classification("scores", scores, labels, best)
        case "scores":
            return Output("scores", "FP32", scores.shape, scores.reshape(-1).tolist())
        case "label":
            return Output("label", "BYTES", [len(scores)], [labels[i] for i in scores.argmax(1)])
    raise ProblemError("bad_tensor", "The outputs are `scores` and `label`.")
