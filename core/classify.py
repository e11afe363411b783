"""Logits to predictions. Pure arithmetic: no files, no model runtime."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.types import ImageInfo, LabelScore, ModelRef, Prediction, Scores

SHOWN_SCORES = 20  # a 1,000-class model keeps its 20 best scores per image


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> Scores:
    """(N, C) logits to (N, C) scores.

    `temperature` above 1 makes a model less sure (Guo et al. 2017, "On Calibration of Modern Neural
    Networks").
    """
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    scores: Scores = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return scores


def predict(
    scores: NDArray[np.float32], labels: Sequence[str], model: ModelRef, image: ImageInfo
) -> Prediction:
    """One row of scores, (C,), to a prediction; equal scores keep the order of `labels`."""
    order = np.argsort(-scores, kind="stable")[:SHOWN_SCORES]
    best = tuple(LabelScore(labels[index], round(float(scores[index]), 7)) for index in order)
    return Prediction(best[0].label, best[0].score, best, model, image)
