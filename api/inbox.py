"""What waits in the inbox and why, kept for a moment: to list very many files takes a while."""

import threading
import time
from datetime import UTC, datetime
from typing import Any

from core.names import written
from core.settings import Settings
from storage.limbo import Explained, Summary, explain
from storage.results import iso
from storage.store import Store

SHOWN_FILES = 100
_KEPT_S = 1.0
_REST_SHARE = 20.0  # listing must not take more than one part in twenty


class Inbox:
    """The explanation of what is in the inbox; safe to ask from many threads."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._lock = threading.Lock()
        self._known: Summary | None = None
        self._good_until_s = -1.0

    def look(self) -> Summary | None:
        """At most a second old, or older where the listing is long; None: it cannot be listed."""
        with self._lock:
            started_s = time.monotonic()
            if started_s >= self._good_until_s:
                self._known = self._explained()
                now_s = time.monotonic()
                self._good_until_s = now_s + max(_KEPT_S, _REST_SHARE * (now_s - started_s))
            return self._known

    def _explained(self) -> Summary | None:
        try:
            return explain(self._settings, self._store, datetime.now(UTC), limit=SHOWN_FILES)
        except OSError:
            return None


def shown(summary: Summary | None) -> dict[str, Any] | None:
    """As GET /v1/stats gives it."""
    if summary is None:
        return None
    return {
        "waiting": summary.waiting,
        "oldest_at": iso(summary.oldest_at),
        "by_state": dict(summary.counts),
        "files": [_file(each) for each in summary.files],
    }


def _file(each: Explained) -> dict[str, Any]:
    return {
        "path": written(each.path),
        "state": each.state,
        "detail": written(each.detail),
        "since": iso(each.since),
        "until": iso(each.until),
        "attempts": each.attempts,
    }
