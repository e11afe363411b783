import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.bundle import Bundle
from core.engine import Engine
from core.statistics import Bins, Reference, measure, reference
from core.types import ImageInfo, InputStatistics, Prediction

INFO = ImageInfo(2000, 1500, "PNG")


def grey(level: int) -> np.ndarray:
    return np.full((8, 8, 3), level, dtype=np.uint8)


def checkers() -> np.ndarray:
    board = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    return np.repeat(board[:, :, None], 3, axis=2)


@pytest.mark.parametrize("level", [0, 51, 255])
def test_an_even_image_has_only_brightness(level: int) -> None:
    brightness, contrast, sharpness, megapixels = measure(grey(level), INFO)

    assert brightness == pytest.approx(level / 255, abs=1e-5)
    assert contrast == pytest.approx(0, abs=1e-3)
    assert sharpness == 0
    assert megapixels == 3.0


def test_a_chess_board_is_as_sharp_as_can_be() -> None:
    measured = measure(checkers(), INFO)

    assert measured.brightness == pytest.approx(0.5)
    assert measured.contrast == pytest.approx(0.5)
    assert measured.sharpness == pytest.approx(1)


def test_green_is_brighter_than_blue() -> None:
    green, blue = grey(0), grey(0)
    green[..., 1] = blue[..., 2] = 255

    assert measure(green, INFO).brightness == pytest.approx(0.587)
    assert measure(blue, INFO).brightness == pytest.approx(0.114)


def test_contrast_is_the_standard_deviation_and_sharpness_the_mean_step() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    luma = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    measured = measure(pixels, INFO)

    assert measured.contrast == pytest.approx(luma.std(), rel=1e-4)
    steps = (np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()) / 2
    assert measured.sharpness == pytest.approx(steps, rel=1e-4)


def test_a_single_pixel_can_be_measured() -> None:
    assert measure(grey(10)[:1, :1], ImageInfo(1, 1, "PNG")).sharpness == 0


def test_the_engine_measures_what_the_model_sees(
    rgb_bundle: Path, paint: Callable[..., bytes]
) -> None:
    with Engine(Bundle.load(rgb_bundle), 1, 1_000_000) as engine:
        (outcome,) = engine.classify([paint("lime", (200, 100))])

    assert isinstance(outcome, Prediction)
    assert outcome.image.statistics is not None
    assert outcome.image.statistics.brightness == pytest.approx(0.587, abs=0.001)
    assert outcome.image.statistics.megapixels == 0.02
    assert outcome.image == ImageInfo(200, 100, "PNG"), "images are equal whoever looked at them"


def test_a_reference_survives_bundle_json() -> None:
    measured = [InputStatistics(n / 100, 0.5, n / 50, 1.0) for n in range(100)]
    frozen = reference(["cat"] * 60 + ["dog"] * 40, measured)
    lineage = {"reference": json.loads(json.dumps(frozen.to_dict()))}

    assert Reference.of_lineage(lineage) == frozen
    assert frozen.labels == {"cat": 0.6, "dog": 0.4}
    assert frozen.inputs["brightness"].shares == pytest.approx([0.1] * 10)


def test_equal_values_make_fewer_pieces() -> None:
    frozen = reference(["cat"] * 100, [InputStatistics(0.5, 0.1, 0.1, 1.0)] * 100)
    bins = frozen.inputs["megapixels"]

    assert len(bins.edges) == 1
    assert bins.shares == (0.0, 1.0)


def test_values_are_counted_in_their_pieces() -> None:
    bins = Bins((0.25, 0.5), (0.3, 0.3, 0.4))

    assert bins.counts([0.0, 0.25, 0.3, 0.5, 9.0]) == (1, 2, 2)
    assert bins.counts([]) == (0, 0, 0)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        3,
        {},
        {"images": 1, "labels": {"a": 1.0}},
        {"images": 1, "labels": [], "inputs": {}},
        {"images": 1, "labels": {}, "inputs": {"brightness": {"edges": [1], "shares": [1]}}},
        {
            "images": 1,
            "labels": {},
            "inputs": {"brightness": {"edges": [2, 1], "shares": [1, 1, 1]}},
        },
        {"images": "many", "labels": {}, "inputs": {}},
    ],
)
def test_what_is_no_reference_is_none_and_no_crash(stored: object) -> None:
    assert Reference.of_lineage({"reference": stored}) is None
    assert Reference.of_lineage({}) is None


def test_kinds_of_a_later_version_are_left_alone() -> None:
    stored = {"images": 1, "labels": {}, "inputs": {"hue": {"edges": [1], "shares": [0.5, 0.5]}}}
    found = Reference.of_lineage({"reference": stored})

    assert found is not None
    assert found.inputs == {}
