import numpy as np
import pytest

from core.classify import SHOWN_SCORES, predict, softmax
from core.types import ImageInfo, LabelScore, ModelRef

MODEL = ModelRef("rgb", "1")
IMAGE = ImageInfo(4, 3, "PNG")


def test_scores_of_one_image_sum_to_one_and_keep_the_order_of_the_logits() -> None:
    scores = softmax(np.array([[1, 2, 3], [0, 0, 0]], dtype=np.float32))

    assert scores.dtype == np.float32
    assert scores.sum(axis=1) == pytest.approx([1, 1])
    assert scores[0] == pytest.approx(np.array([1, np.e, np.e**2]) / (1 + np.e + np.e**2))
    assert scores[1] == pytest.approx([1 / 3] * 3)


def test_huge_logits_do_not_overflow() -> None:
    scores = softmax(np.array([[3e38, -3e38], [1e4, 1e4 - 1]], dtype=np.float32))

    assert scores[0].tolist() == [1, 0]
    assert scores[1] == pytest.approx([np.e / (1 + np.e), 1 / (1 + np.e)], abs=1e-6)


def test_a_higher_temperature_makes_the_model_less_sure_of_the_same_label() -> None:
    logits = np.array([[0.0, 2.0]], dtype=np.float32)

    assert softmax(logits, 2.0)[0, 1] == pytest.approx(np.e / (1 + np.e))
    assert 0.5 < softmax(logits, 2.0)[0, 1] < softmax(logits, 1.0)[0, 1]


def test_the_label_of_the_best_score_is_the_prediction_and_scores_are_sorted() -> None:
    row = np.array([0.1, 0.7, 0.2], dtype=np.float32)

    prediction = predict(row, ["red", "green", "blue"], MODEL, IMAGE)

    assert prediction.label == "green"
    assert prediction.confidence == pytest.approx(0.7)
    assert [score.label for score in prediction.scores] == ["green", "blue", "red"]
    assert prediction.scores[0] == LabelScore("green", prediction.confidence)
    assert (prediction.model, prediction.image) == (MODEL, IMAGE)


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    labels = [f"label {index}" for index in range(400)]  # enough that an unstable sort shuffles
    row = np.random.default_rng(3).choice([0.25, 0.5, 0.75], 400).astype(np.float32)
    best = [label for label, score in zip(labels, row, strict=True) if score == 0.75]

    prediction = predict(row, labels, MODEL, IMAGE)

    assert [score.label for score in prediction.scores] == best[:SHOWN_SCORES]


def test_of_a_thousand_labels_the_best_twenty_are_kept() -> None:
    row = softmax(np.arange(1000, dtype=np.float32)[None])[0]

    prediction = predict(row, [f"label {index}" for index in range(1000)], MODEL, IMAGE)

    assert len(prediction.scores) == SHOWN_SCORES
    assert prediction.scores[-1].label == "label 980"
