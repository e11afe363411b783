"""GET /docs: Swagger, from files that we ship, so it works with no internet."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse

WEB = Path(__file__).resolve().parent.parent / "web"

router = APIRouter(include_in_schema=False)


@router.get("/")
async def get_front() -> RedirectResponse:
    """The page will be here; until then, the documentation."""
    return RedirectResponse("/docs")


@router.get("/docs")
async def get_docs() -> FileResponse:
    """The frame in which Swagger draws /openapi.json."""
    return FileResponse(WEB / "docs.html")
