"""Training sees the pixels that serving sees, however many processes make them."""

import csv
import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from core.bundle import Bundle
from core.image import preprocess as serve
from pipeline.dataset import MANIFEST, prepared, read_labels, read_recipe, read_split
from pipeline.export import CANDIDATE
from pipeline.params import Params
from pipeline.preprocess import channel_statistics, preprocess
from pipeline.stage import StageError
from pipeline.unzip import IMAGES

from .conftest import COUNTS, SMALL, Run


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
        assert f"{row['split']}/{row['label']}" == str(Path(path).parent)
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


def test_channel_statistics_keep_the_channels_apart() -> None:
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    images[..., 0] = 255
    images[0, ..., 1] = 255
    assert channel_statistics(images) == ((1.0, 0.5, 0.0), (0.0, 0.5, 0.0))


def test_mean_and_std_can_be_given(run: Run, images: Path) -> None:
    params = run.params.preprocess
    given = dataclasses.replace(params.recipes["small"], mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    preprocess(dataclasses.replace(params, recipes={"given": given}), "given", images)
    recipe = read_recipe(images / prepared("given"))
    assert (recipe.mean, recipe.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_image_stops_the_stage_and_is_named(
    images: Path, small: Params, workers: int
) -> None:
    broken = next((images / IMAGES / "valid" / "disc").iterdir())
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(StageError, match=f"valid/disc/{broken.name}: .*damaged"):
        preprocess(dataclasses.replace(small.preprocess, workers=workers), "small", images)


def test_the_side_is_the_median_of_the_images_and_at_most_the_limit(run: Run, images: Path) -> None:
    params = run.params.preprocess
    for limit_px, side_px in ((None, 32), (20, 20)):
        recipe = dataclasses.replace(params.recipes["small"], max_size_px=limit_px)
        preprocess(dataclasses.replace(params, recipes={"auto": recipe}), "auto", images)
        assert read_recipe(images / prepared("auto")).size_px == side_px
