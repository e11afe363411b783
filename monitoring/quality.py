"""How good are the answers, and are the images still those that the model knows? Pure functions.

Three questions, each with its own answer:

- Without any labels: the mean calibrated confidence estimates the accuracy, as long as the
  calibration holds.
- With few labels: people look at a random sample (the audit); what they say is the truth, within a
  Wilson interval.
- Before either: have labels or images moved away from the bundle's reference? The population
  stability index (PSI) says how far: below 0.1 is noise, above 0.25 is another world.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from core.bundle import Manifest
from core.statistics import KINDS, Bins, Reference
from core.types import InputStatistics
from storage import audit
from storage.database import Database

Z = 1.96  # 95 %
MIN_IMAGES = 100  # for an estimate that says anything
MIN_DRIFT_IMAGES = 200  # with fewer, or fewer than 20 a piece, a PSI is mostly noise
_IMAGES_PER_PIECE = 20
RECENT_IMAGES = 1000
_SMALL_SHARE = 0.02  # labels below this are counted together: rare ones make a PSI jump
_HALF = 0.5  # an empty piece must not make the logarithm infinite
_REST = ""  # no label is blank
_NO_REFERENCE = Reference(0, {}, {})


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share with its 95 % interval, and how many images it comes from."""

    value: float
    lower: float
    upper: float
    images: int


@dataclass(frozen=True, slots=True)
class Quality:
    """What is known of the present model's answers; None: not enough images, or no reference."""

    estimated_accuracy: Estimate | None
    reviewed_accuracy: Estimate | None
    audit_waiting: int
    label_drift: float | None
    input_drift: Mapping[str, float | None]  # by kind, see core.statistics.KINDS

    @property
    def drift(self) -> dict[str, float]:
        """Every drift that is known: of `label`, and of each kind of input."""
        every = {"label": self.label_drift, **self.input_drift}
        return {kind: score for kind, score in every.items() if score is not None}


def look(database: Database, manifest: Manifest, audit_share: float) -> Quality:
    """The quality of the model's latest answers, out of the database.

    Whoever asks, watcher or API, is told the same: of the latest `RECENT_IMAGES` answers of this
    model, from every source, duplicates too.
    """
    recent = audit.recent_answers(database, manifest.version, RECENT_IMAGES)
    shown = [answer.shown for answer in recent if answer.shown is not None]
    looked_at = audit.audited(database, manifest.version, audit_share)
    reference = Reference.of_lineage(manifest.lineage) or _NO_REFERENCE
    return Quality(
        estimated_accuracy=estimated_accuracy([answer.confidence for answer in recent]),
        reviewed_accuracy=wilson(looked_at.correct, looked_at.reviewed),
        audit_waiting=looked_at.waiting,
        label_drift=label_drift(reference, [answer.label for answer in recent]),
        input_drift=input_drift(reference, shown),
    )


def estimated_accuracy(confidences: Sequence[float]) -> Estimate | None:
    """Mean calibrated confidence: the expected share of right answers.

    The interval is that of a sum of independent coins with these chances (Poisson-binomial, by its
    normal approximation). It knows nothing of a calibration that no longer holds.
    """
    images = len(confidences)
    if images < MIN_IMAGES:
        return None
    mean = sum(confidences) / images
    spread = Z * math.sqrt(sum(chance * (1 - chance) for chance in confidences)) / images
    return Estimate(mean, max(0.0, mean - spread), min(1.0, mean + spread), images)


def wilson(correct: int, total: int) -> Estimate | None:
    """A counted share with Wilson's score interval, which also holds for few and for all."""
    if total == 0:
        return None
    share = correct / total
    shrink = 1 + Z**2 / total
    middle = (share + Z**2 / (2 * total)) / shrink
    spread = Z / shrink * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    # The bounds meet the share itself at 0 and at 1, but for rounding.
    return Estimate(share, max(0.0, middle - spread), min(1.0, middle + spread), total)


def psi(shares: Sequence[float], counts: Sequence[float]) -> float:
    """Population stability index of counts against the shares of a reference; 0 is the same."""
    pieces, total = len(shares), sum(counts)
    index = 0.0
    for share, count in zip(shares, counts, strict=True):
        now = (count + _HALF) / (total + _HALF * pieces)
        then = (share * total + _HALF) / (total + _HALF * pieces)
        index += (now - then) * math.log(now / then)
    return index


def label_drift(reference: Reference, labels: Sequence[str]) -> float | None:
    """PSI of predicted labels; None for too few, and for a reference without any."""
    shares = _merged(reference.labels.items(), reference.labels)
    if not shares or not _is_enough(len(labels), len(shares)):
        return None
    counts = _merged(Counter(labels).items(), reference.labels)
    names = list(shares | counts)
    return psi([shares.get(name, 0.0) for name in names], [counts.get(name, 0) for name in names])


def input_drift(reference: Reference, shown: Sequence[InputStatistics]) -> dict[str, float | None]:
    """PSI of each kind of number; None for too few images, and what the reference lacks."""
    return {
        kind: _bins_drift(reference.inputs.get(kind), [float(image[index]) for image in shown])
        for index, kind in enumerate(KINDS)
    }


def _is_enough(images: int, pieces: int) -> bool:
    return images >= max(MIN_DRIFT_IMAGES, _IMAGES_PER_PIECE * pieces)


def _bins_drift(bins: Bins | None, values: Sequence[float]) -> float | None:
    if bins is None or not _is_enough(len(values), len(bins.shares)):
        return None
    return psi(bins.shares, bins.counts(values))


def _merged(counted: Iterable[tuple[str, float]], shares: Mapping[str, float]) -> dict[str, float]:
    merged: dict[str, float] = {}
    for label, number in counted:
        name = label if shares.get(label, 0.0) >= _SMALL_SHARE else _REST
        merged[name] = merged.get(name, 0) + number
    return merged
