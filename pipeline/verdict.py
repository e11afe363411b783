"""May the challenger take the champion's place? Pure arithmetic over what both say of one test set.

Both have answered the same images, so the comparison is paired: only images on which one is right
and the other wrong tell them apart. The interval is that of the paired bootstrap. Its resamples of
wins, losses and ties are one multinomial draw each, which is the same distribution and needs no
loop over images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.types import Scores
from pipeline.metrics import calibration_error
from pipeline.params import Gate

Words = NDArray[np.str_]  # (N,), a label per image

_BINS = 15  # of the calibration error, as in Guo et al., "On Calibration of Modern Neural Networks"


class Answers(NamedTuple):
    """What one model says of the test images: `scores` (N, C), a column per label."""

    labels: tuple[str, ...]
    scores: Scores

    @property
    def words(self) -> Words:
        """The label that it gives each image."""
        words: Words = np.array(self.labels)[self.scores.argmax(1)]
        return words

    @property
    def confidences(self) -> NDArray[np.float32]:
        """How sure it is of each."""
        top: NDArray[np.float32] = self.scores.max(1)
        return top


class Cost(NamedTuple):
    """What one image costs on one thread, and what a process that serves needs at most."""

    latency_ms_p95: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Figures:
    """How good one model is; `macro_recall` counts every class alike, however rare."""

    images: int
    accuracy: float
    macro_recall: float
    recalls: Mapping[str, float]
    ece: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Challenger minus champion, with the bounds of its interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Over the images of the classes that both know."""

    labels: tuple[str, ...]
    champion: Figures
    challenger: Figures
    accuracy: Difference
    macro_recall: Difference
    recalls: Mapping[str, Difference]


@dataclass(frozen=True, slots=True)
class Flip:
    """An image (its number) whose answer changes: the word and the confidence of each model."""

    image: int
    truth: str
    champion: str
    champion_confidence: float
    challenger: str
    challenger_confidence: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger passed, in one sentence with its numbers, and why not."""

    passed: bool
    sentence: str
    refusals: tuple[str, ...]
    notes: tuple[str, ...]
    challenger: Figures
    comparison: Comparison | None
    cost: Cost
    flips: tuple[Flip, ...]


def judge(
    champion: Answers | None, challenger: Answers, truth: Sequence[str], cost: Cost, limits: Gate
) -> Verdict:
    """Compare what can be compared, and hold the challenger to the floors.

    It passes when it meets every floor and is not worse than the champion: neither shown to be (its
    whole interval lies below 0) nor by more than `limits.max_drop` in this sample. An equal one
    passes, since it has seen the newer data.
    """
    words = np.array(truth)
    comparison = None if champion is None else _compare(champion, challenger, words, limits)
    figures = measure(challenger, words)
    refusals = [*_below_floors(figures, cost, limits), *_worse(comparison, limits)]
    return Verdict(
        passed=not refusals,
        sentence=_sentence(figures, comparison, refusals, limits),
        refusals=tuple(refusals),
        notes=tuple(_notes(champion, challenger, comparison)),
        challenger=figures,
        comparison=comparison,
        cost=cost,
        flips=() if champion is None else _flips(champion, challenger, words),
    )


def measure(answers: Answers, truth: Words) -> Figures:
    """Accuracy, recalls and calibration of one model."""
    right = answers.words == truth
    recalls = {str(label): float(right[truth == label].mean()) for label in np.unique(truth)}
    return Figures(
        images=len(truth),
        accuracy=float(right.mean()),
        macro_recall=float(np.mean(list(recalls.values()))),
        recalls=recalls,
        ece=calibration_error(answers.confidences, right, _BINS),
    )


# --- champion against challenger -------------------------------------------------------------


def _compare(
    champion: Answers, challenger: Answers, truth: Words, limits: Gate
) -> Comparison | None:
    shared = sorted(set(champion.labels) & set(challenger.labels) & set(truth.tolist()))
    if not shared:
        return None
    chosen = np.isin(truth, shared)
    truth = truth[chosen]
    old = Answers(champion.labels, champion.scores[chosen])
    new = Answers(challenger.labels, challenger.scores[chosen])
    gain = (new.words == truth).astype(int) - (old.words == truth).astype(int)  # 1: now right
    random = np.random.default_rng(limits.seed)
    by_class = {label: _resampled(gain[truth == label], random, limits) for label in shared}
    macro = np.mean(list(by_class.values()), axis=0)
    return Comparison(
        labels=tuple(shared),
        champion=measure(old, truth),
        challenger=measure(new, truth),
        accuracy=_difference(gain.mean(), _resampled(gain, random, limits), limits),
        macro_recall=_difference(
            np.mean([gain[truth == label].mean() for label in shared]), macro, limits
        ),
        recalls={
            label: _difference(gain[truth == label].mean(), draws, limits)
            for label, draws in by_class.items()
        },
    )


def _resampled(
    gain: NDArray[np.int64], random: np.random.Generator, limits: Gate
) -> NDArray[np.float64]:
    """The mean gain of each bootstrap sample."""
    shares = [(gain == value).mean() for value in (1, 0, -1)]
    wins, _, losses = random.multinomial(len(gain), shares, size=limits.resamples).T
    means: NDArray[np.float64] = (wins - losses) / len(gain)
    return means


def _difference(value: float, draws: NDArray[np.float64], limits: Gate) -> Difference:
    tail = (1 - limits.confidence) / 2
    lower, upper = np.quantile(draws, [tail, 1 - tail])
    return Difference(float(value), float(lower), float(upper))


def _flips(champion: Answers, challenger: Answers, truth: Words) -> tuple[Flip, ...]:
    """What changes, worst first: right answers lost, then wrong for wrong, then answers won."""
    old, new = champion.words, challenger.words
    before, after = champion.confidences, challenger.confidences
    flips = [
        Flip(
            int(number),
            str(truth[number]),
            str(old[number]),
            float(before[number]),
            str(new[number]),
            float(after[number]),
        )
        for number in np.flatnonzero(old != new)
    ]

    def badness(flip: Flip) -> tuple[int, float]:
        change = (flip.challenger == flip.truth) - (flip.champion == flip.truth)
        return change, -flip.challenger_confidence

    return tuple(sorted(flips, key=badness))


# --- the rules -------------------------------------------------------------------------------


def _below_floors(figures: Figures, cost: Cost, limits: Gate) -> list[str]:
    found = []
    if figures.accuracy < limits.min_accuracy:
        found.append(
            f"its accuracy, {figures.accuracy:.3f}, is below gate.min_accuracy, "
            f"{limits.min_accuracy:g}"
        )
    found += [
        f"it finds only {recall:.3f} of the images of {label!r} (gate.min_recall is "
        f"{limits.min_recall:g})"
        for label, recall in figures.recalls.items()
        if recall < limits.min_recall
    ]
    if figures.ece > limits.max_ece:
        found.append(
            f"its confidences are off by {figures.ece:.3f} on average (gate.max_ece is "
            f"{limits.max_ece:g})"
        )
    if cost.latency_ms_p95 > limits.max_latency_ms:
        found.append(
            f"an image takes {cost.latency_ms_p95:.1f} ms (gate.max_latency_ms is "
            f"{limits.max_latency_ms:g})"
        )
    if cost.memory_bytes > limits.max_memory_bytes:
        found.append(
            f"it needs {cost.memory_bytes / 1e6:.0f} MB of memory (gate.max_memory_bytes is "
            f"{limits.max_memory_bytes / 1e6:.0f} MB)"
        )
    return found


def _worse(comparison: Comparison | None, limits: Gate) -> list[str]:
    if comparison is None:
        return []
    found = [
        f"its {name} is {text} than the champion's: {_points(difference)}"
        for name, difference in (
            ("accuracy", comparison.accuracy),
            ("macro recall", comparison.macro_recall),
        )
        if (text := _how_much_worse(difference, limits.max_drop))
    ]
    return found + [
        f"it finds fewer images of {label!r} than the champion: {_points(difference)}"
        for label, difference in comparison.recalls.items()
        if difference.upper < 0 and difference.value < -limits.max_class_drop
    ]


def _how_much_worse(difference: Difference, max_drop: float) -> str | None:
    if difference.upper < 0:
        return "lower"
    if difference.value < -max_drop:
        return f"more than {100 * max_drop:g} points lower"
    return None


# --- in words --------------------------------------------------------------------------------


def _points(difference: Difference) -> str:
    value, lower, upper = (100 * part for part in (difference.value, difference.lower,
                                                   difference.upper))  # fmt: skip
    return f"{value:+.1f} points, interval {lower:+.1f} to {upper:+.1f}"


def _sentence(
    figures: Figures, comparison: Comparison | None, refusals: Sequence[str], limits: Gate
) -> str:
    if comparison is None:
        found = (
            f"{figures.accuracy:.1%} of {figures.images} test images right, macro recall "
            f"{figures.macro_recall:.1%}, with no champion to compare with"
        )
    else:
        both = comparison
        found = (
            f"{both.challenger.accuracy:.1%} of {both.challenger.images} test images right, the "
            f"champion {both.champion.accuracy:.1%}: {_points(both.accuracy)} at "
            f"{limits.confidence:.0%}; macro recall {both.challenger.macro_recall:.1%} against "
            f"{both.champion.macro_recall:.1%}"
        )
    found += f"; ECE {figures.ece:.3f}"
    if refusals:
        return f"Refused: {'; '.join(refusals)}. ({found[0].upper()}{found[1:]}.)"
    return f"Passed: {found}."


def _notes(
    champion: Answers | None, challenger: Answers, comparison: Comparison | None
) -> list[str]:
    if champion is None or set(champion.labels) == set(challenger.labels):
        return []
    if comparison is None:
        return ["The champion knows none of these classes: the floors alone decide."]
    fresh = sorted(set(challenger.labels) - set(champion.labels))
    gone = sorted(set(champion.labels) - set(challenger.labels))
    images, classes = comparison.challenger.images, len(comparison.labels)
    notes = [f"Their classes differ; compared are the {images} images of the {classes} in common."]
    if fresh:
        notes.append(f"New: {', '.join(fresh)}.")
    if gone:
        notes.append(f"No longer known: {', '.join(gone)}.")
    return notes
