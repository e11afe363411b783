"""The demo data is what we say, and anybody with Debian's package can make it again."""

import hashlib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from core.image import decode
from pipeline.fashion5 import FASHION5_SHA256, FIVE, PER_CLASS, make
from pipeline.stage import StageError


def test_the_committed_zip_is_the_one_that_the_script_makes(repository: Path) -> None:
    data = (repository / "data/fashion5.zip").read_bytes()
    assert hashlib.sha256(data).hexdigest() == FASHION5_SHA256


def test_the_zip_has_the_promised_number_of_images(repository: Path) -> None:
    with zipfile.ZipFile(repository / "data/fashion5.zip") as archive:
        folders = Counter(str(Path(name).parent) for name in archive.namelist())
    per_split = dict(zip(("train", "valid", "test"), (400, 100, 100), strict=True))
    assert folders == {f"{split}/{c}": per_split[split] for split in per_split for c in FIVE}


def test_every_image_is_a_grey_png_of_28_pixels_and_no_two_are_alike(repository: Path) -> None:
    pixels = set()
    with zipfile.ZipFile(repository / "data/fashion5.zip") as archive:
        for name in archive.namelist():
            data = archive.read(name)
            decoded = decode(data, max_pixels=28 * 28)
            assert (decoded.info.format, decoded.image.size) == ("PNG", (28, 28))
            assert data[25] == 0  # PNG's colour type: grey
            pixels.add(decoded.image.tobytes())
        assert len(pixels) == len(archive.namelist()) == 3_000


def test_the_licence_lies_beside_the_zip(repository: Path) -> None:
    notice = (repository / "data/LICENSE-fashion-mnist.txt").read_text("utf-8")
    assert "MIT License" in notice
    assert "2017 Zalando SE" in notice


def test_the_script_makes_the_same_bytes_again(tmp_path: Path) -> None:
    try:
        digest = make(FIVE, PER_CLASS, tmp_path / "again.zip")
    except StageError as error:
        if "apt-get" not in str(error):
            raise
        pytest.skip(f"Debian's package cannot be had here: {error}")
    assert digest == FASHION5_SHA256


def test_without_apt_the_script_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageError, match="apt-get is not here: run this on Debian or Ubuntu"):
        make(FIVE, PER_CLASS, tmp_path / "never.zip")
    assert not (tmp_path / "never.zip").exists()
