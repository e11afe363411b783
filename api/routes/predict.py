"""POST /v1/predict: one image in, one answer out."""

from typing import Annotated

from fastapi import Query
from fastapi.responses import JSONResponse

from api import predictions
from api.access import v1_router
from api.conditional import ETAG, etag_of
from api.parts import Given
from api.problems import ProblemError, responses
from api.schemas import PredictQuery
from api.schemas import Result as ResultSchema
from api.uploads import Sent

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
            "cannot_store",
            "database_unavailable",
            "unauthorized",
            "cross_origin",
            "scope_missing",
        ),
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
            "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/Upload"}}},
        }
    },
)
async def predict(
    query: Annotated[PredictQuery, Query()], parts: Given, upload: Sent
) -> JSONResponse:
    """Classify one image, and keep it with a record of the answer.

    With `store=false` neither is kept. Bytes that this model has seen before cost no second
    inference; `duplicate_of` then names the first result for them.
    """
    (answer,) = await predictions.predict(parts, [upload], store=query.store)
    if isinstance(answer, ProblemError):
        raise answer
    headers = {"X-Model-Version": answer.model.version}
    if not query.store:
        return JSONResponse(answer.to_dict(), 200, headers)
    headers |= {"Location": f"/v1/results/{answer.id}", "ETag": etag_of(answer)}
    return JSONResponse(answer.to_dict(), 201, headers)
