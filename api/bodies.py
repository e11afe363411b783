"""JSON bodies, read after the key was asked for: FastAPI would read a stranger's body first."""

import json
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from api.problems import ProblemError

_T = TypeVar("_T")


async def json_body(request: Request, adapter: TypeAdapter[_T]) -> _T:
    """The body as this type; raises `ProblemError` or `RequestValidationError`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and "+json" in kind):
        raise ProblemError("not_json")
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise ProblemError("bad_parameter", "The body is not JSON.") from None
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        wrong = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(wrong) from None


def json_request(schema: str, media_type: str = "application/json") -> dict[str, Any]:
    """What the OpenAPI document says of such a body; `schema` is the name of a component."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"requestBody": {"required": True, "content": {media_type: {"schema": reference}}}}
