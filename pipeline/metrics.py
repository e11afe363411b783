"""Right and wrong answers, counted, and how sure a model was of them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset import Indices


class Bin(NamedTuple):
    """The images whose confidence falls into one piece of 0..1."""

    images: int
    confidence: float  # mean
    accuracy: float


def confusion(truth: Indices, answers: Indices, classes: int) -> NDArray[np.int64]:
    """(C, C) counts: a row per true class, a column per answer."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (truth, answers), 1)
    return counts


def accuracy(truth: Indices, answers: Indices) -> float:
    """The share of right answers, 0..1."""
    return float((truth == answers).mean())


def reliability(confidences: NDArray[np.float32], right: NDArray[np.bool_], bins: int) -> list[Bin]:
    """How right (N,) answers are where they are how sure; empty bins are left out."""
    sure = confidences.astype(np.float64)
    piece = np.minimum((sure * bins).astype(int), bins - 1)
    return [
        Bin(int(inside.sum()), float(sure[inside].mean()), float(right[inside].mean()))
        for number in range(bins)
        if (inside := piece == number).any()
    ]


def calibration_error(
    confidences: NDArray[np.float32], right: NDArray[np.bool_], bins: int
) -> float:
    """Expected calibration error (Guo et al. 2017): the mean distance of confidence and accuracy.

    Per bin, weighted by its images; 0..1.
    """
    found = reliability(confidences, right, bins)
    return sum(one.images * abs(one.confidence - one.accuracy) for one in found) / len(right)
