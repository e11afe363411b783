"""Pictures of a training: curves, confusion, reliability. The same data give the same bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

mpl.use("agg")

_ANONYMOUS = {"Software": None}
_FEW = 25  # classes whose counts are written into the matrix
_DPI = 110


def curves(path: Path, history: Sequence[Mapping[str, float]], title: str) -> None:
    """Loss and accuracy over the epochs, on train and on valid."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    epochs = [row["epoch"] for row in history]
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(epochs, [row[f"train_{what}"] for row in history], label="train")
        axes.plot(epochs, [row[f"validation_{what}"] for row in history], label="valid")
        axes.set_xlabel("epoch")
        axes.set_ylabel(what)
        axes.legend()
    figure.savefig(path, dpi=_DPI, metadata=_ANONYMOUS)


def confusion(path: Path, counts: NDArray[np.int64], labels: Sequence[str], title: str) -> None:
    """A row per true label, a column per answer."""
    side = 3 + 0.45 * min(len(labels), 2 * _FEW)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0)
    axes.set_title(title)
    axes.set_xlabel("answered")
    axes.set_ylabel("true")
    # A `$` would start mathematics.
    names = [label.replace("$", r"\$") for label in labels]
    if len(labels) <= _FEW:
        axes.set_xticks(range(len(labels)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), names)
        for (row, column), count in np.ndenumerate(counts):
            dark = count > counts[row].sum() / 2
            axes.text(column, row, str(count), ha="center", va="center", color="w" if dark else "k")
    figure.savefig(path, dpi=_DPI, metadata=_ANONYMOUS)


def reliability(path: Path, diagrams: Mapping[str, Sequence[tuple[int, float, float]]]) -> None:
    """Accuracy over confidence; on the diagonal a score means what it says."""
    figure = Figure(figsize=(4.5 * len(diagrams), 4.2), layout="constrained")
    for axes, (title, bins) in zip(
        np.atleast_1d(figure.subplots(1, len(diagrams))), diagrams.items(), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
        most = max(images for images, _, _ in bins)
        sizes = [20 + 200 * images / most for images, _, _ in bins]
        axes.scatter([one[1] for one in bins], [one[2] for one in bins], s=sizes, alpha=0.6)
        axes.set_title(title)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.05)
    figure.savefig(path, dpi=_DPI, metadata=_ANONYMOUS)
