"""A temperature makes scores mean what they say, and changes no answer."""

import json

import numpy as np
import pytest

from core.bundle import Bundle
from core.classify import softmax
from pipeline.calibrate import calibration_error, fitted_temperature, mean_loss, reliability
from pipeline.export import CANDIDATE

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
    assert calibration_error(softmax(logits, found), truth, 15) < 0.015
    assert mean_loss(logits, truth, found) <= mean_loss(logits, truth, 1.0)


def test_the_calibration_error_is_that_of_a_count_by_hand() -> None:
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]], dtype=np.float32)
    truth = np.array([0, 1, 0, 1])
    # 0.9 sure and half right, twice; 0.6 sure and right, twice.
    assert calibration_error(scores, truth, 10) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)
    assert [one.images for one in reliability(scores, truth, 10)] == [2, 2]


def test_a_model_that_is_always_right_and_sure_stays_finite() -> None:
    logits = np.array([[50.0, 0.0]] * 10, dtype=np.float32)
    truth = np.zeros(10, dtype=np.int64)
    assert 0.04 < fitted_temperature(logits, truth) < 20
    assert calibration_error(softmax(logits), truth, 15) == pytest.approx(0)


def test_the_bundle_has_the_temperature_that_was_fitted(run: Run) -> None:
    measured = json.loads((run.root / "metrics/calibrate.json").read_text())
    assert Bundle.load(run.root / CANDIDATE).manifest.temperature == measured["temperature"]
    assert measured["loss_after"] <= measured["loss_before"]
