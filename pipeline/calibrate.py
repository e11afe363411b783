"""Stage `calibrate`: one temperature makes the scores of the chosen network mean what they say.

Fitted on the validation images (Guo et al. 2017, "On Calibration of Modern Neural Networks").
"""

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.classify import softmax
from pipeline import figures, variants
from pipeline.dataset import Indices, prepared, read_split
from pipeline.metrics import calibration_error, reliability
from pipeline.params import Params
from pipeline.select import read as read_selected
from pipeline.stage import console, fresh_file, run
from pipeline.variants import Variant

TEMPERATURE = Path("models/temperature.json")
METRICS = Path("metrics/calibrate.json")
PICTURE = Path("reports/reliability.png")

_COLDEST, _HOTTEST = 0.05, 20.0
_STEPS = 60  # of golden section: to 12 digits


def calibrate(params: Params, root: Path = Path()) -> None:
    """Write models/temperature.json, metrics/calibrate.json and a reliability diagram."""
    folder = variants.folder_of(root, read_selected(root).variant)
    logits = variants.valid_logits(folder)
    truth = read_split(root / prepared(Variant.read(folder).prepared), "valid").indices
    temperature = round(fitted_temperature(logits, truth), 4)
    right = logits.argmax(axis=1) == truth
    before, after = (softmax(logits, one).max(axis=1) for one in (1.0, temperature))
    bins = params.calibrate.bins
    measured = {
        "temperature": temperature,
        "ece_before": calibration_error(before, right, bins),
        "ece_after": calibration_error(after, right, bins),
        "loss_before": mean_loss(logits, truth, 1.0),
        "loss_after": mean_loss(logits, truth, temperature),
    }
    fresh_file(root / TEMPERATURE).write_text(json.dumps({"temperature": temperature}) + "\n")
    fresh_file(root / METRICS).write_text(json.dumps(measured, indent=2) + "\n")
    figures.reliability(
        fresh_file(root / PICTURE),
        {
            f"as trained, ECE {measured['ece_before']:.4f}": reliability(before, right, bins),
            f"temperature {temperature:.2f}, ECE {measured['ece_after']:.4f}": reliability(
                after, right, bins
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
    """The temperature with the least mean loss; golden section, as the loss has one valley.

    Where every answer is right, ever colder would be ever better, and the scores would come out
    as sure as floats can be. N images say less than that. So each answer is held right with
    (N + 1) / (N + 2) only, as Platt has it for sigmoids ("Probabilistic outputs for support vector
    machines", 1999, section 2.2): Laplace's rule of succession.
    """
    doubt = 1 / (len(truth) + 2)

    def loss(log_temperature: float) -> float:
        return mean_loss(logits, truth, math.exp(log_temperature), doubt)

    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(_COLDEST), math.log(_HOTTEST)
    for _ in range(_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def mean_loss(
    logits: NDArray[np.float32], truth: Indices, temperature: float, doubt: float = 0.0
) -> float:
    """Cross entropy per image, in nats; `doubt` of each truth is shared by the other classes."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(scaled).sum(axis=1))
    losses = log_sums[:, None] - scaled  # (N, C), were that class the truth
    right = losses[np.arange(len(truth)), truth]
    others = (losses.sum(axis=1) - right) / max(1, losses.shape[1] - 1)
    return float(((1 - doubt) * right + doubt * others).mean())


if __name__ == "__main__":
    run(calibrate)
