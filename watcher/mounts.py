"""What is mounted where: some file systems say nothing of what other machines write to them."""

from pathlib import Path
from typing import NamedTuple

import psutil

# Another machine, or the host of a container, may write here: no event tells us, and SQLite's
# write-ahead log cannot be trusted.
_NETWORK = frozenset({
    "9p", "afs", "afpfs", "beegfs", "ceph", "cifs", "davfs", "drvfs", "fakeowner", "fuse",
    "glusterfs", "grpcfuse", "lustre", "ncpfs", "nfs", "nfs4", "osxfs", "prl_fs", "smb3", "smbfs",
    "vboxsf", "virtiofs", "vmhgfs", "webdav",
})  # fmt: skip


Identity = tuple[int, int]  # device and inode


class Mount(NamedTuple):
    """One line of the mount table; `kind` is the file system as the kernel names it."""

    point: Path
    kind: str
    device: str

    @property
    def is_network(self) -> bool:
        """Whether others may write here unseen; what a FUSE program shows counts as such."""
        return self.kind in _NETWORK or self.kind.startswith("fuse.")


def holding(path: Path) -> Mount | None:
    """The mount that this path lies on; None where the table cannot be read."""
    there = _existing(path).resolve()
    found = [mount for mount in _table() if there.is_relative_to(mount.point)]
    # The longest, and of several on one place the last.
    return (
        max(enumerate(found), key=lambda at: (len(at[1].point.parts), at[0]))[1] if found else None
    )


def below(folder: Path) -> list[Mount]:
    """What is mounted somewhere inside this folder."""
    top = folder.resolve()
    return [mount for mount in _table() if mount.point != top and mount.point.is_relative_to(top)]


def identity(folder: Path) -> Identity | None:
    """Which folder this is now, or None where there is none: a mount makes another of it."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_mount_point(folder: Path) -> bool:
    """Whether something is mounted exactly here; bind mounts count."""
    top = folder.resolve()
    return any(mount.point == top for mount in _table())


def _table() -> list[Mount]:
    parts = psutil.disk_partitions(all=True)
    return [Mount(Path(part.mountpoint), part.fstype, part.device) for part in parts]


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
