"""The numbers of quality, checked by hand, against theory and against simulation."""

import math
import random
from pathlib import Path
from statistics import fmean

import pytest

from core.bundle import read_manifest
from core.statistics import KINDS, Reference, reference
from core.types import InputStatistics
from monitoring.quality import (
    MIN_DRIFT_IMAGES,
    MIN_IMAGES,
    Z,
    estimated_accuracy,
    input_drift,
    label_drift,
    look,
    psi,
    wilson,
)
from storage.store import Store

SHARES = {"cat": 0.6, "dog": 0.3, "bird": 0.1}


def images(brightness: float, count: int = 500, seed: int = 1) -> list[InputStatistics]:
    dice = random.Random(seed)
    return [
        InputStatistics(dice.gauss(brightness, 0.1), dice.gauss(0.2, 0.05), dice.random(), 1.0)
        for _ in range(count)
    ]


def labels(shares: dict[str, float], count: int, seed: int = 1) -> list[str]:
    return random.Random(seed).choices(list(shares), list(shares.values()), k=count)


def scores(frozen: Reference, shown: list[InputStatistics]) -> dict[str, float]:
    drift = input_drift(frozen, shown)
    assert list(drift) == list(KINDS)
    return {kind: score for kind, score in drift.items() if score is not None}


# --- accuracy without labels ---------------------------------------------------------------------


def test_mean_confidence_is_the_estimate() -> None:
    estimate = estimated_accuracy([0.9, 0.7] * 100)

    assert estimate is not None
    assert estimate.value == pytest.approx(0.8)
    variance = 100 * (0.9 * 0.1 + 0.7 * 0.3)
    assert estimate.upper - estimate.value == pytest.approx(Z * math.sqrt(variance) / 200)
    assert estimate.images == 200


def test_too_few_answers_are_no_estimate() -> None:
    assert estimated_accuracy([0.9] * (MIN_IMAGES - 1)) is None
    assert estimated_accuracy([0.9] * MIN_IMAGES) is not None


def test_a_sure_model_has_an_interval_within_zero_and_one() -> None:
    estimate = estimated_accuracy([1.0] * 200)

    assert estimate is not None
    assert (estimate.lower, estimate.value, estimate.upper) == (1.0, 1.0, 1.0)


def test_the_interval_holds_the_accuracy_in_95_of_100_calibrated_worlds() -> None:
    dice = random.Random(6)
    held = 0
    for _ in range(1000):
        chances = [dice.betavariate(8, 2) for _ in range(200)]
        accuracy = fmean(dice.random() < chance for chance in chances)
        estimate = estimated_accuracy(chances)
        assert estimate is not None
        held += estimate.lower <= accuracy <= estimate.upper

    assert 930 <= held <= 970


# --- accuracy with few labels --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "total", "lower", "upper"),
    # The roots p of |share - p| = z * sqrt(p * (1 - p) / total), solved by hand.
    [
        (9, 10, 0.5958, 0.9821),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (95, 100, 0.8882, 0.9785),
    ],
)
def test_wilsons_interval_is_the_known_one(
    correct: int, total: int, lower: float, upper: float
) -> None:
    estimate = wilson(correct, total)

    assert estimate is not None
    assert estimate.value == correct / total
    assert estimate.lower == pytest.approx(lower, abs=1e-4)
    assert estimate.upper == pytest.approx(upper, abs=1e-4)


def test_the_bounds_of_wilson_solve_the_score_equation() -> None:
    estimate = wilson(37, 50)

    assert estimate is not None
    for bound in (estimate.lower, estimate.upper):
        distance = Z * math.sqrt(bound * (1 - bound) / 50)
        assert abs(bound - 0.74) == pytest.approx(distance)


def test_nobody_has_looked_at_anything() -> None:
    assert wilson(0, 0) is None


# --- drift ---------------------------------------------------------------------------------------


def test_the_same_distribution_has_no_drift() -> None:
    assert psi([0.6, 0.3, 0.1], [60, 30, 10]) == pytest.approx(0)


def test_psi_is_the_textbooks_but_for_the_half_counts() -> None:
    expected, now = [0.5, 0.3, 0.2], [3000, 3000, 4000]
    textbook = sum(
        (count / 10_000 - share) * math.log(count / 10_000 / share)
        for share, count in zip(expected, now, strict=True)
    )

    assert psi(expected, now) == pytest.approx(textbook, rel=1e-3)


def test_an_empty_piece_is_a_number() -> None:
    assert 0 < psi([0.5, 0.5], [100, 0]) < math.inf
    assert 0 < psi([1.0, 0.0], [0, 100]) < math.inf


def test_noise_alone_stays_below_the_alert() -> None:
    frozen = reference(labels(SHARES, 500, 0), images(0.5, 500, 0))

    for seed in range(1, 201):
        drift = label_drift(frozen, labels(SHARES, MIN_DRIFT_IMAGES, seed))
        assert drift is not None
        assert drift < 0.25
        assert max(scores(frozen, images(0.5, MIN_DRIFT_IMAGES, seed)).values()) < 0.25


def test_many_labels_need_more_images() -> None:
    even = {f"label {number}": 0.025 for number in range(40)}
    frozen = reference(labels(even, 2000, 0), images(0.5))

    assert label_drift(frozen, labels(even, 400)) is None
    for seed in range(1, 101):
        drift = label_drift(frozen, labels(even, 1000, seed))
        assert drift is not None
        assert drift < 0.25


def test_other_labels_are_drift() -> None:
    frozen = reference(labels(SHARES, 500), images(0.5))
    drift = label_drift(frozen, labels({"cat": 0.2, "dog": 0.3, "bird": 0.5}, 500))

    assert drift is not None
    assert drift > 0.25


def test_darker_images_are_drift_of_brightness_alone() -> None:
    frozen = reference(labels(SHARES, 500), images(0.5))
    drift = scores(frozen, images(0.3, seed=2))

    assert drift["brightness"] > 0.25
    assert all(score < 0.15 for kind, score in drift.items() if kind != "brightness")


def test_a_thousand_rare_labels_are_counted_together() -> None:
    rare = {f"label {number}": 0.001 for number in range(1000)}
    frozen = reference(labels(rare, 5000, 0), images(0.5))
    drift = label_drift(frozen, labels(rare, 500, 1))

    assert drift == pytest.approx(0)


def test_a_label_that_the_reference_never_saw_is_drift() -> None:
    frozen = reference(["cat"] * 500, images(0.5))
    drift = label_drift(frozen, ["dog"] * 200)

    assert drift is not None
    assert drift > 0.25


def test_too_few_images_are_no_drift() -> None:
    frozen = reference(labels(SHARES, 500), images(0.5))

    assert label_drift(frozen, ["cat"] * (MIN_DRIFT_IMAGES - 1)) is None
    assert input_drift(frozen, images(0.9, MIN_DRIFT_IMAGES - 1)) == dict.fromkeys(KINDS)


# --- all together --------------------------------------------------------------------------------


def test_without_a_reference_and_without_rows_nothing_is_said(
    tmp_path: Path, rgb_bundle: Path
) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/p.db")
    quality = look(store.database, read_manifest(rgb_bundle), 0.01)
    store.close()

    assert (quality.estimated_accuracy, quality.reviewed_accuracy) == (None, None)
    assert (quality.label_drift, quality.audit_waiting) == (None, 0)
    assert (quality.input_drift, quality.drift) == (dict.fromkeys(KINDS), {})
    assert Reference.of_lineage(read_manifest(rgb_bundle).lineage) is None
