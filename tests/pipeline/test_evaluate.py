"""Every planted fault is named, stops the pipeline, and is shown in the report."""

import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.image import preprocess as serve
from core.recipe import Recipe
from pipeline.dataset import (
    MANIFEST,
    Row,
    images_file,
    indices_file,
    prepared,
    read_manifest,
)
from pipeline.evaluate import METRICS, PASSED, REPORT, evaluate
from pipeline.independent import Comparison, compare, psnr_db, resized, ssim
from pipeline.params import Params
from pipeline.preprocess import preprocess
from pipeline.stage import StageError
from pipeline.unzip import IMAGES, unzip

from .conftest import Killed, digests, noise

COUNTS = {"train": 12, "valid": 4, "test": 4}
SMALL = prepared("small")
DISC = "<img src=x onerror=alert(1)>"  # a class with a hostile name; its folder may have it

Members = dict[str, bytes]


def clouds() -> Members:
    """Two classes of pictures that nobody takes for each other."""
    members: Members = {}
    for split, count in COUNTS.items():
        for label in (DISC, "square"):
            for number in range(count):
                members[f"{split}/{label}/{number}.jpg"] = noise(len(members), 64)
    return members


def ready(root: Path, params: Params, members: Members, zipped: Callable[..., Path]) -> Path:
    zipped(root / params.unzip.archive, members)
    unzip(params.unzip, root)
    for name in params.preprocess.recipes:
        preprocess(params.preprocess, name, root)
    return root


@pytest.fixture(scope="module")
def good(
    small: Params, tmp_path_factory: pytest.TempPathFactory, zipped: Callable[..., Path]
) -> Path:
    """Data without a fault, preprocessed. Look, do not touch."""
    return ready(tmp_path_factory.mktemp("good"), small, clouds(), zipped)


@pytest.fixture
def data(good: Path, tmp_path: Path) -> Path:
    """The same, to plant a fault in."""
    shutil.copytree(good / "data", tmp_path / "data", dirs_exist_ok=True)
    return tmp_path


def fault(params: Params, root: Path) -> str:
    """The message of the breach; metrics and report are there all the same."""
    with pytest.raises(StageError) as caught:
        evaluate(params, root)
    assert json.loads((root / METRICS).read_text())["breaches"] > 0
    assert "checks failed" in (root / REPORT).read_text("utf-8")
    assert not (root / PASSED).exists()
    return str(caught.value)


def alter(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.unlink()
    path.write_text(text.replace(old, new), "utf-8")


def test_good_data_pass_and_say_so(data: Path, small: Params) -> None:
    evaluate(small, data)
    metrics = json.loads((data / METRICS).read_text())
    assert metrics["images"] == {"train": 24, "valid": 8, "test": 8}
    assert (metrics["breaches"], metrics["classes"]) == (0, 2)
    assert metrics["psnr_db"] > 30
    assert metrics["ssim"] > 0.95
    assert (data / PASSED).read_text() == "The data passed pipeline.evaluate.\n"
    assert "All 31 checks passed." in (data / REPORT).read_text("utf-8")


def test_a_corrupt_image_is_named_where_none_is_allowed(
    tmp_path: Path, small: Params, zipped: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    members = clouds()
    members["test/square/2.jpg"] = members["test/square/2.jpg"][:400]
    root = ready(tmp_path, small, members, zipped)
    evaluate(small, root)
    assert "no image and were left out: 0.025" in capsys.readouterr().err
    strict = dataclasses.replace(small.evaluate, max_unreadable_share=0.0)
    message = fault(dataclasses.replace(small, evaluate=strict), root)
    assert "evaluate.max_unreadable_share" in message
    assert "test/square/2.jpg (The image is damaged" in message


def test_a_corrupt_array_is_named(data: Path, small: Params) -> None:
    pixels = np.load(images_file(data / SMALL, "train"), mmap_mode="r+")
    pixels[13, 2:9] = 255
    pixels.flush()
    message = fault(small, data)
    assert "small: images whose pixels have changed: 1: train/square/1.jpg" in message
    assert "small: images unlike their file" in message
    assert re.search(r"train/square/1\.jpg \(PSNR \d+\.\d dB", message)


def test_a_missing_row_and_a_missing_file_are_named(data: Path, small: Params) -> None:
    manifest = data / SMALL / MANIFEST
    lines = manifest.read_text("utf-8").splitlines(keepends=True)
    (gone,) = [line for line in lines if "valid/square/3.jpg" in line]
    manifest.unlink()
    manifest.write_text("".join(line for line in lines if line != gone), "utf-8")
    (data / IMAGES / "test/square/0.jpg").unlink()
    message = fault(small, data)
    assert "small: images without exactly one row: 2: valid/square/3.jpg (no row)" in message
    assert "test/square/0.jpg (no file)" in message
    assert "not that of the zip: 1: test/square (3 images, 4 unpacked)" in message


def test_two_swapped_labels_are_named(data: Path, small: Params) -> None:
    path = indices_file(data / SMALL, "train")
    indices = np.load(path)
    indices[[3, 20]] = indices[[20, 3]]
    path.unlink()
    np.save(path, indices)
    message = fault(small, data)
    assert "small: images whose label is not that of their folder: 2" in message
    rows = [row.path for row in read_manifest(data / SMALL) if row.split == "train"]
    assert f"{rows[3]} (labelled {DISC}/square, its folder is {DISC})" in message
    assert f"{rows[20]} (labelled {DISC}/square, its folder is square)" in message


def test_labels_swapped_in_the_manifest_too_are_named(data: Path, small: Params) -> None:
    alter(data / SMALL / MANIFEST, "train,train/square/8.jpg,1,", "train,train/square/8.jpg,0,")
    assert f"train/square/8.jpg (labelled {DISC}/square" in fault(small, data)


def test_leaks_and_conflicts_are_named(
    tmp_path: Path, small: Params, zipped: Callable[..., Path]
) -> None:
    members = clouds()
    members["test/square/copy.jpg"] = members["train/square/1.jpg"]
    members["valid/square/saved again.jpg"] = noise(14, 90)  # train/square/2.jpg, larger
    members["train/square/of a disc.jpg"] = members[f"train/{DISC}/5.jpg"]
    message = fault(small, ready(tmp_path, small, members, zipped))
    assert (
        "leakage, pairs of copies in different splits: 1, at most 0 allowed "
        "(evaluate.max_duplicates_across_splits): "
        "train/square/1.jpg = test/square/copy.jpg (copy)"
    ) in message
    assert "train/square/2.jpg = valid/square/saved again.jpg (near-duplicate)" in message
    assert "under two labels: 1" in message
    assert "the data has 3 faults" in message
    metrics = json.loads((tmp_path / METRICS).read_text())
    assert metrics["duplicates_within_splits"] == 1


def test_a_file_that_changed_after_it_was_preprocessed_is_named(data: Path, small: Params) -> None:
    (data / IMAGES / "valid/square/0.jpg").write_bytes(noise(99, 64))
    message = fault(small, data)
    assert "small: files that have changed: 1: valid/square/0.jpg" in message
    assert "imagenet: files that have changed: 1: valid/square/0.jpg" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: images[:, :-1], "shape (24, 15, 16, 3)"),
        (lambda images: images[:-1], "shape (23, 16, 16, 3), 24 labels, 24 rows of 16 px"),
        (lambda images: images.astype(np.float32), "float32, not uint8"),
        (lambda images: (images > 99).astype(np.uint8), "no value above 1: scaled to 0..1?"),
    ],
)
def test_arrays_of_a_wrong_shape_type_or_range_are_named(
    data: Path, small: Params, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    path = images_file(data / SMALL, "train")
    images = np.load(path)
    path.unlink()
    np.save(path, change(images))
    assert f"train ({words}" in fault(small, data)


def test_the_shape_of_classes_and_images_is_limited_by_params(
    tmp_path: Path, small: Params, zipped: Callable[..., Path]
) -> None:
    members = clouds()
    for number in range(4, 12):
        del members[f"train/square/{number}.jpg"]
    blank = io.BytesIO()
    Image.new("RGB", (40, 40), "white").save(blank, "PNG")
    members["train/square/blank.png"] = blank.getvalue()
    members["train/square/tiny.jpg"] = noise(77, 8)
    root = ready(tmp_path, small, members, zipped)
    evaluate(small, root)
    strict = dataclasses.replace(
        small.evaluate,
        max_class_ratio=1.5,
        min_images_per_class=5,
        max_tiny_share=0.0,
        max_blank_share=0.0,
        max_left_out_share=0.0,
    )
    message = fault(dataclasses.replace(small, evaluate=strict), root)
    for sentence in (
        "one of the rarest: 2, at most 1.5 allowed (evaluate.max_class_ratio): train/square = ",
        "smallest class of a split: 4, at least 5 allowed (evaluate.min_images_per_class)",
        "valid/square (4 images)",
        "train/square/tiny.jpg (8 x 8 px)",
        "a single colour: 0.02941, at most 0 allowed (evaluate.max_blank_share): train/square",
    ):
        assert sentence in message


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_report_is_one_file_with_pictures_and_runs_nothing_from_a_name(
    tmp_path: Path, small: Params, zipped: Callable[..., Path]
) -> None:
    members = clouds()
    members[f"test/{DISC}/<script>alert(1)<%2fscript>.jpg"] = members[f"train/{DISC}/5.jpg"]
    fault(small, ready(tmp_path, small, members, zipped))
    text = (tmp_path / REPORT).read_text("utf-8")
    tags = _Tags()
    tags.feed(text)
    assert "&lt;script&gt;alert(1)" in text
    assert not [tag for tag, _ in tags.found if tag in ("script", "link", "iframe")]
    pictures = [attributes["src"] or "" for tag, attributes in tags.found if tag == "img"]
    assert len(pictures) >= 2 + 12
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in pictures)
    assert not [
        attributes for _, attributes in tags.found if any(a[:2] == "on" for a in attributes)
    ]
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_the_same_data_give_the_same_report_after_a_kill(
    data: Path, small: Params, killed: Killed
) -> None:
    evaluate(small, data)
    expected = digests(data)

    def is_underway() -> bool:
        return not (data / REPORT).exists()

    killed("evaluate", data, is_underway)
    evaluate(small, data)
    (data / "params.yaml").unlink()
    assert digests(data) == expected


@pytest.mark.parametrize(
    ("recipe", "least_db"),
    [
        (Recipe(32, (0, 0, 0), (1, 1, 1)), 38),
        (Recipe(48, (0, 0, 0), (1, 1, 1), crop="center", short_side_px=56), 38),
        (Recipe(200, (0, 0, 0), (1, 1, 1)), 38),
        (Recipe(32, (0, 0, 0), (1, 1, 1), interpolation="bicubic"), 38),
        (Recipe(200, (0, 0, 0), (1, 1, 1), interpolation="lanczos"), 36),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "turned", "transparent", "sixteen_bit", "cmyk", "large"])
def test_another_way_of_preparing_images_agrees(kind: str, recipe: Recipe, least_db: int) -> None:
    data = odd_image(kind)
    pixels, _ = serve(data, recipe, 10**8)
    found = compare(data, pixels, recipe)
    assert found is not None
    assert found.psnr_db > least_db
    assert found.ssim > 0.9
    assert max(map(abs, found.mean_difference)) < 0.01


def odd_image(kind: str) -> bytes:
    """A photograph of noise, 120 x 90, in ways that are easily got wrong."""
    plain = Image.open(io.BytesIO(noise(5, 120))).crop((0, 0, 120, 90))
    file = io.BytesIO()
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        plain.save(file, "JPEG", exif=exif, quality=95)
    elif kind == "transparent":
        plain.putalpha(Image.linear_gradient("L").resize(plain.size))
        plain.save(file, "PNG")
    elif kind == "sixteen_bit":
        grey = np.asarray(plain.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(file, "PNG")
    elif kind == "cmyk":
        plain.convert("CMYK").save(file, "JPEG", quality=95)
    elif kind == "large":
        plain.resize((1500, 1125)).save(file, "JPEG", quality=95)
    else:
        plain.save(file, "PNG")
    return file.getvalue()


def test_an_image_that_was_not_turned_or_not_cropped_is_seen() -> None:
    recipe = Recipe(32, (0, 0, 0), (1, 1, 1))
    pixels, _ = serve(odd_image("turned"), recipe, 10**8)
    sideways = np.rot90(pixels).copy()
    assert _worst(compare(odd_image("turned"), sideways, recipe)) < 20
    center = Recipe(32, (0, 0, 0), (1, 1, 1), crop="center", short_side_px=40)
    assert _worst(compare(odd_image("plain"), pixels, center)) < 25


def _worst(found: Comparison | None) -> float:
    assert found is not None
    return found.psnr_db


def test_the_figures_of_likeness_are_those_of_their_definition() -> None:
    black = np.zeros((16, 16, 3), dtype=np.float32)
    assert psnr_db(black, black) == 99
    assert psnr_db(black, black + 255) == pytest.approx(0)
    assert psnr_db(black, black + 25.5) == pytest.approx(20)
    chance = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.float32)
    assert ssim(chance, chance) == pytest.approx(1)
    assert ssim(chance, 255 - chance) < 0


def test_scaling_keeps_what_is_even_and_linear() -> None:
    ramp = np.repeat(np.arange(40, dtype=np.float32)[None, :, None], 40, axis=0)
    image = np.repeat(ramp, 3, axis=2)
    scaled = resized(image, Recipe(10, (0, 0, 0), (1, 1, 1)))
    assert scaled[5, 2:8, 0] == pytest.approx(np.arange(2, 8) * 4 + 1.5, abs=1e-4)
    assert np.ptp(scaled[:, 4]) == pytest.approx(0, abs=1e-4)


def test_a_row_reads_back_what_was_written(good: Path) -> None:
    rows = read_manifest(good / SMALL)
    assert len(rows) == 40
    assert isinstance(rows[0], Row)
    pixels = np.load(images_file(good / SMALL, "train"))[0] / 255
    assert rows[0].mean == pytest.approx(pixels.mean(axis=(0, 1)), abs=1e-7)
    assert rows[0].std == pytest.approx(pixels.std(axis=(0, 1)), abs=1e-7)
