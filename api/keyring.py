"""Which keys are good just now: that of the settings, and those in the database."""

import threading
import time

from core.settings import Settings
from storage import keys
from storage.database import Database
from storage.keys import SCOPES, Key

FRESH_S = 2.0  # how long a key that was revoked may still open
_SETTINGS_ID = "settings"


class Keyring:
    """The keys of one API; looks into the database at most every `FRESH_S`."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._is_loopback = settings.is_loopback
        self._fixed: tuple[Key, ...] = ()
        if settings.api_key:
            sha256 = keys.digest(settings.api_key.get_secret_value())
            name = "PIGEONHOLE_API_KEY"
            self._fixed = (Key(_SETTINGS_ID, name, frozenset(SCOPES), sha256),)
        self._stored: tuple[Key, ...] = ()
        self._looked_s = float("-inf")
        self._lock = threading.Lock()

    @property
    def is_stale(self) -> bool:
        """Whether it is time to `refresh`."""
        return time.monotonic() - self._looked_s >= FRESH_S

    def refresh(self) -> None:
        """Look into the database, unless another thread has just done so."""
        with self._lock:
            if self.is_stale:
                self._stored = tuple(keys.every(self._database))
                self._looked_s = time.monotonic()

    @property
    def is_asked_for(self) -> bool:
        """Whether one must have a key: where there is any, and wherever others can come in."""
        return bool(self._fixed or self._stored) or not self._is_loopback

    def by_id(self, identifier: str) -> Key | None:
        """The key that somebody has signed in with, if it is still good."""
        known = (*self._fixed, *self._stored)
        return next((key for key in known if key.id == identifier), None)

    def find(self, given: str) -> Key | None:
        """The key that was given, if it is good."""
        return keys.match((*self._fixed, *self._stored), given)
