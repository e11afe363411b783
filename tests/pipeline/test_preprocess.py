"""Training sees the pixels that serving sees, however many processes make them."""

import csv
import dataclasses
import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.bundle import Bundle
from core.image import preprocess as serve
from pipeline.dataset import (
    MANIFEST,
    Row,
    prepared,
    read_labels,
    read_manifest,
    read_recipe,
    read_split,
    read_unreadable,
)
from pipeline.export import CANDIDATE
from pipeline.params import Params
from pipeline.preprocess import SHELVES, channel_statistics, preprocess
from pipeline.unzip import IMAGES

from .conftest import COUNTS, SMALL, Killed, Run, noise


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def images(run: Run, tmp_path: Path) -> Path:
    """A root with unpacked images of its own."""
    shutil.copytree(run.root / IMAGES, tmp_path / IMAGES)
    return tmp_path


def rows(root: Path) -> list[dict[str, str]]:
    with (root / SMALL / MANIFEST).open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_workers_write_the_same_bytes_as_one(run: Run, images: Path) -> None:
    preprocess(dataclasses.replace(run.params.preprocess, workers=2), "small", images)
    assert contents(images / SMALL) == contents(run.root / SMALL)


def test_the_train_path_and_the_serve_path_give_the_same_pixels(
    run: Run, members: dict[str, bytes]
) -> None:
    recipe = Bundle.load(run.root / CANDIDATE).recipe
    for split in COUNTS:
        of_split = [row for row in rows(run.root) if row["split"] == split]
        pixels = read_split(run.root / SMALL, split).images
        for row, trained_on in zip(of_split, pixels, strict=True):
            served, _ = serve(members[row["path"]], recipe, run.params.preprocess.max_pixels)
            assert np.array_equal(served, trained_on)


def test_the_manifest_has_a_row_for_every_image(run: Run, members: dict[str, bytes]) -> None:
    by_path = {row["path"]: row for row in rows(run.root)}
    assert set(by_path) == set(members)
    for path, row in by_path.items():
        assert row["sha256"] == hashlib.sha256(members[path]).hexdigest()
        split, label, _ = path.split("/")
        assert (row["split"], row["class_index"]) == (split, str(["disc", "square"].index(label)))
        assert row["mode"] == "RGB"
        assert row["format"].lower() == Path(path).suffix[1:]
        assert row["height_px"] == "32"


def test_the_arrays_have_the_shape_that_the_model_sees(run: Run) -> None:
    for split, per_class in COUNTS.items():
        found = read_split(run.root / SMALL, split)
        assert found.images.shape == (2 * per_class, 16, 16, 3)
        assert found.images.dtype == np.uint8
        assert found.indices.tolist() == [0] * per_class + [1] * per_class
    assert read_labels(run.root / SMALL) == ["disc", "square"]


def test_mean_and_std_are_those_of_the_training_images(run: Run) -> None:
    images = read_split(run.root / SMALL, "train").images / 255
    recipe = read_recipe(run.root / SMALL)
    assert recipe.mean == pytest.approx(images.mean(axis=(0, 1, 2)), abs=1e-6)
    assert recipe.std == pytest.approx(images.std(axis=(0, 1, 2)), abs=1e-6)


def test_channel_statistics_are_those_of_all_pixels_together() -> None:
    chance = np.random.default_rng(7)
    images = [chance.integers(low, 256, (6, 6, 3)) / 255 for low in (0, 100, 250)]
    rows = [_row(*image.mean(axis=(0, 1)), *image.std(axis=(0, 1))) for image in images]
    mean, std = channel_statistics(rows)
    assert mean == pytest.approx(np.mean(images, axis=(0, 1, 2)), abs=1e-6)
    assert std == pytest.approx(np.std(images, axis=(0, 1, 2)), abs=1e-6)


def test_a_channel_that_never_changes_can_be_divided_by() -> None:
    assert channel_statistics([_row(0.5, 0.5, 0.5, 0, 0, 0)])[1] == (0.001, 0.001, 0.001)


def _row(*figures: float) -> Row:
    return Row(*[""] * 8, *map(str, figures), "")


def test_mean_and_std_can_be_given(run: Run, images: Path) -> None:
    params = run.params.preprocess
    given = dataclasses.replace(params.recipes["small"], mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    preprocess(dataclasses.replace(params, recipes={"given": given}), "given", images)
    recipe = read_recipe(images / prepared("given"))
    assert (recipe.mean, recipe.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def test_the_side_is_the_median_of_the_images_and_at_most_the_limit(run: Run, images: Path) -> None:
    params = run.params.preprocess
    for limit_px, side_px in ((None, 32), (20, 20)):
        recipe = dataclasses.replace(params.recipes["small"], max_size_px=limit_px)
        preprocess(dataclasses.replace(params, recipes={"auto": recipe}), "auto", images)
        assert read_recipe(images / prepared("auto")).size_px == side_px


def test_an_unreadable_image_is_left_out_and_named(
    images: Path, small: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = next((images / IMAGES / "valid" / "disc").iterdir())
    broken.write_bytes(broken.read_bytes()[:50])
    preprocess(small.preprocess, "small", images)
    (left_out,) = read_unreadable(images / SMALL)
    assert left_out.path == f"valid/disc/{broken.name}"
    assert left_out.sha256 == hashlib.sha256(broken.read_bytes()).hexdigest()
    assert "damaged" in left_out.reason
    assert f"left out: valid/disc/{broken.name}: The image is damaged" in capsys.readouterr().err
    paths = [row.path for row in read_manifest(images / SMALL)]
    assert left_out.path not in paths
    assert len(paths) == len(set(paths)) == 79
    assert len(read_split(images / SMALL, "valid")) == 15


def test_a_second_run_decodes_only_what_has_changed_and_writes_the_same_bytes(
    images: Path, small: Params, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocess(small.preprocess, "small", images)
    first, second = sorted((images / IMAGES / "train" / "disc").iterdir())[:2]
    first.unlink()
    second.write_bytes(noise(1, 40))
    (images / IMAGES / "test" / "square" / "new.png").write_bytes(noise(2, 50))
    capsys.readouterr()
    preprocess(small.preprocess, "small", images)
    assert "80 images of 16 px; 78 images as in the last run" in capsys.readouterr().err
    incremental = contents(images / SMALL)
    shutil.rmtree(images / SHELVES)
    preprocess(small.preprocess, "small", images)
    assert contents(images / SMALL) == incremental
    assert incremental != contents(run.root / SMALL)


def test_what_changes_pixels_empties_the_shelf(
    images: Path, small: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocess(small.preprocess, "small", images)
    recipe = dataclasses.replace(small.preprocess.recipes["small"], interpolation="nearest")
    preprocess(dataclasses.replace(small.preprocess, recipes={"small": recipe}), "small", images)
    assert "0 images as in the last run" in capsys.readouterr().err.splitlines()[-1]


def test_outputs_that_were_altered_in_their_place_are_not_used_again(
    images: Path, small: Params, run: Run
) -> None:
    preprocess(small.preprocess, "small", images)
    pixels = np.load(images / SMALL / "train.npy", mmap_mode="r+")
    pixels[3] = 0
    pixels.flush()
    preprocess(small.preprocess, "small", images)
    assert contents(images / SMALL) == contents(run.root / SMALL)


def test_a_killed_run_is_taken_up_where_it_was_and_gives_the_same_bytes(
    tmp_path: Path, small: Params, killed: Killed, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (("train", 600), ("valid", 2), ("test", 2)):
        for number in range(count):
            path = tmp_path / IMAGES / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(noise(number, 300))
    manifest = tmp_path / SHELVES / "small" / "next" / MANIFEST

    def is_underway() -> bool:
        return manifest.exists() and manifest.stat().st_size > 20_000

    killed("preprocess", tmp_path, is_underway, "small")
    assert not (tmp_path / SMALL).exists()
    preprocess(small.preprocess, "small", tmp_path)
    reused = re.search(r"(\d+) images as in the last run", capsys.readouterr().err)
    assert reused is not None
    assert 64 <= int(reused[1]) < 604
    taken_up = contents(tmp_path / SMALL)
    shutil.rmtree(tmp_path / SHELVES)
    preprocess(small.preprocess, "small", tmp_path)
    assert contents(tmp_path / SMALL) == taken_up
