"""Hot reload: an engine follows the pointer of HOME to another model, while it works."""

import threading
import time
from pathlib import Path
from typing import Protocol, Self

import structlog

from core.bundle import Bundle, Manifest, locate, read_manifest
from core.engine import Engine
from core.types import Provider

log = structlog.get_logger(__name__)

LOOK_S = 1.0
RETRY_S = 30.0  # what was refused may load later: memory was short, a disk was away

_Mark = tuple[str, int, int, int] | str


class Listener(Protocol):
    """Who wants to know what became of each attempt. Must not raise."""

    def model_loaded(self, manifest: Manifest) -> None:
        """It answers from now on."""

    def model_refused(self) -> None:
        """The pointer names a model that does not load; the one before goes on answering."""


class Follower:
    """A thread that looks at the pointer every `LOOK_S`; a context manager.

    The new model is loaded and run once on this thread; only then does the engine change over. One
    that does not load is refused: `complaint` says so until the pointer names one that does.
    """

    def __init__(self, home: Path, engine: Engine, provider: Provider, listener: Listener) -> None:
        self._home = home
        self._engine = engine
        self._provider: Provider = provider
        self._listener = listener
        self._refusal: str | None = None
        self._seen: _Mark | None = None
        self._looked_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def complaint(self) -> str | None:
        """Why another model answers than the pointer names; None when all is well."""
        if self._refusal is None:
            return None
        ref = self._engine.bundle.ref
        return (
            f"{ref.name} {ref.version} goes on serving, for the promoted model does not load: "
            f"{self._refusal} `pigeonhole models rollback` takes the promotion back."
        )

    def look(self) -> None:
        """Follow the pointer if it has moved."""
        folder = locate(self._home)
        mark, now_s = _mark(folder), time.monotonic()
        is_due = self._refusal is not None and now_s - self._looked_s >= RETRY_S
        if mark == self._seen and not is_due:
            return
        self._seen, self._looked_s = mark, now_s
        try:
            self._follow(folder)
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the old model goes on
            self._refuse(str(error) or type(error).__name__)

    def _run(self) -> None:
        while not self._ended.is_set():
            self.look()
            self._ended.wait(LOOK_S)

    def _follow(self, folder: Path) -> None:
        if read_manifest(folder).version != self._engine.bundle.ref.version:
            bundle = Bundle.load(folder, self._provider, cores=self._engine.workers)
            before = self._engine.bundle.ref.version
            self._engine.replace(bundle)
            self._listener.model_loaded(bundle.manifest)
            log.info(
                "another model answers", model=bundle.ref.name, version=bundle.ref.version,
                before=before,
            )  # fmt: skip
        self._refusal = None

    def _refuse(self, reason: str) -> None:
        self._listener.model_refused()
        if reason != self._refusal:
            log.error(
                "the promoted model does not load; the one before goes on",
                reason=reason,
                version=self._engine.bundle.ref.version,
                remedy="pigeonhole models rollback",
            )
        self._refusal = reason


def _mark(folder: Path) -> _Mark:
    """Changes whenever another bundle is at the pointer."""
    try:
        found = (folder / "bundle.json").stat()
    except OSError as error:
        return f"{folder}: {error}"
    return str(folder), found.st_dev, found.st_ino, found.st_mtime_ns
