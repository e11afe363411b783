from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import BundleError
from core.recipe import Crop, Recipe, apply

STILL: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
# Sides at which (side / 224) * 224 is greater than the side itself.
ROUNDED_UP = [side for side in range(1, 6000) if 224 * (side / 224) > side]


def bands(width_px: int, height_px: int) -> Image.Image:
    """Red on the left, green in the middle, blue on the right: a third each."""
    image = Image.new("RGB", (3, 1))
    image.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    return image.resize((width_px, height_px), Image.Resampling.NEAREST)


def test_without_a_crop_the_whole_image_is_squeezed_into_the_square() -> None:
    pixels = apply(bands(90, 30), Recipe(size_px=9, interpolation="nearest", **STILL))

    assert pixels.shape == (9, 9, 3)
    assert pixels.dtype == np.uint8
    assert pixels[4].argmax(axis=1).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_center_crop_takes_the_middle_of_the_long_side() -> None:
    recipe = Recipe(size_px=10, crop="center", **STILL)

    pixels = apply(bands(90, 30), recipe)

    assert pixels.shape == (10, 10, 3)
    assert (pixels[:, 1:9].argmax(axis=2) == 1).all()  # the outermost may mix with red and blue


def test_a_short_side_above_the_size_cuts_a_border_away_on_every_side() -> None:
    image = Image.new("RGB", (100, 100), "red")
    image.paste((0, 255, 0), (10, 10, 90, 90))  # a frame of 10 pixels is 10 % of each side

    whole = apply(image, Recipe(size_px=8, crop="center", **STILL))
    cut = apply(image, Recipe(size_px=8, crop="center", short_side_px=10, **STILL))

    assert whole[0, 0].argmax() == 0
    assert (cut.argmax(axis=2) == 1).all()


def test_a_center_crop_is_what_resizing_and_then_cutting_gives() -> None:
    noise = np.random.default_rng(7).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
    recipe = Recipe(size_px=56, short_side_px=60, crop="center", **STILL)

    ours = apply(image, recipe)

    theirs = np.asarray(image.resize((80, 60), Image.Resampling.BILINEAR).crop((12, 2, 68, 58)))
    assert np.abs(ours.astype(int) - theirs).mean() < 0.5


@pytest.mark.parametrize("side_px", [ROUNDED_UP[0], 4090])
def test_rounding_never_pushes_the_crop_out_of_the_image(side_px: int) -> None:
    assert side_px in ROUNDED_UP

    pixels = apply(Image.new("RGB", (side_px, side_px)), Recipe(224, crop="center", **STILL))

    assert pixels.shape == (224, 224, 3)


@given(
    width_px=st.integers(1, 300),
    height_px=st.integers(1, 300),
    size_px=st.integers(1, 40),
    extra_px=st.integers(0, 400),
    crop=st.sampled_from(["none", "center"]),
)
@settings(deadline=None)
def test_every_image_becomes_a_square_under_every_recipe(
    width_px: int, height_px: int, size_px: int, extra_px: int, crop: Crop
) -> None:
    recipe = Recipe(size_px=size_px, short_side_px=size_px + extra_px, crop=crop, **STILL)

    pixels = apply(Image.new("RGB", (width_px, height_px), (9, 8, 7)), recipe)

    assert pixels.shape == (size_px, size_px, 3)
    assert (pixels == (9, 8, 7)).all()


def test_an_image_of_a_hundred_thousand_pixels_by_one_can_be_cropped_and_squeezed() -> None:
    line = Image.new("RGB", (100_000, 1), (9, 8, 7))

    for crop in ("none", "center"):
        recipe = Recipe(size_px=8, short_side_px=4096, crop=crop, **STILL)
        assert (apply(line, recipe) == (9, 8, 7)).all()


def test_a_recipe_survives_its_way_through_json_types() -> None:
    recipe = Recipe(32, crop="center", short_side_px=36, background=(1, 2, 3), **STILL)
    data = recipe.to_dict()
    for key in ("mean", "std", "background"):
        data[key] = list(data[key])

    assert Recipe.from_dict(data) == recipe


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"size_px": 0}, "size_px must be 1..4096, not 0"),
        ({"size_px": 4097}, "size_px must be 1..4096, not 4097"),
        ({"size_px": "224"}, "recipe: "),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'"),
        ({"crop": "middle"}, "unknown crop 'middle'"),
        ({"crop": "center", "short_side_px": 7}, "short_side_px must be at least size_px"),
        ({"std": [1, 0, 1]}, "every std must be above 0"),
        ({"mean": [1, 2]}, "three values each"),
        ({"mean": 5}, "recipe: "),
        ({"rotate": 90}, r"unknown keys \['rotate'\]; this bundle is newer than we are"),
    ],
)
def test_a_recipe_that_cannot_be_cooked_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    right = {"size_px": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}
    Recipe.from_dict(right)

    with pytest.raises(BundleError, match=sentence):
        Recipe.from_dict({**right, **wrong})


def test_a_recipe_without_its_size_is_refused() -> None:
    with pytest.raises(BundleError, match="size_px"):
        Recipe.from_dict({"mean": [0, 0, 0], "std": [1, 1, 1]})
