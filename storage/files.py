"""Files that are kept: read once, linked to their new place, synced, and only then taken out.

Every step may be repeated after a crash: linking again finds its own link, removing again finds
nothing. A file is ours only while device and inode are those that were claimed; a newer file of the
same name is never touched. Leaving by link and unlink, not by rename, also spares watchdog an
unmatched move event, behind which it holds all others for half a second.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from core.types import Stamp

REASON_SUFFIX = ".reason.json"
_NAME_BYTES = 255  # the longest name of every common file system
_CHUNK_BYTES = 1024 * 1024
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class ChangedError(Exception):
    """The file is gone, or no longer the one that was listed."""


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a listed or opened file."""
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def read_once(path: Path, stamp: Stamp) -> bytes:
    """The bytes of exactly this file; raises `ChangedError`, or `OSError` if it is unreadable."""
    with _opened(path, stamp) as descriptor:
        data = b"".join(_chunks(descriptor))
        if len(data) != stamp.size_bytes or stamp_of(os.fstat(descriptor)) != stamp:
            raise ChangedError(path)
    return data


def hash_file(path: Path, stamp: Stamp) -> str:
    """The sha256 of exactly this file in constant memory; raises as `read_once`."""
    digest = hashlib.sha256()
    with _opened(path, stamp) as descriptor:
        for chunk in _chunks(descriptor):
            digest.update(chunk)
        if stamp_of(os.fstat(descriptor)) != stamp:
            raise ChangedError(path)
    return digest.hexdigest()


def put(source: Path, stamp: Stamp, folder: Path, tag: str, sha256: str | None) -> Path | None:
    """Give the file a second name in `folder`; returns it, or None when the file is not there.

    A taken name is left alone: the file then becomes `STEM-TAG.EXT`, where `tag` is unique to it.
    Where the file system has no links, or is another one, the bytes are copied and synced.
    Raises `OSError`.
    """
    make_folder(folder)
    for target in _candidates(folder, source.name, tag):
        if _is_ours(target, stamp) or _is_copy(target, stamp, sha256):
            return target
        if os.path.lexists(target) or os.path.lexists(reason_path(target)):
            continue
        try:
            if _link(source, stamp, target):
                return target
        except FileExistsError:
            continue  # another watcher was faster
    return None


def put_reason(target: Path, reason: dict[str, Any]) -> None:
    """Write NAME.reason.json beside a quarantined file, whole or not at all."""
    path = reason_path(target)
    part = path.with_name(f".part-{os.getpid()}")
    with part.open("w", encoding="utf-8") as file:
        json.dump(reason, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def reason_path(target: Path) -> Path:
    """Where the reason for a quarantined file stands; a very long name is cut to make room."""
    name = _cut(os.fsencode(target.name), _NAME_BYTES - len(REASON_SUFFIX))
    return target.with_name(os.fsdecode(name) + REASON_SUFFIX)


def remove(source: Path, stamp: Stamp) -> bool:
    """Take the file out of the inbox if it is still ours; returns whether it is gone."""
    try:
        if stamp_of(source.lstat()) != stamp:
            return False
        source.unlink()
    except FileNotFoundError:
        return True
    return True


def sync_folders(folders: Iterable[Path]) -> None:
    """Make the names in these folders survive a power cut."""
    for folder in set(folders):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # somebody removed the folder that we emptied
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folders([folder.parent])


def label_folder(label: str) -> str:
    """A label as one harmless folder name: no separators, no leading dots, not too long."""
    name = label.replace("/", "_").replace("\\", "_").replace("\0", "_").lstrip(". ")
    return os.fsdecode(_cut(os.fsencode(name), _NAME_BYTES)) or "_"


@contextmanager
def _opened(path: Path, stamp: Stamp) -> Iterator[int]:
    """A descriptor of exactly this regular file; never follows a link, never waits for a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ChangedError(path) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ChangedError(path) from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stamp_of(status) != stamp:
            raise ChangedError(path)
        yield descriptor
    finally:
        os.close(descriptor)


def _chunks(descriptor: int) -> Iterator[bytes]:
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        yield chunk


def _candidates(folder: Path, name: str, tag: str) -> Iterator[Path]:
    yield folder / name
    pure = PurePath(name)
    suffix = os.fsencode(f"-{tag}{pure.suffix}")
    yield folder / os.fsdecode(_cut(os.fsencode(pure.stem), _NAME_BYTES - len(suffix)) + suffix)


def _cut(name: bytes, limit: int) -> bytes:
    """At most `limit` bytes, and no half of a UTF-8 character at the end."""
    if len(name) <= limit:
        return name
    while limit and name[limit] & 0xC0 == 0x80:
        limit -= 1
    return name[:limit]


def _is_ours(target: Path, stamp: Stamp) -> bool:
    """Whether this name is a link to the claimed file."""
    try:
        status = target.lstat()
    except FileNotFoundError:
        return False
    return (status.st_dev, status.st_ino) == (stamp.device, stamp.inode)


def _is_copy(target: Path, stamp: Stamp, sha256: str | None) -> bool:
    """Whether this name holds a copy that we made before a crash; links make no copies."""
    try:
        status = target.lstat()
        if status.st_dev == stamp.device or status.st_size != stamp.size_bytes:
            return False
        return hash_file(target, stamp_of(status)) == sha256
    except (FileNotFoundError, ChangedError):
        return False


def _link(source: Path, stamp: Stamp, target: Path) -> bool:
    """Link or copy; False when the source is no longer the claimed file."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _copy(source, stamp, target)
    if stamp_of(target.lstat()) == stamp:
        return True
    target.unlink()  # a newer file took the name in between: it is not ours to file
    return False


def _copy(source: Path, stamp: Stamp, target: Path) -> bool:
    """Copy under a hidden name, sync, and give it the real name when it is whole."""
    part = target.with_name(f".part-{os.getpid()}-{stamp.inode}")
    try:
        with _opened(source, stamp) as descriptor, part.open("wb") as file:
            for chunk in _chunks(descriptor):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.utime(part, ns=(stamp.mtime_ns, stamp.mtime_ns))
        part.rename(target)
    except ChangedError:
        part.unlink(missing_ok=True)
        return False
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return True
