"""GET /v1/results/{id}/image: the file of a result, or a small JPEG of it."""

from typing import Annotated

import anyio
from fastapi import Query, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from api.access import v1_router
from api.conditional import ETAG, NOT_MODIFIED, is_fresh
from api.parts import Given, Parts
from api.problems import ProblemError, responses
from api.routes.results import ResultId
from api.schemas import ImageQuery
from core.errors import ImageError
from storage import pictures
from storage.pictures import Picture

router = v1_router("results")

_CACHE = "private, max-age=86400"  # the bytes behind an id never change
# What a browser may show in place; everything else is a file to save.
_SHOWN = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "ICO": "image/vnd.microsoft.icon",
}
_SAVED = {"TIFF": "image/tiff", "JPEG2000": "image/jp2"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_TYPES = (*_SHOWN.values(), *_SAVED.values(), "application/octet-stream")


@router.get(
    "/results/{id}/image",
    summary="The picture of a result",
    response_class=Response,
    responses={
        **responses(
            "unauthorized",
            "scope_missing",
            "bad_parameter",
            "result_not_found",
            "image_not_found",
            "no_thumbnail",
            "range_not_satisfiable",
            "bad_request",
            "database_unavailable",
        ),
        **NOT_MODIFIED,
        200: {
            "description": "The picture",
            "content": dict.fromkeys(_TYPES, _BINARY),
            "headers": ETAG,
        },
        206: {
            "description": "The part of the file that `Range` asks for",
            "content": dict.fromkeys((*_TYPES, "multipart/byteranges"), _BINARY),
        },
    },
)
async def get_image(
    identifier: ResultId, query: Annotated[ImageQuery, Query()], request: Request, parts: Given
) -> Response:
    """The file itself (`full`), with ranges, or a JPEG of at most 256 pixels (`thumb`)."""
    picture = await run_in_threadpool(_find, parts, identifier)
    if query.size == "thumb":
        return await _thumbnail(request, parts, picture)
    return _full(request, picture)


def _find(parts: Parts, identifier: str) -> Picture:
    settings = parts.settings
    picture = pictures.find(parts.store.database, settings.home, settings.inbox, identifier)
    if picture is None:
        raise ProblemError("result_not_found")
    return picture


async def _thumbnail(request: Request, parts: Parts, picture: Picture) -> Response:
    headers = {"ETag": f'"{picture.result.sha256}-thumb"', "Cache-Control": _CACHE}
    if is_fresh(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    try:
        data = await anyio.to_thread.run_sync(
            pictures.thumbnail,
            parts.settings.home,
            picture,
            parts.settings.max_pixels,
            limiter=parts.thumbnailers,
        )
    except ImageError:
        raise ProblemError("no_thumbnail") from None
    if data is None:
        raise ProblemError("image_not_found")
    return Response(data, headers=headers, media_type="image/jpeg")


def _full(request: Request, picture: Picture) -> Response:
    if picture.path is None:
        raise ProblemError("image_not_found")
    result = picture.result
    headers = {"ETag": f'"{result.sha256}"', "Cache-Control": _CACHE}
    if is_fresh(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    file_format = result.format or ""
    return FileResponse(
        picture.path,
        headers=headers,
        media_type=(_SHOWN | _SAVED).get(file_format, "application/octet-stream"),
        filename=result.filename,
        stat_result=picture.status,
        content_disposition_type="inline" if file_format in _SHOWN else "attachment",
    )
