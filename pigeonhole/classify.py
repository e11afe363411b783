"""`pigeonhole classify`: files and folders from where they are, with no inbox."""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from core.bundle import Bundle, locate
from core.engine import Engine, answered
from core.ids import uuid7
from core.image import FORMATS
from core.names import written
from core.settings import Settings
from core.types import Failure, ImageRef, ModelRef, Outcome
from pigeonhole import output
from pigeonhole.escape import printable
from pigeonhole.talk import counted, say
from pigeonhole.terminal import Bar
from storage.export import PIECE_BYTES
from storage.results import Result, ResultError
from storage.rules import is_ignored
from storage.store import Finished, Store

BATCH_BYTES = 32 * 1024**2  # of one batch, of which two are in hand; a single file may be larger
_BYTES_PER_PIXEL = 8  # a file larger than its pixels at 16 bit and four channels is no image
_UNREADABLE = "cannot_read"


def run(
    paths: Sequence[Path],
    *,
    recursive: bool,
    shown: output.Shown | None,
    out: Path | None,
    store: bool,
) -> int:
    """Classify and write one row per image; 1 when any image could not be classified."""
    settings = Settings.read()
    shown = output.chosen(shown, out)
    walk = Walk(paths, recursive=recursive)
    with ExitStack() as opened:
        engine = opened.enter_context(_engine(settings))
        kept = opened.enter_context(closing(_opened(settings))) if store else None
        bar = opened.enter_context(Bar(walk.count))
        work = Work(settings, engine, kept, bar)
        output.write(
            work.results(walk.files()),
            shown,
            out,
            name=_as_seen_from_here,
            piece_bytes=PIECE_BYTES if bar.is_shown else 1,
            around=bar.hidden,
        )
    for remark in (*walk.remarks(), *work.remarks()):
        say(remark)
    return 1 if work.bad or walk.closed else 0


def _engine(settings: Settings) -> Engine:
    bundle = Bundle.load(locate(settings.home), settings.provider)
    return Engine(bundle, settings.workers, settings.max_pixels)


class Walk:
    """The images among these files and folders, and how many others were left out.

    A file that is named is taken whatever it is, links included. In folders, only files with the
    suffix of an image are taken; links, hidden and half-written files never.
    """

    def __init__(self, paths: Sequence[Path], *, recursive: bool) -> None:
        self._paths = paths
        self._recursive = recursive
        self._suffixes = _image_suffixes()
        self.left_out = 0
        self.not_entered = 0
        self.closed: list[str] = []

    def files(self) -> Iterator[Path]:
        """In the order given, folders sorted by name."""
        self.left_out = self.not_entered = 0
        self.closed = []
        for path in self._paths:
            if path.is_dir():
                yield from self._folder(path)
            else:
                yield path

    def count(self) -> int:
        """How many files there are, by a walk of its own."""
        return sum(1 for _ in self.files())

    def remarks(self) -> Iterator[str]:
        """What the user should know of what was not looked at."""
        if self.left_out:
            others = counted(self.left_out, "other file")
            yield f"{others} left out (no image suffix, hidden, or a link)."
        if self.not_entered:
            folders = counted(self.not_entered, "folder")
            yield f"{folders} not entered: give --recursive to take them too."
        for folder in self.closed:
            yield f"{folder}. Nothing in this folder was classified."

    def _folder(self, folder: Path) -> Iterator[Path]:
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self.closed.append(f"{printable(folder)}: {error.strerror}")
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not is_ignored(entry.name):
                if self._recursive:
                    yield from self._folder(folder / entry.name)
                else:
                    self.not_entered += 1
            elif self._is_image(entry):
                yield folder / entry.name
            else:
                self.left_out += 1

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - a name, not a path
        return (
            suffix in self._suffixes
            and entry.is_file(follow_symlinks=False)
            and not is_ignored(entry.name)
        )


def _image_suffixes() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in FORMATS) | {".mpo"}


@dataclass(frozen=True, slots=True)
class _Read:
    """A file that was read: its bytes, or why there are none."""

    path: Path
    ref: ImageRef
    content: bytes | Failure
    received_at: datetime
    started_s: float


@dataclass(frozen=True, slots=True)
class _Asked:
    """A batch that the engine has; its outcomes, by sha256, are on their way."""

    images: Sequence[_Read]
    outcomes: Mapping[str, Future[Outcome]]


class Work:
    """From files to results, a bounded batch at a time; `store` None records nothing."""

    def __init__(self, settings: Settings, engine: Engine, store: Store | None, bar: Bar) -> None:
        self._settings = settings
        self._engine = engine
        self._store = store
        self._bar = bar
        self.done = 0
        self.bad = 0
        self._unreadable = 0

    def results(self, paths: Iterable[Path]) -> Iterator[Result]:
        """One result per file, in order; one batch is read and asked for ahead."""
        asked = _Asked([], {})
        for batch in self._batches(paths):
            ahead = self._ask(batch, asked.outcomes)
            yield from self._counted(asked)
            asked = ahead
        yield from self._counted(asked)

    def _counted(self, asked: _Asked) -> Iterator[Result]:
        for result in self._finish(asked):
            self.done += 1
            self.bad += result.error is not None
            self._unreadable += result.error is not None and result.error.code == _UNREADABLE
            yield result
        self._bar.advance(len(asked.images))

    def remarks(self) -> Iterator[str]:
        """What was done, in a sentence."""
        yield f"{self.done - self.bad} of {counted(self.done, 'image')} classified."
        if self.bad:
            yield f"{self.bad} could not be: the reason is in their rows."
        if self._unreadable and self._store:
            yield f"{self._unreadable} could not even be read, and were not recorded."

    def _batches(self, paths: Iterable[Path]) -> Iterator[list[_Read]]:
        batch: list[_Read] = []
        held_bytes = 0
        for path in paths:
            is_full = len(batch) >= self._settings.batch_size
            if batch and (is_full or held_bytes + _size_bytes(path) > BATCH_BYTES):
                yield batch
                batch, held_bytes = [], 0
            batch.append(self._read(path))
            held_bytes += batch[-1].ref.size_bytes
        if batch:
            yield batch

    def _read(self, path: Path) -> _Read:
        received_at, started_s = datetime.now(UTC), time.monotonic()
        limit_bytes = self._settings.max_pixels * _BYTES_PER_PIXEL
        digest, size_bytes = "", 0
        content: bytes | Failure
        try:
            with path.open("rb") as file:
                content = file.read(limit_bytes + 1)
                sha256 = hashlib.sha256(content)
                size_bytes = len(content)
                if size_bytes > limit_bytes:
                    content = _too_large(self._settings.max_pixels)
                    while rest := file.read(1024**2):
                        sha256.update(rest)
                        size_bytes += len(rest)
                digest = sha256.hexdigest()
        except OSError as error:
            content = Failure(_UNREADABLE, f"{error.strerror}. Check the file and its permissions.")
        ref = ImageRef(digest, written(path.name), size_bytes)
        return _Read(path, ref, content, received_at, started_s)

    def _ask(self, batch: Sequence[_Read], before: Mapping[str, Future[Outcome]]) -> _Asked:
        """The same bytes are inferred once: here, one batch before, or ever where we record."""
        contents = {
            image.ref.sha256: image.content
            for image in batch
            if not isinstance(image.content, Failure)
        }
        outcomes = {digest: before[digest] for digest in contents if digest in before}
        if self._store:
            known = self._store.known(contents, self._engine.bundle.ref)
            outcomes |= {digest: answered(outcome) for digest, outcome in known.items()}
        fresh = [digest for digest in contents if digest not in outcomes]
        futures = self._engine.submit_all(contents[digest] for digest in fresh)
        return _Asked(batch, outcomes | dict(zip(fresh, futures, strict=True)))

    def _finish(self, asked: _Asked) -> list[Result]:
        outcomes = [
            image.content
            if isinstance(image.content, Failure)
            else asked.outcomes[image.ref.sha256].result()
            for image in asked.images
        ]
        now = datetime.now(UTC)
        done_s = time.monotonic()
        finished = [
            Finished(image.ref, outcome, image.received_at, (done_s - image.started_s) * 1000)
            for image, outcome in zip(asked.images, outcomes, strict=True)
        ]
        results = self._record(finished, now)
        paths = (written(str(image.path.absolute())) for image in asked.images)
        return [replace(result, path=path) for result, path in zip(results, paths, strict=True)]

    def _record(self, finished: Sequence[Finished], now: datetime) -> list[Result]:
        """Rows of the database where there is one; a file of which we saw no byte has none."""
        model, least = self._engine.bundle.ref, self._settings.min_confidence
        unrecorded = [_unrecorded(item, model, least, now) for item in finished]
        if self._store is None:
            return unrecorded
        readable = [item for item in finished if item.image.sha256]
        rows = iter(
            self._store.record(
                readable,
                source="batch",
                model=model,
                min_confidence=least,
                now=now,
                audit_share=self._settings.audit_share,
            )
        )
        return [
            (next(rows) or result) if item.image.sha256 else result
            for item, result in zip(finished, unrecorded, strict=True)
        ]


def _opened(settings: Settings) -> Store:
    return Store.open(settings.database_url, with_outbox=bool(settings.webhook_url))


def _unrecorded(item: Finished, model: ModelRef, min_confidence: float, now: datetime) -> Result:
    """The result that `Store.record` would give, without a database."""
    outcome = item.outcome
    failure = outcome if isinstance(outcome, Failure) else None
    prediction = None if isinstance(outcome, Failure) else outcome
    return Result(
        id=str(uuid7()),
        filename=item.image.filename,
        source="batch",
        status="classified" if prediction else "quarantined",
        label=prediction.label if prediction else None,
        confidence=prediction.confidence if prediction else None,
        scores=prediction.scores if prediction else (),
        needs_review=prediction is not None and prediction.confidence < min_confidence,
        corrected_label=None,
        reviewed_at=None,
        error=ResultError(failure.code, failure.detail) if failure else None,
        sha256=item.image.sha256,
        size_bytes=item.image.size_bytes,
        width_px=prediction.image.width_px if prediction else None,
        height_px=prediction.image.height_px if prediction else None,
        format=prediction.image.format if prediction else None,
        path=None,
        duplicate_of=None,
        model=prediction.model if prediction else model,
        received_at=item.received_at,
        classified_at=now,
        latency_ms=round(item.latency_ms, 3),
    )


def _too_large(max_pixels: int) -> Failure:
    return Failure(
        "too_large",
        f"This file is larger than an image of {max_pixels} pixels can be. "
        "Raise PIGEONHOLE_MAX_PIXELS.",
    )


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _as_seen_from_here(result: Result) -> str:
    path, here = Path(result.path or result.filename), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
