"""What images and answers look like as numbers, and what they looked like when the model was made.

The pipeline freezes a `Reference` into the bundle (`lineage["reference"]`); serving compares
what comes in with it (`monitoring.quality`). Both measure with the functions here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from core.types import Batch, ImageInfo, InputStatistics, Pixels

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
    """One image as four numbers, see `measure_all`."""
    return measure_all(pixels[np.newaxis], [info])[0]


def measure_all(batch: Batch, infos: Sequence[ImageInfo]) -> list[InputStatistics]:
    """Mean and spread of the luma, mean step between neighbours, and the size of the original.

    Of large images only some rows and columns are looked at.
    """
    stride = max(1, min(batch.shape[1:3]) // _SIDE_PX)
    luma = _luma(batch[:, ::stride, ::stride])
    means = luma.mean(axis=(1, 2))
    squares = np.einsum("nhw,nhw->n", luma, luma) / luma[0].size
    spreads = np.sqrt(np.maximum(squares - means**2, 0))
    steps = (
        _mean_steps(luma[:, 1:], luma[:, :-1]) + _mean_steps(luma[:, :, 1:], luma[:, :, :-1])
    ) / 2
    return [
        InputStatistics(
            brightness=float(mean),
            contrast=float(spread),
            sharpness=float(step),
            megapixels=info.width_px * info.height_px / 1e6,
        )
        for mean, spread, step, info in zip(means, spreads, steps, infos, strict=True)
    ]


def _luma(batch: Batch) -> NDArray[np.float32]:
    """(N, H, W), 0..1, by ITU-R BT.601; channel by channel, for a matrix product wakes a pool."""
    luma = batch[..., 0] * np.float32(0.299 / 255)
    luma += batch[..., 1] * np.float32(0.587 / 255)
    luma += batch[..., 2] * np.float32(0.114 / 255)
    return luma


def _mean_steps(here: NDArray[np.float32], there: NDArray[np.float32]) -> NDArray[np.float32]:
    if not here[0].size:
        return np.zeros(len(here), np.float32)
    means: NDArray[np.float32] = np.abs(here - there).mean(axis=(1, 2))
    return means


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
