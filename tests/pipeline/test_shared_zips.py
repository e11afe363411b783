"""Zips as people make them, and as attackers do: real ones, where they lie beside the checkout."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import prepared, read_manifest, read_unreadable
from pipeline.evaluate import METRICS, evaluate
from pipeline.params import Params
from pipeline.preprocess import preprocess
from pipeline.stage import StageError
from pipeline.unzip import IMAGES, REPORT, unzip

# What becomes of each zip of zips/index.csv: how many images, and a word of what is told; or why it
# is refused.
FATES: dict[str, tuple[int, str] | str] = {
    "00_good.zip": (40, ""),
    "absolute.zip": "'/tmp/evil.jpg' points outside its folder",
    "case_twins.zip": (41, "has the name of another"),
    "crc_error.zip": (39, "damaged inside the zip (Bad CRC"),
    "empty.zip": "the zip is empty",
    "four_classes_in_valid.zip": (38, "no images of its own for 1 of the classes (church)"),
    "long_name.zip": (41, "too long a name"),
    "no_test.zip": (30, "test has no images of its own"),
    "one_class.zip": "two or more classes in train; here tench",
    "prefixed.zip": (40, ""),
    "slip_deep.zip": "evil.jpg' points outside its folder",
    "wrapped_twice.zip": (40, ""),
    "zip_in_zip.zip": "the zip holds other archives (datasets.zip)",
}


def unzipped(archive: Path, params: Params, root: Path) -> dict[str, Any]:
    unzip(dataclasses.replace(params.unzip, archive=str(archive)), root)
    report: dict[str, Any] = json.loads((root / REPORT).read_text("utf-8"))
    return report


def test_every_zip_of_the_list_has_its_fate(
    shared_data: Path, small: Params, tmp_path: Path
) -> None:
    with (shared_data / "zips" / "index.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    assert set(names) == set(FATES)
    for name in names:
        fate, root = FATES[name], tmp_path / name
        root.mkdir()
        if isinstance(fate, str):
            with pytest.raises(StageError) as caught:
                unzipped(shared_data / "zips" / name, small, root)
            assert fate in str(caught.value)
            assert not (root / IMAGES).exists()
        else:
            told = unzipped(shared_data / "zips" / name, small, root)
            assert len(list((root / IMAGES).glob("*/*/*"))) == fate[0], name
            assert fate[1] in json.dumps([*told["notes"], *told["left_out"]]), name


def test_the_messy_zip_is_handled_as_the_list_expects(
    shared_data: Path, small: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (shared_data / "messy.expected.csv").open(newline="", encoding="utf-8") as file:
        expected = {row["path in zip"]: row["what is wrong or odd"] for row in csv.DictReader(file)}
    told = unzipped(shared_data / "messy.zip", small, tmp_path)
    left_out = {one["member"]: one["reason"] for one in told["left_out"]}
    for name in small.preprocess.recipes:
        preprocess(small.preprocess, name, tmp_path)
    used = {row.path for row in read_manifest(tmp_path / prepared("small"))}
    unreadable = {one.path: one.reason for one in read_unreadable(tmp_path / prepared("small"))}
    with pytest.raises(StageError) as caught:
        evaluate(small, tmp_path)
    words = str(caught.value) + capsys.readouterr().err + "".join(told["notes"])

    top = "my data (final)/"
    for path, what in expected.items():
        inner = path.removeprefix(top)
        check = _CHECKS.get(_kind(what))
        if check is None:
            stored = {inner, inner.replace("more/deeper", "more__deeper")}
            is_folder = inner.endswith("/") and any(u.startswith(_nfc(inner)) for u in used)
            is_unnamed = "<GBK" in inner and any("\\u2566" in ascii(u) for u in used)
            assert stored & used or is_folder or is_unnamed, path
        else:
            check(path, inner, used, {**left_out, **unreadable}, words)
    labels = {path.split("/")[1] for path in used}
    assert labels == {"cardboard", "glass bottles", "m\u00e9tal", "\u7eb8 paper", "Plastic & Co."}
    metrics = json.loads((tmp_path / METRICS).read_text())
    assert metrics["duplicates_across_splits"] == 3
    assert metrics["near_duplicates_across_splits"] == 2
    assert metrics["label_conflicts"] == 1
    assert metrics["images"]["test"] == 43


Check = Callable[[str, str, set[str], dict[str, str], str], None]


def _junk(path: str, inner: str, used: set[str], left_out: dict[str, str], words: str) -> None:
    assert inner not in used
    assert path not in left_out
    assert Path(inner).name not in words


def _left_out(path: str, inner: str, used: set[str], left_out: dict[str, str], _: str) -> None:
    assert inner not in used
    assert left_out.get(path) or left_out.get(_nfc(inner)), path


def _named(_: str, inner: str, used: set[str], __: dict[str, str], words: str) -> None:
    assert inner in used
    assert Path(inner).name in words


def _folder(_: str, inner: str, used: set[str], __: dict[str, str], words: str) -> None:
    assert not any(path.startswith(inner) for path in used)
    assert f"The folder {inner.rstrip('/').removeprefix('valid/')} " in words


_CHECKS: dict[str, Check] = {
    "junk": _junk,
    "left out": _left_out,
    "named": _named,
    "folder": _folder,
}


def _nfc(path: str) -> str:
    return path.replace("me\u0301tal", "m\u00e9tal")


def _kind(what: str) -> str:
    """What the words of the list ask for."""
    for kind, signs in (
        ("junk", ("macOS folder", "AppleDouble", "thumbnail cache", "Windows folder settings")),
        ("folder", ("other letter case", "empty class folder")),
        (
            "left out",
            (
                "present in test only", "text file", "CSV", "HTML page", "cut off", "zeroed",
                "zero-byte", "HEIC", "in no class", "hidden file",
            ),
        ),
        ("named", ("(train)", "smaller and saved again", "in the same class", "two classes")),
    ):  # fmt: skip
        if any(sign in what for sign in signs):
            return kind
    return "used"
