"""The gate's judgement, on answers that are made up: worse, equal and better at stated rates."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipeline import params as params_file
from pipeline.params import Gate
from pipeline.verdict import Answers, Cost, Verdict, judge

LABELS = ("bag", "dress", "shirt", "shoe", "sock")
CHEAP = Cost(2.0, 150_000_000)
IMAGES = 500
TRIALS = 200


@pytest.fixture(scope="module")
def limits(repository: Path) -> Gate:
    """The committed ones, with fewer resamples."""
    gate = params_file.read(repository / "params.yaml").gate
    return dataclasses.replace(gate, resamples=1000)


def truth_of(images: int = IMAGES) -> list[str]:
    return [LABELS[number % len(LABELS)] for number in range(images)]


def answers(
    truth: list[str], right: "np.ndarray", labels: tuple[str, ...] = LABELS, sure: float = 0.95
) -> Answers:
    """Each image gets its label where `right`, else the next one, with confidence `sure`."""
    numbers = np.array([labels.index(word) for word in truth])
    chosen = np.where(right, numbers, (numbers + 1) % len(labels))
    scores = np.full((len(truth), len(labels)), (1 - sure) / (len(labels) - 1), dtype=np.float32)
    scores[np.arange(len(truth)), chosen] = sure
    return Answers(labels, scores)


def at(accuracy: float, luck: "np.ndarray") -> "np.ndarray":
    """Which images are right, when `luck` is 0..1."""
    return luck < accuracy


def pass_rate(gain: float, limits: Gate, images: int = IMAGES, trials: int = TRIALS) -> float:
    """How often a challenger passes that is truly `gain` better than a champion of 90 %.

    Both find the same images hard, but for one in three.
    """
    random = np.random.default_rng(20261122)
    truth = truth_of(images)
    passed = 0
    for _ in range(trials):
        luck = random.random(images)
        other = np.where(random.random(images) < 1 / 3, random.random(images), luck)
        champion, challenger = at(0.9, luck), at(0.9 + gain, other)
        verdict = judge(
            answers(truth, champion, sure=0.9), answers(truth, challenger, sure=0.9), truth,
            CHEAP, limits,
        )  # fmt: skip
        passed += verdict.passed
    return passed / trials


def test_an_equal_challenger_passes_and_is_refused_at_most_once_in_twenty(limits: Gate) -> None:
    assert pass_rate(0.0, limits) >= 0.95


def test_a_better_challenger_passes(limits: Gate) -> None:
    assert pass_rate(0.03, limits) >= 0.995


def test_a_challenger_that_is_five_points_worse_is_refused_nineteen_times_in_twenty(
    limits: Gate,
) -> None:
    assert pass_rate(-0.05, limits) <= 0.05


def test_with_more_images_smaller_losses_are_seen(limits: Gate) -> None:
    assert pass_rate(-0.02, limits, images=10_000, trials=20) == 0


def verdict_of(limits: Gate, right: "np.ndarray", champion: "np.ndarray | None") -> Verdict:
    truth = truth_of(len(right))
    old = None if champion is None else answers(truth, champion)
    return judge(old, answers(truth, right), truth, CHEAP, limits)


def test_the_same_answers_pass_with_an_interval_of_nothing(limits: Gate) -> None:
    right = np.arange(IMAGES) % 20 != 0
    verdict = verdict_of(limits, right, right)
    assert verdict.passed
    assert verdict.comparison is not None
    assert dataclasses.astuple(verdict.comparison.accuracy) == (0.0, 0.0, 0.0)
    assert verdict.flips == ()


def test_the_interval_is_that_of_a_bootstrap_over_images(limits: Gate) -> None:
    random = np.random.default_rng(1)
    champion, challenger = random.random(IMAGES) < 0.9, random.random(IMAGES) < 0.92
    verdict = verdict_of(dataclasses.replace(limits, resamples=20_000), challenger, champion)
    assert verdict.comparison is not None
    gain = challenger.astype(int) - champion.astype(int)
    draws = gain[random.integers(0, IMAGES, (20_000, IMAGES))].mean(1)
    lower, upper = np.quantile(draws, [0.025, 0.975])
    found = verdict.comparison.accuracy
    assert found.value == pytest.approx(gain.mean())
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=0.0025)


def test_the_verdict_is_the_same_each_time(limits: Gate) -> None:
    random = np.random.default_rng(2)
    champion, challenger = random.random(IMAGES) < 0.9, random.random(IMAGES) < 0.9
    assert verdict_of(limits, challenger, champion) == verdict_of(limits, challenger, champion)


def test_a_sentence_says_the_numbers(limits: Gate) -> None:
    champion = np.arange(IMAGES) % 10 != 0
    right = np.arange(IMAGES) % 25 != 0
    verdict = verdict_of(limits, right, champion)
    assert verdict.sentence.startswith("Passed: 96.0% of 500 test images right, the champion 90.0%")
    assert "+6.0 points, interval +" in verdict.sentence
    assert "macro recall 96.0% against 90.0%" in verdict.sentence
    assert "ECE 0.010" in verdict.sentence


def test_a_class_that_is_lost_is_refused_though_the_whole_is_better(limits: Gate) -> None:
    numbers = np.arange(IMAGES)
    champion = numbers % 7 != 0
    right = (numbers % len(LABELS) != 4) | (numbers % 3 == 0)  # a third of the socks
    verdict = verdict_of(limits, right, champion)
    assert not verdict.passed
    assert verdict.comparison is not None
    assert verdict.comparison.accuracy.value > -limits.max_drop
    assert "fewer images of 'sock'" in verdict.sentence


def test_with_no_champion_the_floors_decide(limits: Gate) -> None:
    assert verdict_of(limits, np.arange(IMAGES) % 10 != 0, None).passed
    low = verdict_of(limits, np.arange(IMAGES) % 2 != 0, None)
    assert not low.passed
    assert "its accuracy, 0.500, is below gate.min_accuracy, 0.6" in low.sentence
    no_socks = verdict_of(limits, np.arange(IMAGES) % 5 != 4, None)
    assert no_socks.refusals == (
        "it finds only 0.000 of the images of 'sock' (gate.min_recall is 0.3)",
        "its confidences are off by 0.150 on average (gate.max_ece is 0.1)",
    )


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (Cost(900.0, 1), "an image takes 900.0 ms (gate.max_latency_ms is 500)"),
        (Cost(1.0, 2 * 10**9), "it needs 2000 MB of memory (gate.max_memory_bytes is 1500 MB)"),
    ],
)
def test_what_is_too_slow_or_too_large_is_refused(limits: Gate, cost: Cost, said: str) -> None:
    truth = truth_of()
    right = np.arange(IMAGES) % 20 != 0
    assert judge(None, answers(truth, right), truth, cost, limits).refusals == (said,)


def test_a_champion_of_other_classes_is_not_compared_with(limits: Gate) -> None:
    truth = truth_of()
    other = Answers(("cat", "dog"), np.full((IMAGES, 2), 0.5, dtype=np.float32))
    verdict = judge(other, answers(truth, np.arange(IMAGES) % 20 != 0), truth, CHEAP, limits)
    assert verdict.passed
    assert verdict.comparison is None
    assert "with no champion to compare with" in verdict.sentence
    assert verdict.notes == ("The champion knows none of these classes: the floors alone decide.",)


def test_where_one_class_is_new_the_others_are_compared(limits: Gate) -> None:
    truth = truth_of()
    known = LABELS[:4]
    old = [word if word in known else "bag" for word in truth]
    champion = answers(old, np.ones(IMAGES, dtype=bool), labels=known)
    verdict = judge(champion, answers(truth, np.ones(IMAGES, dtype=bool)), truth, CHEAP, limits)
    assert verdict.passed
    assert verdict.comparison is not None
    assert verdict.comparison.labels == known
    assert verdict.comparison.champion.images == 400
    assert verdict.notes == (
        "Their classes differ; compared are the 400 images of the 4 in common.",
        "New: sock.",
    )


def test_the_worst_flips_come_first(limits: Gate) -> None:
    truth = ["bag"] * 4
    labels = ("bag", "shoe", "sock")
    champion = Answers(labels, np.eye(3, dtype=np.float32)[[0, 0, 1, 1]] * 0.9 + 0.03)
    surer = np.array([[0.2, 0.7, 0.1], [0.04, 0.95, 0.01], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1]])
    verdict = judge(champion, Answers(labels, surer.astype(np.float32)), truth, CHEAP, limits)
    assert [flip.image for flip in verdict.flips] == [1, 0, 2, 3]
    assert (verdict.flips[0].champion, verdict.flips[0].challenger) == ("bag", "shoe")
