"""A temperature makes scores mean what they say, and changes no answer."""

import json

import numpy as np
import pytest

from core.bundle import Bundle
from core.classify import softmax
from pipeline.calibrate import fitted_temperature, mean_loss
from pipeline.export import CANDIDATE
from pipeline.metrics import calibration_error, reliability

from .conftest import Run


def drawn(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose scores are right at this temperature: the truth is drawn from them."""
    chance = np.random.default_rng(7)
    logits = chance.normal(0, 4, (count, 4)).astype(np.float32)
    scores = softmax(logits, temperature)
    truth = (scores.cumsum(axis=1) < chance.random((count, 1))).sum(axis=1).clip(max=3)
    return logits, truth.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_truth_is_found(temperature: float) -> None:
    logits, truth = drawn(temperature)
    found = fitted_temperature(logits, truth)
    assert found == pytest.approx(temperature, rel=0.05)
    scores = softmax(logits, found)
    assert calibration_error(scores.max(1), scores.argmax(1) == truth, 15) < 0.015
    assert mean_loss(logits, truth, found) <= mean_loss(logits, truth, 1.0) + 1e-6


def test_the_calibration_error_is_that_of_a_count_by_hand() -> None:
    confidences = np.array([0.9, 0.9, 0.6, 0.6], dtype=np.float32)
    right = np.array([True, False, True, True])
    # 0.9 sure and half right, twice; 0.6 sure and right, twice.
    expected = (2 * 0.4 + 2 * 0.4) / 4
    assert calibration_error(confidences, right, 10) == pytest.approx(expected)
    assert [one.images for one in reliability(confidences, right, 10)] == [2, 2]
    assert calibration_error(np.ones(4, dtype=np.float32), np.ones(4, dtype=bool), 15) == 0.0


@pytest.mark.parametrize("images", [10, 500])
def test_a_model_that_was_always_right_is_as_sure_as_so_many_images_allow(images: int) -> None:
    chance = np.random.default_rng(7)
    truth = chance.integers(0, 3, images)
    logits = chance.normal(0, 0.5, (images, 3)).astype(np.float32)
    logits[np.arange(images), truth] += 8
    assert (logits.argmax(1) == truth).all()
    confidence = softmax(logits, fitted_temperature(logits, truth)).max(1).mean()
    assert confidence == pytest.approx((images + 1) / (images + 2), abs=0.02)
    assert confidence < 1 - 0.5 / images


def test_the_bundle_has_the_temperature_that_was_fitted(run: Run) -> None:
    measured = json.loads((run.root / "metrics/calibrate.json").read_text())
    assert Bundle.load(run.root / CANDIDATE).manifest.temperature == measured["temperature"]
    assert measured["loss_after"] <= measured["loss_before"]
