"""The picture of a result: the file that was filed, and a small copy that is made once.

Paths come from rows that we wrote, never from a request.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import Row, select

from core.image import thumbnail as small_copy
from core.names import original
from storage.database import Database
from storage.results import Result, from_row
from storage.schema import deliveries, results

log = structlog.get_logger(__name__)

THUMBNAIL_PX = 256
_JPEG_END = b"\xff\xd9"
_LOOKS = 2  # the watcher may be putting the file away between our look at the row and at the file


@dataclass(frozen=True, slots=True)
class Picture:
    """A result, and its file as it stands now (None: it is gone, or was never kept)."""

    result: Result
    path: Path | None
    status: os.stat_result | None = None


def find(database: Database, home: Path, inbox: Path, identifier: str) -> Picture | None:
    """The file of a result, wherever it is: filed, uploaded, or still in the inbox.

    A file of another size is not the one that was classified, and a link is nobody's picture.
    """
    query = (
        select(results, deliveries.c.path.label("in_inbox"))
        .outerjoin(deliveries, deliveries.c.id == results.c.delivery_id)
        .where(results.c.id == identifier)
    )
    result = None
    for _ in range(_LOOKS):
        with database.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        result = from_row(row)
        for path in _places(row, home, inbox):
            with contextlib.suppress(OSError, ValueError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_size == result.size_bytes:
                    return Picture(result, path, status)
    return Picture(result, None) if result else None


def thumbnail(home: Path, picture: Picture, max_pixels: int) -> bytes | None:
    """A JPEG of at most `THUMBNAIL_PX` wide and high; None when neither it nor the file is there.

    It is made once per content and kept below HOME/thumbnails. Raises `ImageError`.
    """
    sha256 = picture.result.sha256
    kept = home / "thumbnails" / sha256[:2] / f"{sha256}.jpg"
    with contextlib.suppress(OSError):
        data = kept.read_bytes()
        if data.endswith(_JPEG_END):  # after a power cut it may be half there
            return data
    if picture.path is None:
        return None
    try:
        original = picture.path.read_bytes()
    except OSError:
        return None
    data = small_copy(original, max_pixels, THUMBNAIL_PX)
    try:
        _keep(kept, data)
    except OSError as error:  # then it is made again the next time
        log.warning("cannot keep a thumbnail", reason=str(error))
    return data


def _places(row: Row[tuple[object, ...]], home: Path, inbox: Path) -> Iterator[Path]:
    if row.path is not None:
        yield home / original(row.path)
    if row.in_inbox is not None:
        yield inbox / os.fsdecode(bytes(row.in_inbox))


def _keep(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=".part-", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - it is open already
            file.write(data)
        Path(part).replace(target)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
