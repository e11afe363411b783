"""A zip may come from anybody: what is understood is unpacked, the rest is refused."""

import dataclasses
import io
import os
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.params import Params, Unzip
from pipeline.stage import StageError
from pipeline.unzip import IMAGES, unzip

Zipped = Callable[..., Path]


@pytest.fixture
def limits(small: Params) -> Unzip:
    return small.unzip


@pytest.fixture
def unpacked(tmp_path: Path, limits: Unzip, zipped: Zipped) -> Callable[..., set[str]]:
    """`unpacked(members)`: zip them, unzip that, and list what is in the folder then."""

    def unpacked(members: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> set[str]:
        zipped(tmp_path / limits.archive, members, mode)
        unzip(limits, tmp_path)
        return files_in(tmp_path / IMAGES)

    return unpacked


Unpacked = Callable[..., set[str]]


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def refused(
    unpacked: Unpacked, members: dict[str, bytes], *words: str, mode: int = 0o100644
) -> None:
    with pytest.raises(StageError) as caught:
        unpacked(members, mode)
    for word in words:
        assert word in str(caught.value)


def test_every_image_is_unpacked_as_it_is(
    unpacked: Unpacked, members: dict[str, bytes], tmp_path: Path
) -> None:
    assert unpacked(members) == set(members)
    for name, data in members.items():
        assert (tmp_path / IMAGES / name).read_bytes() == data


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [("Training", "val", "TEST"), ("train", "validation", "testing"), ("TRAIN", "Valid", "Test")],
)
def test_the_common_names_of_splits_are_understood(
    unpacked: Unpacked, members: dict[str, bytes], train: str, valid: str, test: str
) -> None:
    names = {"train": train, "valid": valid, "test": test}
    spelled = {re.sub(r"^\w+", lambda m: names[m[0]], name): data for name, data in members.items()}
    assert unpacked(spelled) == set(members)


def test_folders_around_the_splits_are_taken_off(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    nested = {f"my data/images/{name}": data for name, data in members.items()}
    assert unpacked(nested | {"read me.txt": b"hello"}) == set(members)


def test_windows_separators_are_understood(unpacked: Unpacked, members: dict[str, bytes]) -> None:
    assert unpacked({n.replace("/", "\\"): data for n, data in members.items()}) == set(members)


def test_what_systems_leave_behind_is_left_out(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    junk = [
        "__MACOSX/train/disc/._000.png",
        "train/.DS_Store",
        "train/disc/.hidden.png",
        "train/disc/Thumbs.db",
        "test/square/desktop.ini",
        ".git/config",
        "labels.csv",
    ]
    assert unpacked(members | dict.fromkeys(junk, b"junk")) == set(members)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.png",
        "train/disc/../../../outside.png",
        "/tmp/outside.png",
        "train\\disc\\..\\..\\..\\outside.png",
        "C:\\outside.png",
    ],
)
def test_a_name_that_points_outside_is_refused(
    unpacked: Unpacked, members: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    refused(unpacked, members | {name: b"x"}, "unsafe", "outside")
    assert files_in(tmp_path) == {"data/shapes.zip"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(
    unpacked: Unpacked, members: dict[str, bytes], kind: int
) -> None:
    refused(unpacked, members, "is a link or a device", mode=kind | 0o777)


@pytest.mark.parametrize(
    ("key", "limit"), [("max_files", 79), ("max_total_bytes", 50_000), ("max_ratio", 1)]
)
def test_a_zip_above_a_limit_is_refused_by_the_name_of_the_limit(
    tmp_path: Path, members: dict[str, bytes], limits: Unzip, zipped: Zipped, key: str, limit: int
) -> None:
    zipped(tmp_path / limits.archive, members)
    with pytest.raises(StageError, match=f"above the limit unzip.{key} = {limit:,}"):
        unzip(dataclasses.replace(limits, **{key: limit}), tmp_path)
    assert files_in(tmp_path) == {"data/shapes.zip"}


def test_a_bomb_is_refused_before_it_is_unpacked(
    unpacked: Unpacked, members: dict[str, bytes], tmp_path: Path
) -> None:
    refused(unpacked, members | {"train/disc/bomb.png": bytes(50_000_000)}, "unzip.max_ratio")
    assert files_in(tmp_path) == {"data/shapes.zip"}


def test_a_member_larger_than_it_declares_is_refused(
    tmp_path: Path, members: dict[str, bytes], limits: Unzip, zipped: Zipped
) -> None:
    path = zipped(tmp_path / limits.archive, {"train/disc/liar.png": bytes(9_999)} | members)
    path.write_bytes(path.read_bytes().replace((9_999).to_bytes(4, "little"), bytes([9, 0, 0, 0])))
    with pytest.raises(StageError, match="is damaged"):
        unzip(limits, tmp_path)


def test_class_folders_alone_are_refused_with_what_to_do(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    alone = {name.split("/", 1)[1]: data for name, data in members.items()}
    refused(unpacked, alone, "class folders alone", "disc/", "square/", "train/CLASS")


def test_a_layout_that_is_not_understood_is_refused_with_what_was_seen(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    refused(
        unpacked,
        members | {"holdout/disc/1.png": b"x"},
        "other places: holdout/ (disc), test/ (disc, square), train/",
        "Expected are the folders train, valid and test",
    )


def test_a_zip_without_images_is_refused(unpacked: Unpacked) -> None:
    refused(unpacked, {"read me.txt": b"hello"}, "read me.txt", "Expected")
    refused(unpacked, {}, "nothing", "Expected")


def test_splits_with_different_classes_are_refused(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    refused(unpacked, members | {"test/star/1.png": b"x"}, "same two or more classes", "star")
    without = {name: data for name, data in members.items() if not name.startswith("valid")}
    refused(unpacked, without, "same two or more classes", "train/ (disc, square)")


def test_one_class_is_not_enough(unpacked: Unpacked, members: dict[str, bytes]) -> None:
    refused(unpacked, {n: d for n, d in members.items() if "disc" in n}, "two or more classes")


def test_two_members_for_one_file_are_refused(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    twice = members | {"val/disc/x.png": b"1", "validation/disc/x.png": b"2"}
    refused(unpacked, twice, "valid/disc/x.png 2 times")


def test_a_zip_with_a_password_is_refused(
    tmp_path: Path, members: dict[str, bytes], limits: Unzip, zipped: Zipped
) -> None:
    path = zipped(tmp_path / limits.archive, members)
    locked = bytearray(path.read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    with pytest.raises(StageError, match="locked by a password"):
        unzip(limits, tmp_path)


def test_a_damaged_zip_is_refused(tmp_path: Path, members: dict[str, bytes], limits: Unzip) -> None:
    path = tmp_path / limits.archive
    with pytest.raises(StageError, match="is not here"):
        unzip(limits, tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(StageError, match="not a zip"):
        unzip(limits, tmp_path)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    first = next(iter(members.values()))
    path.write_bytes(file.getvalue().replace(first, os.urandom(len(first)), 1))
    with pytest.raises(StageError, match=r"is damaged .*CRC"):
        unzip(limits, tmp_path)


def test_a_second_unzip_leaves_nothing_of_the_first(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    unpacked({f"{name}.png": data for name, data in members.items()})
    assert unpacked(members) == set(members)
