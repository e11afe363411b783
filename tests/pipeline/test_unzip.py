"""A zip may come from anybody: what is understood is unpacked, the rest is refused."""

import dataclasses
import io
import json
import os
import random
import re
import shutil
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.params import Params, Unzip
from pipeline.stage import StageError
from pipeline.unzip import IMAGES, REPORT, unzip

from .conftest import Killed, digests, noise

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


@pytest.fixture
def report(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """What the stage wrote about the zip."""
    return lambda: json.loads((tmp_path / REPORT).read_text("utf-8"))


def parted(members: dict[str, bytes]) -> Iterator[tuple[tuple[str, str, str], bytes]]:
    """Split, class and name of each member, and its bytes."""
    for path, data in members.items():
        split, label, name = path.split("/")
        yield (split, label, name), data


def alone(members: dict[str, bytes]) -> dict[str, bytes]:
    """The same images in class folders, without splits."""
    return {f"{label}/{name}": data for (_, label, name), data in parted(members)}


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
    [
        ("Training", "val", "TEST"),
        ("train", "validation", "testing"),
        ("TRAIN", "Valid", "Test"),
        ("train_set", "val images", "test-data"),
        ("Train", "dev", "test"),
    ],
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


def test_a_member_larger_than_it_declares_is_left_out(
    tmp_path: Path, members: dict[str, bytes], limits: Unzip, zipped: Zipped
) -> None:
    path = zipped(tmp_path / limits.archive, {"train/disc/liar.png": bytes(9_999)} | members)
    path.write_bytes(path.read_bytes().replace((9_999).to_bytes(4, "little"), bytes([9, 0, 0, 0])))
    unzip(limits, tmp_path)
    assert "liar.png" not in "".join(files_in(tmp_path / IMAGES))
    assert "damaged inside the zip" in (tmp_path / REPORT).read_text()


def test_what_is_left_out_is_told_with_the_reason(
    unpacked: Unpacked, members: dict[str, bytes], report: Callable[[], dict[str, Any]]
) -> None:
    odd = {
        "read me.txt": "not an image (.txt)",
        "loose.png": "in no folder of a class",
        "train/loose.png": "in train, but in no folder of a class",
        "train/disc/labels.csv": "not an image (.csv)",
        "train/disc/.hidden.png": "hidden",
        "train/disc/more.zip": "an archive inside the archive",
        "test/star/1.png": "of class star, which train does not have",
    }
    assert unpacked(members | dict.fromkeys(odd, b"x")) == set(members)
    assert {one["member"]: one["reason"] for one in report()["left_out"]} == odd


def test_an_image_in_a_deeper_folder_counts_for_its_class(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    deeper = unpacked(members | {"train/disc/more/of it/1.png": b"x"})
    assert deeper - set(members) == {"train/disc/more__of it__1.png"}


def test_a_folder_of_images_beside_the_splits_is_refused_with_the_tree(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    refused(
        unpacked,
        members | {"holdout/disc/1.png": b"x"},
        "images in holdout",
        "Expected are folders train, valid and test",
        "  holdout/\n    disc/  1 file\n  test/\n    disc/  8 files",
    )


def test_a_large_tree_is_shortened_and_cannot_talk_to_the_terminal(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    hostile = {f"holdout/\x1b[31m{number}/1.png": b"x" for number in range(90)}
    with pytest.raises(StageError, match="and 76 more folders") as caught:
        unpacked(members | hostile)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "the zip is empty"),
        (["read me.txt", "a/list.csv"], "no images, only a/list.csv, read me.txt"),
        (["my data/set.zip"], "holds other archives (my data/set.zip). Unpack that"),
        (["1.png", "2.png"], "no image is in the folder of a class"),
        (["train/1.png", "test/2.png"], "no image is in the folder of a class"),
        (["cats/1.png", "cats/2.png"], "two or more classes in train; here cats"),
        (["a/train/x/1.png", "b/test/x/1.png"], "folders of splits are not side by side"),
        (["test/cats/1.png", "test/dogs/1.png"], "here none"),
    ],
)
def test_a_zip_that_is_not_understood_is_refused_in_words(
    unpacked: Unpacked, names: list[str], words: str
) -> None:
    refused(unpacked, dict.fromkeys(names, b"x"), words, "Expected are folders")


def test_splits_inside_the_class_folders_are_understood(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    turned = {"/".join((c, s, n)): d for (s, c, n), d in parted(members)}
    assert unpacked(turned) == set(members)


def test_a_split_folder_inside_itself_is_understood(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    doubled = {f"{s}_set/{s}_set/{c}/{n}": d for (s, c, n), d in parted(members)}
    assert unpacked(doubled) == set(members)


def test_class_folders_that_differ_in_case_or_unicode_form_are_one_class(
    unpacked: Unpacked, members: dict[str, bytes], report: Callable[[], dict[str, Any]]
) -> None:
    spelled = {
        "/".join((s, {"train": "de\u0301", "valid": "D\xe9", "test": "d\xe9"}[s], n))
        if c == "disc"
        else "/".join((s, c, n)): d
        for (s, c, n), d in parted(members)
    }
    assert unpacked(spelled) == {name.replace("/disc/", "/d\xe9/") for name in members}
    assert report()["notes"] == [
        "The folder D\xe9 is taken for the class d\xe9: only upper and lower case differ."
    ]


def test_a_class_folder_without_images_is_told_and_is_no_class(
    unpacked: Unpacked, members: dict[str, bytes], report: Callable[[], dict[str, Any]]
) -> None:
    assert unpacked(members | {"train/star/": b""}) == set(members)
    assert report()["notes"] == ["The folder train/star holds no image: no class."]


def test_a_class_that_train_lacks_is_told_with_what_it_may_be(
    unpacked: Unpacked, members: dict[str, bytes], report: Callable[[], dict[str, Any]]
) -> None:
    assert unpacked(members | {"test/squares/1.png": b"x"}) == set(members)
    (note,) = report()["notes"]
    assert note.startswith("The class squares is not in train")
    assert note.endswith("Is it square?")


def test_a_class_folder_that_cannot_be_a_label_is_refused(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    refused(unpacked, members | {"train/a\nb/1.png": b"x"}, "cannot be a label", "'a\\nb'")
    refused(unpacked, members | {"train/" + "x" * 300 + "/1.png": b"x"}, "too long")


def test_names_that_differ_in_case_only_and_names_given_twice_are_both_kept(
    unpacked: Unpacked, members: dict[str, bytes], report: Callable[[], dict[str, Any]]
) -> None:
    twins = {"train/disc/A.png": b"1", "train/disc/a.PNG": b"2", "TRAIN/disc/a.PNG": b"3"}
    names = {"A.png", "a (2).PNG", "a (3).PNG"}
    assert unpacked(members | twins) - set(members) == {f"train/disc/{name}" for name in names}
    assert len(report()["notes"]) == 2


def test_a_name_too_long_for_a_disk_is_shortened(
    unpacked: Unpacked, members: dict[str, bytes], report: Callable[[], dict[str, Any]]
) -> None:
    (short,) = unpacked(members | {"train/disc/" + "\u732b" * 200 + ".png": b"x"}) - set(members)
    assert re.fullmatch("train/disc/\u732b+~[0-9a-f]{12}\\.png", short)
    assert "has too long a name" in report()["notes"][0]


def test_the_case_of_a_zip_without_valid_and_test_is_told(
    unpacked: Unpacked, members: dict[str, bytes], report: Callable[[], dict[str, Any]]
) -> None:
    names = unpacked(alone(members))
    per_split = Counter(name.rsplit("/", 1)[0] for name in names)
    assert per_split == {
        f"{split}/{shape}": count
        for split, count in (("train", 28), ("valid", 6), ("test", 6))
        for shape in ("disc", "square")
    }
    notes = report()["notes"]
    assert "The zip has class folders alone: valid and test are cut from them." in notes
    assert any("12 images of train went there, near-duplicates together" in n for n in notes)


def test_splits_are_cut_alike_each_time_whatever_files_are_called_and_by_the_seed(
    tmp_path: Path, limits: Unzip, members: dict[str, bytes], zipped: Zipped
) -> None:
    renamed = {name.replace(".", "-x."): data for name, data in alone(members).items()}
    cuts = []
    for number, (names, change) in enumerate(
        [(alone(members), {}), (renamed, {}), (alone(members), {"split_seed": 8})]
    ):
        root = tmp_path / str(number)
        zipped(root / limits.archive, names)
        unzip(dataclasses.replace(limits, **change), root)
        tests = (root / IMAGES / "test").rglob("*.*")
        cuts.append({path.read_bytes() for path in tests})
    assert cuts[0] == cuts[1] != cuts[2]


def test_only_what_is_lacking_is_cut(
    unpacked: Unpacked, members: dict[str, bytes], report: Callable[[], dict[str, Any]]
) -> None:
    without = {n: d for n, d in members.items() if not n.startswith(("test/", "valid/disc"))}
    names = unpacked(without)
    assert {n for n in names if n.startswith("valid/square")} == {
        n for n in members if n.startswith("valid/square")
    }
    counts = Counter(name.rsplit("/", 1)[0] for name in names)
    assert (counts["valid/disc"], counts["test/disc"], counts["test/square"]) == (4, 4, 4)
    assert len(report()["notes"]) == 2


def test_near_duplicates_stay_on_one_side(
    unpacked: Unpacked,
) -> None:
    """Ten copies of each of eight photographs of noise, saved again in other sizes."""
    copies, series = {}, {}
    for number in range(8):
        for copy in range(10):
            name = f"{'disc' if number % 2 else 'square'}/{number}-{copy}.jpg"
            copies[name] = noise(number, 60 + 9 * copy)
            series[name.split("/")[1]] = number
    names = unpacked(copies)
    sides = {(series[Path(name).name], name.split("/")[0]) for name in names}
    assert len(sides) == 8
    assert {side for _, side in sides} == {"train", "valid", "test"}


def test_a_class_with_too_few_images_to_cut_from_is_refused_by_name(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    few = {n: d for n, d in alone(members).items() if n.startswith("disc")}
    two = {"square/1.png": b"1", "square/2.png": b"2"}
    refused(unpacked, few | two, "the class square has 2 images in train: too few to cut valid")


def test_a_class_of_copies_of_one_image_is_refused_by_name(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    few = {n: d for n, d in alone(members).items() if n.startswith("disc")}
    same = {f"square/{n}.jpg": noise(1, 64 + n) for n in range(9)}
    refused(
        unpacked, few | same, "for the class square: too many of its images are near-duplicates"
    )


def test_a_damaged_member_is_left_out_and_told(
    tmp_path: Path, limits: Unzip, members: dict[str, bytes], report: Callable[[], dict[str, Any]]
) -> None:
    path = tmp_path / limits.archive
    path.parent.mkdir()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    name, first = next(iter(members.items()))
    path.write_bytes(file.getvalue().replace(first, os.urandom(len(first)), 1))
    unzip(limits, tmp_path)
    assert files_in(tmp_path / IMAGES) == set(members) - {name}
    (left_out,) = report()["left_out"]
    assert left_out["member"] == name
    assert "damaged inside the zip (Bad CRC" in left_out["reason"]


def test_a_zip_with_a_password_is_refused(
    tmp_path: Path, members: dict[str, bytes], limits: Unzip, zipped: Zipped
) -> None:
    path = zipped(tmp_path / limits.archive, members)
    locked = bytearray(path.read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    with pytest.raises(StageError, match="locked by a password"):
        unzip(limits, tmp_path)


def test_a_damaged_zip_is_refused(tmp_path: Path, limits: Unzip) -> None:
    path = tmp_path / limits.archive
    with pytest.raises(StageError, match="is not here"):
        unzip(limits, tmp_path)
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(StageError, match="not a zip"):
        unzip(limits, tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StageError, match=r"is a folder\. Pack it"):
        unzip(limits, tmp_path)


@pytest.mark.parametrize(
    ("head", "kind"),
    [(b"Rar!\x1a", "RAR"), (b"7z\xbc\xaf\x27", "7-Zip"), (b"\x1f\x8b\x08", "gzip")],
)
def test_another_kind_of_archive_is_named(
    tmp_path: Path, limits: Unzip, head: bytes, kind: str
) -> None:
    (tmp_path / limits.archive).parent.mkdir()
    (tmp_path / limits.archive).write_bytes(head + bytes(99))
    with pytest.raises(StageError, match=f"{kind}.*not a zip. Pack the images as a zip"):
        unzip(limits, tmp_path)


def test_a_method_of_packing_that_is_not_known_here_is_named(
    tmp_path: Path, limits: Unzip, members: dict[str, bytes], zipped: Zipped
) -> None:
    path = zipped(tmp_path / limits.archive, members)
    changed = bytearray(path.read_bytes())
    changed[changed.index(b"PK\x01\x02") + 10] = 9
    path.write_bytes(changed)
    with pytest.raises(StageError, match=r"packed by method 9 .*Deflate64"):
        unzip(limits, tmp_path)


def test_whatever_is_damaged_in_a_zip_ends_in_words_or_in_images(
    tmp_path: Path, limits: Unzip, members: dict[str, bytes], zipped: Zipped
) -> None:
    few = {name: data for name, data in members.items() if name.endswith("0.png")}
    few |= {"test/disc/n\xe9.png": b"x", "test/square/b.png": b"y"}
    path = zipped(tmp_path / limits.archive, few)
    whole, chance = path.read_bytes(), random.Random(7)
    directory = whole.index(b"PK\x01\x02")
    refusals = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            start = chance.choice((0, directory))
            damaged[chance.randrange(start, len(whole))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            unzip(limits, tmp_path)
        except StageError:
            refusals += 1
    assert 0 < refusals < 60


def test_the_same_zip_gives_the_same_files_after_a_kill(
    tmp_path: Path, small: Params, members: dict[str, bytes], zipped: Zipped, killed: Killed
) -> None:
    many = {f"{n[:-4]}-{i}{n[-4:]}": d for n, d in alone(members).items() for i in range(20)}
    zipped(tmp_path / small.unzip.archive, many)
    unzip(small.unzip, tmp_path)

    def written() -> dict[str, str]:
        both = digests(tmp_path / "data").items()
        return {name: value for name, value in both if not name.startswith("cache/")}

    expected = written()
    shutil.rmtree(tmp_path / IMAGES)

    def is_underway() -> bool:
        return len(list((tmp_path / IMAGES).rglob("*.png"))) > 50

    killed("unzip", tmp_path, is_underway)
    assert written() != expected
    unzip(small.unzip, tmp_path)
    assert written() == expected


def test_a_second_unzip_leaves_nothing_of_the_first(
    unpacked: Unpacked, members: dict[str, bytes]
) -> None:
    unpacked({f"{name}.png": data for name, data in members.items()})
    assert unpacked(members) == set(members)
