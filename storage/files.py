"""Files that are kept: read once, linked to their new place, synced, and only then taken out.

Every step may be repeated after a crash: linking again finds its own link, removing again finds
nothing. A file is ours only while device and inode are those that were claimed; a newer file of the
same name is never touched. Leaving by link and unlink, not by rename, also spares watchdog an
unmatched move event, behind which it holds all others for half a second.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from core.types import Stamp

REASON_SUFFIX = ".reason.json"
_NAME_BYTES = 255  # the longest name of every common file system
_SUFFIX_BYTES = 32  # what is longer after the last dot is no suffix
_SPARE_NAMES = 9  # how many names a file may try that carry its tag
_CHUNK_BYTES = 1024 * 1024
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_GONE = (FileNotFoundError, NotADirectoryError)
# A copy keeps the time of its original, as exactly as its file system can: ns to 2 s (FAT).
_TIME_STEPS_NS = (1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000)


class ChangedError(Exception):
    """The file is gone, or no longer the one that was listed."""


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a listed or opened file."""
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def read_once(path: str | Path, stamp: Stamp) -> bytes:
    """The bytes of exactly this file; raises `ChangedError`, or `OSError` if it is unreadable."""
    with _opened(path, stamp) as descriptor:
        data = os.read(descriptor, stamp.size_bytes + 1)  # as a rule all of it, and one call
        if len(data) != stamp.size_bytes:
            data = b"".join((data, *_chunks(descriptor)))
        if len(data) != stamp.size_bytes or stamp_of(os.fstat(descriptor)) != stamp:
            raise ChangedError(path)
    return data


def hash_file(path: str | Path, stamp: Stamp) -> str:
    """The sha256 of exactly this file in constant memory; raises as `read_once`."""
    digest = hashlib.sha256()
    with _opened(path, stamp) as descriptor:
        for chunk in _chunks(descriptor):
            digest.update(chunk)
        if stamp_of(os.fstat(descriptor)) != stamp:
            raise ChangedError(path)
    return digest.hexdigest()


def put_at_once(source: str, stamp: Stamp, target: str) -> bool:
    """The common case of `put` in two calls: a file with no other name gets a free one.

    False when it is not that case, or anything went wrong; all is as it was, and `put` knows why.
    """
    if target.endswith(REASON_SUFFIX):
        return False
    try:
        os.link(source, target, follow_symlinks=False)
        status = os.lstat(target)
        if stamp_of(status) == stamp and status.st_nlink == 2:
            return True
        os.unlink(target)  # noqa: PTH108 - no Path is made for each of a thousand files a second
    except OSError:
        pass
    return False


def put(source: Path, stamp: Stamp, folder: Path, tag: str, sha256: str | None) -> Path | None:
    """Give the file a second name in `folder`; returns it, or None when the file is not there.

    A taken name is left alone: the file then becomes `STEM-TAG.EXT`, where `tag` is unique to it.
    Where the file system has no links, or is another one, the bytes are copied and synced.
    Raises `OSError`; the file is then where it was.
    """
    make_folder(folder)
    if _may_have_another_name(source):
        for target in _candidates(folder, source.name, tag):
            if _is_ours(target, stamp):
                return target
    for target in _candidates(folder, source.name, tag):
        if not _is_free(target):
            continue
        targets = _candidates(folder, source.name, tag)
        try:
            return target if _link(source, stamp, target) else _copy_made(targets, stamp, sha256)
        except FileExistsError:
            continue  # another watcher was faster
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        part = folder / f".part-{tag}"
        part.unlink(missing_ok=True)  # half a copy, from before a crash
        return _copy_made(targets, stamp, sha256) or _copy(source, stamp, target, part)
    raise FileExistsError(
        errno.EEXIST, f"no name is left in {folder}, make room there", source.name
    )


def put_reason(target: Path, reason: dict[str, Any]) -> None:
    """Write NAME.reason.json beside a quarantined file, whole or not at all.

    One that is there stays: it is ours from before a crash, or somebody else's.
    """
    path = reason_path(target)
    part = path.with_name(f".part-{zlib.crc32(os.fsencode(path.name)):08x}")
    try:
        if os.path.lexists(path):
            return
        with part.open("w", encoding="utf-8") as file:
            json.dump(reason, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            give_name(part, path)
    finally:
        part.unlink(missing_ok=True)


def reason_path(target: Path) -> Path:
    """Where the reason for a quarantined file stands; a very long name is cut to make room."""
    name = _cut(os.fsencode(target.name), _NAME_BYTES - len(REASON_SUFFIX))
    return target.with_name(os.fsdecode(name) + REASON_SUFFIX)


def remove(source: str | Path, stamp: Stamp, done_suffix: str = "") -> bool:
    """Take the file out of the inbox if it is there and still ours; returns whether it was.

    Its done-file goes first: one that stayed behind would vouch for the next file of this name.
    """
    try:
        if stamp_of(os.lstat(source)) != stamp:
            return False
        if done_suffix:
            Path(f"{source}{done_suffix}").unlink(missing_ok=True)
        os.unlink(source)  # noqa: PTH108 - see `put_at_once`
    except _GONE:
        return False
    return True


def sync_folders(folders: Iterable[str | Path]) -> None:
    """Make the names in these folders survive a power cut."""
    for folder in set(folders):
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except _GONE:
            continue  # somebody removed the folder that we emptied
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network and FUSE mounts cannot sync a folder
                raise
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
    return _cut(name.encode("utf-8", "replace"), _NAME_BYTES).decode() or "_"


@contextlib.contextmanager
def _opened(path: str | Path, stamp: Stamp) -> Iterator[int]:
    """A descriptor of exactly this regular file; never follows a link, never waits for a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except _GONE:
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
    """The names that a file may get. All but the first are its own, as are their reasons."""
    if not name.endswith(REASON_SUFFIX):  # such a name may be needed for the reason of another
        yield folder / name
    stem, suffix = os.path.splitext(os.fsencode(name))  # noqa: PTH122 - bytes
    suffix = _cut(suffix, _SUFFIX_BYTES)
    for number in range(1, _SPARE_NAMES + 1):
        end = os.fsencode(f"-{tag}" if number == 1 else f"-{tag}-{number}") + suffix
        room = _NAME_BYTES - len(REASON_SUFFIX) - len(end)
        yield folder / os.fsdecode(_cut(stem, room) + end)


def _cut(name: bytes, limit: int) -> bytes:
    """At most `limit` bytes, and no half of a UTF-8 character at the end."""
    if len(name) <= limit:
        return name
    for end in range(limit, max(limit - 4, 0), -1):  # a character has four bytes at most
        if name[end] & 0xC0 != 0x80:
            return name[:end]
    return name[:limit]


def _is_free(target: Path) -> bool:
    """Whether nobody has this name, nor the name of its reason."""
    return not (os.path.lexists(target) or os.path.lexists(reason_path(target)))


def _may_have_another_name(source: Path) -> bool:
    """False only for a file that nobody has linked: then no link of ours need be looked for."""
    try:
        return source.lstat().st_nlink > 1
    except _GONE:
        return True


def _is_ours(target: Path, stamp: Stamp) -> bool:
    """Whether this name is a link to the claimed file."""
    try:
        status = target.lstat()
    except _GONE:
        return False
    return (status.st_dev, status.st_ino) == (stamp.device, stamp.inode)


def _copy_made(targets: Iterable[Path], stamp: Stamp, sha256: str | None) -> Path | None:
    """The name under which a copy stands that we made before a crash."""
    return next((target for target in targets if _is_copy(target, stamp, sha256)), None)


def _is_copy(target: Path, stamp: Stamp, sha256: str | None) -> bool:
    try:
        status = target.lstat()
        times_ns = {stamp.mtime_ns - stamp.mtime_ns % step for step in _TIME_STEPS_NS}
        if status.st_size != stamp.size_bytes or status.st_mtime_ns not in times_ns:
            return False
        return hash_file(target, stamp_of(status)) == sha256
    except (*_GONE, ChangedError):
        return False


def _link(source: Path, stamp: Stamp, target: Path) -> bool:
    """A second name; False when the source is no longer the claimed file."""
    try:
        os.link(source, target, follow_symlinks=False)
    except _GONE:
        if _is_ours(source, stamp):
            raise  # it is the folder that is gone
        return False
    if stamp_of(target.lstat()) == stamp:
        return True
    target.unlink()  # a newer file took the name in between: it is not ours to file
    return False


def _copy(source: Path, stamp: Stamp, target: Path, part: Path) -> Path | None:
    """Copy under a hidden name, sync, and give it the real name when it is whole."""
    try:
        with _opened(source, stamp) as descriptor, part.open("xb") as file:
            for chunk in _chunks(descriptor):
                file.write(chunk)
            file.flush()
            os.utime(file.fileno(), ns=(stamp.mtime_ns, stamp.mtime_ns))
            os.fsync(file.fileno())
            _check_copy(descriptor, stamp, file.fileno(), part)
        give_name(part, target)
    except ChangedError:
        return None
    finally:
        part.unlink(missing_ok=True)
    return target


def _check_copy(original: int, stamp: Stamp, copy: int, part: Path) -> None:
    """Raise if the original changed while it was copied, or if somebody else copies it too."""
    if stamp_of(os.fstat(original)) != stamp:
        raise ChangedError(part)
    if not os.path.samestat(part.lstat(), os.fstat(copy)):
        raise BlockingIOError(errno.EAGAIN, "another process files this too", str(part))


def give_name(part: Path, target: Path) -> None:
    """Show a finished file under its name; raises `FileExistsError` rather than replace another."""
    try:
        os.link(part, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        target.touch(exist_ok=False)  # the name is ours, and only now may it be replaced
        part.replace(target)
