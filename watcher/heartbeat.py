"""A known picture of our own, sent through the inbox again and again: is every stage alive?

It is written, listed, settled, claimed, read, classified and filed as any other file, but leaves no
row and is counted nowhere. What it leaves is the time of its arrival, in a metric. Where we may not
write into the inbox (a read-only mount) there is no heartbeat, and no such metric.
"""

import io
import math
import time
from pathlib import Path

import structlog
from PIL import Image

from core.types import Delivery, Failure, Outcome, Stamp
from monitoring.metrics import Metrics
from storage import files
from watcher import reserved

log = structlog.get_logger(__name__)
_SIZE_PX = (64, 48)


class Heartbeat:
    """The beat of one process; `interval_s` 0 is none. One picture is under way at a time."""

    def __init__(self, inbox: Path, interval_s: float, metrics: Metrics) -> None:
        self.name = reserved.name("heartbeat", ".png")
        self._file = inbox / self.name
        self._interval_s = interval_s or math.inf
        self._metrics = metrics
        self._picture = _paint()
        self._due_s = time.monotonic() if interval_s else math.inf
        self._complaint: str | None = None
        self.last_s: float | None = None  # Unix time of the last one that came through

    def drop_if_due(self) -> None:
        """Rename a picture into the inbox, as a careful program delivers its files."""
        now_s = time.monotonic()
        if now_s < self._due_s or self._file.exists():
            return
        self._due_s = now_s + self._interval_s
        part = self._file.with_name(reserved.name("heartbeat", ".part"))
        try:
            part.write_bytes(self._picture)
            part.rename(self._file)
        except OSError as error:
            self._complain(f"{error.strerror}: {part.parent}")
        else:
            self._complain(None)

    def look(self) -> dict[str, Stamp]:
        """The picture that is under way, as a listing shows a file."""
        try:
            return {self.name: files.stamp_of(self._file.lstat())}
        except OSError:
            return {}

    def is_of(self, delivery: Delivery | None) -> bool:
        """Whether this delivery is a heartbeat."""
        return delivery is not None and delivery.path == self.name

    def arrive(self, delivery: Delivery, outcome: Outcome, folder: Path | None) -> None:
        """The picture was classified: file it in `folder` to see that this works, and forget it."""
        try:
            if folder is not None:
                _try_to_file(self._file, delivery, folder)
            files.remove(self._file, delivery.stamp)
        except OSError as error:
            self._complain(f"{error.strerror}: {error.filename}")
            return
        if isinstance(outcome, Failure):
            self._complain(f"{outcome.code}: {outcome.detail}")
        else:
            self._complain(None)
            self.last_s = time.time()
            self._metrics.heartbeat(self.last_s)

    def skip(self) -> None:
        """No picture may wait in the inbox while nothing is taken from it."""
        self._file.unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Remove what killed processes have left of theirs."""
        reserved.clear_leftovers(self._file.parent)

    def _complain(self, complaint: str | None) -> None:
        if complaint and complaint != self._complaint:
            log.warning("the heartbeat does not get through", reason=complaint)
        self._complaint = complaint


def _try_to_file(source: Path, delivery: Delivery, folder: Path) -> None:
    target = files.put(source, delivery.stamp, folder, delivery.id[-8:], None)
    if target is not None:
        target.unlink()


def _paint() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(_SIZE_PX).convert("RGB").save(file, "PNG")
    return file.getvalue()
