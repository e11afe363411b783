"""GET /problems/{code}: what the `type` of a problem leads to."""

from typing import Any

from fastapi import APIRouter

from api.problems import CATALOG, ProblemError

router = APIRouter(include_in_schema=False)


@router.get("/problems/{code}")
async def get_problem(code: str) -> dict[str, Any]:
    """What the code of a problem means, and what to do."""
    if code not in CATALOG:
        raise ProblemError("not_found", "There is no such code.")
    return {"code": code, **CATALOG[code]._asdict()}
