"""The models of one HOME: immutable bundles, one pointer to the one that serves, and its history.

    HOME/models/bundles/VERSION/    a bundle, written once and never changed
    HOME/models/current             a relative symlink to the bundle that serves
    HOME/models/history.jsonl       every move of the pointer: when, from, to, why

Stop it between any two steps: what serves is what served before, or what was promoted; never a
half. Several processes may promote at once: a lock puts them in line. Who serves follows the
pointer (`core.follow`) and needs no lock.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from core.bundle import STARTER, Bundle, Manifest, locate, read_manifest
from core.errors import BundleError

_NEW_POINTER, _ASIDE = ".current.new", ".current.aside"


@dataclass(frozen=True, slots=True)
class Move:
    """One move of the pointer; `before` is None when what served could not be read."""

    at: datetime
    action: Literal["promote", "rollback"]
    before: str | None
    after: str
    why: str


@dataclass(frozen=True, slots=True)
class Installed:
    """A bundle of the registry: what it is, or what is wrong with it."""

    version: str
    folder: Path
    installed_at: datetime
    manifest: Manifest | str


class Registry:
    """The models below one HOME. Nothing is made by looking."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._models = home / "models"
        self._bundles = self._models / "bundles"
        self._pointer = self._models / "current"
        self._history = self._models / "history.jsonl"

    # --- looking -----------------------------------------------------------------------------

    def installed(self) -> list[Installed]:
        """Every bundle, newest first; one that is damaged is listed too."""
        folders = sorted(self._bundles.glob("[!.]*")) if self._bundles.is_dir() else []
        found = [_look(folder) for folder in folders if folder.is_dir()]
        return sorted(found, key=lambda item: item.installed_at, reverse=True)

    def serving(self) -> Manifest:
        """The model that serves; raises `BundleError` if it is damaged."""
        return read_manifest(locate(self.home))

    def find(self, version: str) -> Path:
        """The folder of a version, or of the only one that begins so; raises `BundleError`."""
        known = {item.version: item.folder for item in self.installed()}
        for folder in (locate(self.home), STARTER):  # neither needs to be among the bundles
            if (name := _version_of(folder)) is not None:
                known.setdefault(name, folder)
        matches = [name for name in known if name.startswith(version)] if version else []
        if version in known or len(matches) == 1:
            return known.get(version) or known[matches[0]]
        if matches:
            raise BundleError(f"{version} begins {len(matches)} versions: {', '.join(matches)}.")
        raise BundleError(
            f"There is no model of version {version}. There are {', '.join(known) or 'none'}; see "
            "`pigeonhole models list`."
        )

    def history(self) -> list[Move]:
        """Every move, oldest first; the last may have been stopped before the pointer moved."""
        try:
            lines = self._history.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [move for line in lines if (move := _parsed(line)) is not None]

    def previous(self) -> str | None:
        """The version that `rollback` would serve; None when nothing served before."""
        return _previous(self.history(), _version_of(locate(self.home)))

    # --- changing ----------------------------------------------------------------------------

    def install(self, folder: Path) -> Manifest:
        """Copy a bundle into the registry; one of a version that is there stays as it is."""
        with self._locked():
            return self._install(folder)

    def promote(self, version: str, why: str) -> Manifest:
        """Let an installed bundle serve; raises `BundleError` for one that does not run."""
        with self._locked():
            return self._move("promote", version, why)

    def rollback(self, why: str) -> Manifest:
        """Let the bundle serve that served before; raises `BundleError` when there is none.

        Repeated, it goes back further: to return to a model that was rolled back, promote it.
        """
        with self._locked():
            version = self.previous()
            if version is None:
                raise BundleError("There is nothing to go back to: no model served before.")
            return self._move("rollback", version, why)

    def _move(self, action: Literal["promote", "rollback"], version: str, why: str) -> Manifest:
        folder = self._bundles / version
        manifest = Bundle.load(folder).manifest
        before = self._keep_what_serves()
        if self._pointer.is_symlink() and before == version:
            return manifest
        # The history first: `_previous` sees which moves did not happen, but could not guess one.
        self._append(Move(datetime.now(UTC), action, before, version, why))
        self._point_to(folder)
        return manifest

    def _keep_what_serves(self) -> str | None:
        """Its version; the starter, or a folder put in place by hand, is copied to be kept."""
        folder = locate(self.home)
        if self._pointer.is_symlink() and folder.resolve().parent == self._bundles.resolve():
            return folder.resolve().name
        try:
            return self._install(folder).version
        except BundleError:
            return None  # it is damaged, and promoting another is the cure

    def _install(self, source: Path) -> Manifest:
        manifest = read_manifest(source)
        target = self._bundles / manifest.version
        if _version_of(target) == manifest.version:
            return read_manifest(target)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._bundles))
        for file in sorted(source.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                _copy_synced(file, part / file.name)
        _sync(part)
        copied = read_manifest(part)  # what was copied is what will be served
        part.chmod(0o755)
        if target.exists():  # damaged on disk: what is whole comes in its place
            target.rename(self._bundles / f".{manifest.version}.damaged")
        part.rename(target)
        _sync(self._bundles)
        return copied

    def _point_to(self, folder: Path) -> None:
        new = self._models / _NEW_POINTER
        new.unlink(missing_ok=True)
        new.symlink_to(folder.relative_to(self._models))
        if self._pointer.is_dir() and not self._pointer.is_symlink():
            # Put in place by hand. No call of the kernel swaps a folder for a link; stopped here,
            # the next change puts it back.
            self._pointer.rename(self._models / _ASIDE)
        new.replace(self._pointer)
        _sync(self._models)
        shutil.rmtree(self._models / _ASIDE, ignore_errors=True)

    def _append(self, move: Move) -> None:
        record = {
            "when": move.at.isoformat(),
            "action": move.action,
            "from": move.before,
            "to": move.after,
            "why": move.why,
        }
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self._history.open("a+b") as file:
            if file.tell() and not _ends_with_newline(self._history):
                file.write(b"\n")  # a line that was cut short stays alone
            file.write(line.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        _sync(self._models)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time; what a killed one has left is cleared away."""
        self._bundles.mkdir(parents=True, exist_ok=True)
        with (self._models / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it with the process
            for leftover in self._bundles.glob(".*"):
                shutil.rmtree(leftover, ignore_errors=True)
            aside = self._models / _ASIDE
            if aside.is_dir() and not self._pointer.is_symlink():
                aside.rename(self._pointer)
            yield


def _look(folder: Path) -> Installed:
    installed_at = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    try:
        return Installed(folder.name, folder, installed_at, read_manifest(folder))
    except BundleError as error:
        return Installed(folder.name, folder, installed_at, str(error))


def _version_of(folder: Path) -> str | None:
    try:
        return read_manifest(folder).version
    except BundleError:
        return None


def _parsed(line: str) -> Move | None:
    """A line of the history; None for one that was cut short."""
    try:
        data = json.loads(line)
        when = datetime.fromisoformat(data["when"])
        return Move(when, data["action"], data["from"], data["to"], data["why"])
    except (ValueError, TypeError, KeyError):
        return None


def _previous(history: Sequence[Move], serving: str | None) -> str | None:
    """What served before: promotions pile up, a rollback takes one off."""
    served: list[str] = []
    for move in history:
        _align(served, move.before)
        if move.action == "promote":
            served.append(move.after)
        elif served:
            served.pop()
    _align(served, serving)
    return served[-2] if len(served) > 1 else None


def _align(served: list[str], version: str | None) -> None:
    """Put `version` on top: a move that never happened is taken off, one by hand is put on."""
    if version is None or (served and served[-1] == version):
        return
    if version in served:
        while served[-1] != version:
            served.pop()
    else:
        served.append(version)


def _copy_synced(source: Path, target: Path) -> None:
    """The bytes alone, read-only: a link into somebody's cache would not be ours to keep."""
    shutil.copyfile(source, target)
    target.chmod(0o444)
    _sync(target)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
