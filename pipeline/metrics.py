"""Right and wrong answers, counted."""

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset import Indices


def confusion(truth: Indices, answers: Indices, classes: int) -> NDArray[np.int64]:
    """(C, C) counts: a row per true class, a column per answer."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (truth, answers), 1)
    return counts


def accuracy(truth: Indices, answers: Indices) -> float:
    """The share of right answers, 0..1."""
    return float((truth == answers).mean())
