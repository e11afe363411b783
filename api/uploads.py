"""A stranger's form to the bytes and the name of one image."""

import base64
import hashlib
import re
import time
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

from anyio import WouldBlock
from fastapi import Depends, Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from api.parts import Given, Parts
from api.problems import ProblemError
from api.recorder import Upload

FRAMING_BYTES = 64 * 1024  # what a form may weigh beside its file
MAX_FILES = 32  # in one form
MAX_AT_WORK = 64  # uploads whose images are in memory; more are told to come back
MAX_NAME = 255
_DIGEST = re.compile(r"([a-z0-9-]+)=:([A-Za-z0-9+/=]*):")
_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}
_FALLBACK_NAME = "upload"
_MAX_FIELDS = 20  # beside the file; ignored
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control, half a surrogate, line and paragraph ends
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # gpj.exe as exe.jpg


async def _upload(request: Request, parts: Given) -> AsyncIterator[Upload]:
    with _turn(parts):
        await _check_digest(request)
        kind = _kind(request)
        if kind.startswith("image/"):
            yield await _raw(request, parts.settings.max_body_bytes)
        elif kind == "multipart/form-data":
            (upload,) = await _files(request, parts.settings.max_body_bytes, max_files=1)
            yield upload
        else:
            raise ProblemError("not_multipart")


async def _uploads(request: Request, parts: Given) -> AsyncIterator[list[Upload]]:
    with _turn(parts):
        await _check_digest(request)
        if _kind(request) != "multipart/form-data":
            raise ProblemError("not_multipart")
        yield await _files(request, parts.settings.max_body_bytes, max_files=MAX_FILES)


# Read by hand, and not declared as a parameter: FastAPI would read the body of a stranger before it
# asks for the key.
Sent = Annotated[Upload, Depends(_upload)]
SentTogether = Annotated[list[Upload], Depends(_uploads)]


@contextmanager
def _turn(parts: Parts) -> Iterator[None]:
    """A place among those whose images are in memory; raises when all are taken."""
    try:
        parts.uploaders.acquire_nowait()
    except WouldBlock:
        raise ProblemError("busy") from None
    try:
        yield
    finally:
        parts.uploaders.release()


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _check_digest(request: Request) -> None:
    """RFC 9530: what the client says that it sent is what came; algorithms unknown to us pass."""
    given = request.headers.get("content-digest")
    if given is None:
        return
    body = await request.body()
    found = dict(_DIGEST.findall(given))
    if not found:
        raise ProblemError("bad_digest", "Write Content-Digest: sha-256=:BASE64:")
    for algorithm, value in found.items():
        if algorithm in _ALGORITHMS:
            digest = hashlib.new(_ALGORITHMS[algorithm], body).digest()
            if base64.b64encode(digest).decode() != value:
                raise ProblemError("bad_digest", f"The {algorithm} of what came is another.")


async def _raw(request: Request, max_bytes: int) -> Upload:
    data = await request.body()
    if len(data) > max_bytes:
        raise ProblemError("body_too_large")
    disposition = request.headers.get("content-disposition", "")
    _, options = parse_options_header(disposition)
    name = options.get(b"filename", b"").decode("utf-8", "replace")
    return _received(data, name, is_called_image=True)


async def _files(request: Request, max_bytes: int, max_files: int) -> list[Upload]:
    form = await _form(request, max_files)
    try:
        files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
        if not files:
            detail = "must be a file: curl -F file=@dog.jpg"
            errors = [{"field": "file", "detail": detail}]
            raise ProblemError("bad_parameter", f"file: {detail}.", errors=errors)
        if sum(file.size or 0 for file in files) > max_bytes:
            raise ProblemError("body_too_large")
        return [
            _received(
                await file.read(),
                file.filename or "",
                is_called_image=(file.content_type or "").lower().startswith("image/"),
            )
            for file in files
        ]
    finally:
        await form.close()


async def _form(request: Request, max_files: int) -> FormData:
    try:
        return await request.form(
            max_files=max_files, max_fields=_MAX_FIELDS, max_part_size=FRAMING_BYTES
        )
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise ProblemError("bad_multipart", str(error.detail)) from error
    except ValueError as error:  # of codecs that a client may name as its charset
        raise ProblemError("bad_multipart") from error


def _received(data: bytes, filename: str, *, is_called_image: bool) -> Upload:
    now = datetime.now(UTC)
    return Upload(data, base_name(filename), is_called_image, now, time.monotonic())


def base_name(name: str) -> str:
    """The last part of a path of any system, printable, at most 255 characters; never a path."""
    name = name.replace("\\", "/").rpartition("/")[2]
    name = "".join(character for character in name if _is_printable(character)).strip()
    if name in ("", ".", ".."):
        return _FALLBACK_NAME
    stem, dot, suffix = name.rpartition(".")
    if len(name) > MAX_NAME and stem and len(suffix) < 10:
        return stem[: MAX_NAME - len(suffix) - 1] + dot + suffix
    return name[:MAX_NAME]


def _is_printable(character: str) -> bool:
    return unicodedata.category(character) not in _UNPRINTABLE and character not in _BIDI
