"""A stranger's form to the bytes and the name of one image."""

import time
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from api.parts import Given
from api.problems import ProblemError

FRAMING_BYTES = 64 * 1024  # what a form may weigh beside its file
MAX_NAME = 255
_FALLBACK_NAME = "upload"
_MAX_FIELDS = 20  # beside the file; ignored
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control, half a surrogate, line and paragraph ends
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # gpj.exe as exe.jpg


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a form. `started_s` is the monotonic clock when the last byte was here."""

    data: bytes
    filename: str
    is_called_image: bool
    received_at: datetime
    started_s: float


async def _upload(request: Request, parts: Given) -> Upload:
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise ProblemError("not_multipart")
    form = await _form(request)
    try:
        return await _read(form, parts.settings.max_body_bytes)
    finally:
        await form.close()


# Read by hand, and not declared as a parameter: FastAPI would read the body of a stranger before it
# asks for the key.
Sent = Annotated[Upload, Depends(_upload)]


async def _form(request: Request) -> FormData:
    try:
        return await request.form(max_files=1, max_fields=_MAX_FIELDS, max_part_size=FRAMING_BYTES)
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise ProblemError("bad_multipart", str(error.detail)) from error
    except ValueError as error:  # of codecs that a client may name as its charset
        raise ProblemError("bad_multipart") from error


async def _read(form: FormData, max_bytes: int) -> Upload:
    file = form.get("file")
    if not isinstance(file, UploadFile):
        detail = "must be a file: curl -F file=@dog.jpg"
        errors = [{"field": "file", "detail": detail}]
        raise ProblemError("bad_parameter", f"file: {detail}.", errors=errors)
    if (file.size or 0) > max_bytes:
        raise ProblemError("body_too_large")
    return Upload(
        data=await file.read(),
        filename=base_name(file.filename or ""),
        is_called_image=(file.content_type or "").lower().startswith("image/"),
        received_at=datetime.now(UTC),
        started_s=time.monotonic(),
    )


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
