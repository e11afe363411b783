"""The sha256 of a file is noted, and a file that was written since is read again."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.digests import NOTES, Digest, digests_of, remember, stamp
from pipeline.params import Params
from pipeline.unzip import IMAGES, unzip

from .conftest import noise


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / IMAGES
    folder.mkdir(parents=True)
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        (folder / name).write_bytes(noise(int(name[0]), 20))
    return folder


NAMES = ["1.jpg", "2.jpg", "3.jpg"]


def test_a_noted_file_is_not_read_again(images: Path, tmp_path: Path) -> None:
    remember(tmp_path, [Digest("1.jpg", stamp(images / "1.jpg"), "as noted")])
    others = [sha256(images / name) for name in NAMES[1:]]
    assert digests_of(tmp_path, images, NAMES) == ["as noted", *others]


@pytest.mark.parametrize("longer", [0, 1])
def test_a_file_of_another_time_or_size_is_read_again(
    images: Path, tmp_path: Path, longer: int
) -> None:
    digests_of(tmp_path, images, NAMES)
    changed = images / "2.jpg"
    before = changed.stat()
    changed.write_bytes(b"x" * (before.st_size + longer))
    time_ns = before.st_mtime_ns + (0 if longer else 1)
    os.utime(changed, ns=(time_ns, time_ns))
    assert digests_of(tmp_path, images, NAMES) == [sha256(images / name) for name in NAMES]


@pytest.mark.parametrize("damage", [b"", b"[[", b"\xff\xfe"])
def test_damaged_notes_are_done_without(images: Path, tmp_path: Path, damage: bytes) -> None:
    (tmp_path / NOTES).parent.mkdir()
    (tmp_path / NOTES).write_bytes(damage)
    assert digests_of(tmp_path, images, NAMES) == [sha256(images / name) for name in NAMES]
    assert digests_of(tmp_path, images, NAMES[:1]) == [sha256(images / "1.jpg")]


@pytest.mark.parametrize("has_splits", [True, False])
def test_unzip_notes_what_it_wrote_where_it_lies_in_the_end(
    small: Params,
    tmp_path: Path,
    members: dict[str, bytes],
    zipped: Callable[..., Path],
    has_splits: bool,
) -> None:
    alone = {name.split("/", 1)[1]: data for name, data in members.items()}
    zipped(tmp_path / small.unzip.archive, members if has_splits else alone)
    unzip(small.unzip, tmp_path)
    folder = tmp_path / IMAGES
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    noted = (tmp_path / NOTES).read_bytes()
    assert digests_of(tmp_path, folder, paths) == [sha256(folder / path) for path in paths]
    assert (tmp_path / NOTES).read_bytes() == noted, "a file had to be read"
