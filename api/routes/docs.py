"""GET /docs: Swagger, from files that we ship, so it works with no internet."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

WEB = Path(__file__).resolve().parent.parent / "web"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def get_docs() -> FileResponse:
    """The frame in which Swagger draws /openapi.json."""
    return FileResponse(WEB / "docs.html")
