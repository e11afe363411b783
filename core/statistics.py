"""What images and answers look like as numbers, and what they looked like when the model was made.

The pipeline freezes a `Reference` into the bundle (`lineage["reference"]`); serving compares
what comes in with it (`monitoring.quality`). Both measure with the functions here.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from core.types import ImageInfo, InputStatistics, Pixels

KINDS = InputStatistics._fields
_SIDE_PX = 50  # rows and columns of a sample, up to twice as many
_BINS = 10  # deciles of the reference: each bin holds as much as another


@dataclass(frozen=True, slots=True)
class Bins:
    """Where a distribution is cut, and the share of the reference in each of the pieces."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]  # one more than edges

    def counts(self, values: Sequence[float]) -> tuple[int, ...]:
        """How many values fall into each piece; a value on an edge belongs to the right."""
        pieces = np.searchsorted(np.asarray(self.edges), np.asarray(values), side="right")
        return tuple(int(count) for count in np.bincount(pieces, minlength=len(self.shares)))


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model answered and was shown when it was validated."""

    images: int
    labels: dict[str, float]  # share of each predicted label
    inputs: dict[str, Bins]  # by kind, see KINDS

    def to_dict(self) -> dict[str, Any]:
        """As it lies in bundle.json."""
        return {
            "images": self.images,
            "labels": self.labels,
            "inputs": {
                kind: {"edges": list(bins.edges), "shares": list(bins.shares)}
                for kind, bins in self.inputs.items()
            },
        }

    @classmethod
    def of_lineage(cls, lineage: Mapping[str, Any]) -> Self | None:
        """The reference of a bundle; None where it has none, or none that we understand."""
        try:
            stored = lineage["reference"]
            return cls(
                images=int(stored["images"]),
                labels={str(label): float(share) for label, share in stored["labels"].items()},
                inputs={
                    kind: _bins(bins) for kind, bins in stored["inputs"].items() if kind in KINDS
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


def reference(predicted: Sequence[str], measured: Sequence[InputStatistics]) -> Reference:
    """The reference that a validation set gives: its predicted labels and its measured images."""
    counts = Counter(predicted)
    return Reference(
        images=len(predicted),
        labels={label: count / len(predicted) for label, count in sorted(counts.items())},
        inputs={
            kind: _deciles([float(statistics[index]) for statistics in measured])
            for index, kind in enumerate(KINDS)
        },
    )


def measure(pixels: Pixels, info: ImageInfo) -> InputStatistics:
    """Mean and spread of the luma, mean step between neighbours, and the size of the original.

    Of large images only some rows and columns are looked at.
    """
    # Written for the time of every image: a tenth of what mean(), std() and diff() would cost.
    stride = max(1, min(pixels.shape[:2]) // _SIDE_PX)
    sample = pixels[::stride, ::stride]
    luma = sample.reshape(-1, 3).astype(np.float32) @ _LUMA
    mean = float(luma.mean())
    square = float(luma @ luma) / luma.size
    luma = luma.reshape(sample.shape[:2])
    return InputStatistics(
        brightness=mean,
        contrast=math.sqrt(max(0.0, square - mean**2)),
        sharpness=(_mean_step(luma[1:], luma[:-1]) + _mean_step(luma[:, 1:], luma[:, :-1])) / 2,
        megapixels=info.width_px * info.height_px / 1e6,
    )


def _mean_step(here: NDArray[np.float32], there: NDArray[np.float32]) -> float:
    return float(np.abs(here - there).mean()) if here.size else 0.0


# ITU-R BT.601, to 0..1
_LUMA: NDArray[np.float32] = (np.array([0.299, 0.587, 0.114]) / 255).astype(np.float32)


def _deciles(values: Sequence[float]) -> Bins:
    """At most ten pieces; where many values are equal, fewer."""
    inner = np.quantile(np.asarray(values), np.linspace(0, 1, _BINS + 1)[1:-1])
    edges = tuple(sorted({float(edge) for edge in inner}))
    counts = Bins(edges, (0.0,) * (len(edges) + 1)).counts(values)
    return Bins(edges, tuple(count / len(values) for count in counts))


def _bins(stored: Mapping[str, Any]) -> Bins:
    bins = Bins(
        tuple(float(edge) for edge in stored["edges"]),
        tuple(float(share) for share in stored["shares"]),
    )
    if len(bins.shares) != len(bins.edges) + 1 or list(bins.edges) != sorted(bins.edges):
        raise ValueError(f"{len(bins.edges)} edges in order make one more shares, not {bins}")
    return bins
