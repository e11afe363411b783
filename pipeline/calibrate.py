"""Stage `calibrate`: one temperature makes the scores of the chosen network mean what they say.

Fitted on the validation images (Guo et al. 2017, "On Calibration of Modern Neural Networks").
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.classify import softmax
from core.types import Scores
from pipeline import figures, variants
from pipeline.dataset import Indices, prepared, read_split
from pipeline.params import Params
from pipeline.select import read as read_selected
from pipeline.stage import console, fresh_file, run
from pipeline.variants import Variant

TEMPERATURE = Path("models/temperature.json")
METRICS = Path("metrics/calibrate.json")
PICTURE = Path("reports/reliability.png")

_COLDEST, _HOTTEST = 0.05, 20.0
_STEPS = 60  # of golden section: to 12 digits


class Bin(NamedTuple):
    """The images whose confidence falls into one piece of 0..1."""

    images: int
    confidence: float  # mean
    accuracy: float


def calibrate(params: Params, root: Path = Path()) -> None:
    """Write models/temperature.json, metrics/calibrate.json and a reliability diagram."""
    folder = variants.folder_of(root, read_selected(root).variant)
    logits = variants.valid_logits(folder)
    truth = read_split(root / prepared(Variant.read(folder).prepared), "valid").indices
    temperature = round(fitted_temperature(logits, truth), 4)
    before, after = softmax(logits), softmax(logits, temperature)
    bins = params.calibrate.bins
    measured = {
        "temperature": temperature,
        "ece_before": calibration_error(before, truth, bins),
        "ece_after": calibration_error(after, truth, bins),
        "loss_before": mean_loss(logits, truth, 1.0),
        "loss_after": mean_loss(logits, truth, temperature),
    }
    fresh_file(root / TEMPERATURE).write_text(json.dumps({"temperature": temperature}) + "\n")
    fresh_file(root / METRICS).write_text(json.dumps(measured, indent=2) + "\n")
    figures.reliability(
        fresh_file(root / PICTURE),
        {
            f"as trained, ECE {measured['ece_before']:.4f}": reliability(before, truth, bins),
            f"temperature {temperature:.2f}, ECE {measured['ece_after']:.4f}": reliability(
                after, truth, bins
            ),
        },
    )
    console.print(
        f"temperature {temperature:.3f}: calibration error on valid "
        f"{measured['ece_before']:.4f} before, {measured['ece_after']:.4f} after"
    )


def read(root: Path = Path()) -> float:
    """The fitted temperature."""
    return float(json.loads((root / TEMPERATURE).read_text())["temperature"])


def fitted_temperature(logits: NDArray[np.float32], truth: Indices) -> float:
    """The temperature with the least mean loss; golden section, as the loss has one valley."""
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(_COLDEST), math.log(_HOTTEST)
    for _ in range(_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if mean_loss(logits, truth, math.exp(left)) <= mean_loss(logits, truth, math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def mean_loss(logits: NDArray[np.float32], truth: Indices, temperature: float) -> float:
    """Cross entropy per image, in nats."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(scaled).sum(axis=1))
    return float((log_sums - scaled[np.arange(len(truth)), truth]).mean())


def reliability(scores: Scores, truth: Indices, bins: int) -> list[Bin]:
    """How right the model is where it is how sure; empty bins are left out."""
    confidence, right = scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == truth
    piece = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for number in range(bins)
        if (inside := piece == number).any()
    ]


def calibration_error(scores: Scores, truth: Indices, bins: int) -> float:
    """Expected calibration error: the mean distance of confidence and accuracy, by images."""
    found = reliability(scores, truth, bins)
    return sum(one.images * abs(one.confidence - one.accuracy) for one in found) / len(truth)


if __name__ == "__main__":
    run(calibrate)
