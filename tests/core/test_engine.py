import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from core import bundle
from core.bundle import Bundle
from core.engine import FEW, MAX_FORWARD, Engine
from core.errors import EngineBusyError
from core.recipe import Recipe
from core.types import Batch, Failure, ModelRef, Outcome, Prediction, Scores

Paint = Callable[..., bytes]
COLORS = ("red", "lime", "blue")  # Pillow's "green" is only half bright
LABEL = {"red": "red", "lime": "green", "blue": "blue"}
MAX_PIXELS = 1_000_000


class Gated(Bundle):
    """A real bundle whose forward pass waits at a gate, and which stumbles over black images."""

    def __init__(self, *loaded: Any) -> None:  # noqa: ANN401 - whatever `load` gives
        super().__init__(*loaded)
        self.alone: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.stumbles = False

    def close_gate(self) -> None:
        self.gate.clear()
        self.entered.clear()
        self.stumbles = True
        self.alone.clear()

    def scores(self, images: Batch, *, on_all_cores: bool = False) -> Scores:
        self.alone.append(on_all_cores)
        self.entered.set()
        self.gate.wait()
        if self.stumbles and not images.reshape(len(images), -1).any(axis=1).all():
            raise ZeroDivisionError("black")
        return super().scores(images, on_all_cores=on_all_cores)


class Notebook:
    """An observer that writes down what it sees."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, float]] = []
        self.batches: list[int] = []

    def stage(self, name: str, seconds: float) -> None:
        self.stages.append((name, seconds))

    def batch(self, images: int) -> None:
        self.batches.append(images)


class Loud(Notebook):
    """An observer that breaks its promise while it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where: str | None = where

    def stage(self, name: str, seconds: float) -> None:
        super().stage(name, seconds)
        if name == self.where:
            raise LookupError(name)


@pytest.fixture(scope="module")
def model(rgb_bundle: Path) -> Bundle:
    return Bundle.load(rgb_bundle)


@pytest.fixture
def gated(rgb_bundle: Path) -> Iterator[Gated]:
    """The gate is closed; whatever a test does, it opens at the end, so that engines can close."""
    model = Gated.load(rgb_bundle)
    model.is_faster_together = True
    model.close_gate()
    yield model
    model.gate.set()


@pytest.fixture
def dark(rgb_bundle: Path, tmp_path: Path) -> Bundle:
    """A second bundle, with another recipe and its labels the other way round."""
    bundle.write(
        tmp_path / "dark",
        name="dark",
        weights=_of_any_size((rgb_bundle / "model.onnx").read_bytes()),
        labels=["blue", "green", "red"],
        recipe=Recipe(size_px=16, mean=(0, 0, 0), std=(1, 1, 1)),
    )
    return Bundle.load(tmp_path / "dark")


def _of_any_size(weights: bytes) -> bytes:
    model = onnx.load_from_string(weights)
    for axis in (1, 2):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "S"
    changed: bytes = model.SerializeToString()
    return changed


@pytest.fixture
def engine(model: Bundle) -> Iterator[Engine]:
    with Engine(model, workers=2, max_pixels=MAX_PIXELS) as engine:
        yield engine


def label(outcome: Outcome) -> str:
    return outcome.label if isinstance(outcome, Prediction) else outcome.code


def occupy(engine: Engine, gated: Gated, data: bytes) -> Future[Outcome]:
    """Send one image into the closed gate, so that whatever comes after it waits in the queue."""
    future = engine.submit(data)
    gated.entered.wait()
    return future


def test_outcomes_come_in_the_order_of_the_images(engine: Engine, paint: Paint) -> None:
    colors = list(islice(cycle(COLORS), 50))

    outcomes = engine.classify(paint(color) for color in colors)

    assert [label(outcome) for outcome in outcomes] == [LABEL[color] for color in colors]


def test_a_bad_image_never_spoils_its_neighbours(engine: Engine, paint: Paint) -> None:
    red = paint("red")
    images = [red, b"", b"no image", paint("blue"), red[:50], paint("lime", (2000, 1000)), red]

    outcomes = engine.classify(images * 10)

    assert [label(outcome) for outcome in outcomes] == 10 * [
        "red",
        "empty_file",
        "unsupported_format",
        "blue",
        "unreadable_image",
        "too_many_pixels",
        "red",
    ]
    assert all(o.detail.endswith(".") for o in outcomes if isinstance(o, Failure))


def test_nothing_but_bad_images_needs_no_forward_pass(model: Bundle) -> None:
    notebook = Notebook()

    with Engine(model, 1, MAX_PIXELS, observer=notebook) as engine:
        outcomes = engine.classify([b"", b"x"])

    assert [label(outcome) for outcome in outcomes] == ["empty_file", "unsupported_format"]
    assert notebook.batches == []


def test_no_images_give_no_outcomes(engine: Engine) -> None:
    assert engine.classify([]) == []


def test_a_prediction_says_which_model_and_which_image(
    engine: Engine, model: Bundle, paint: Paint
) -> None:
    outcome = engine.submit(paint("lime", (40, 30), "JPEG")).result()

    assert isinstance(outcome, Prediction)
    assert outcome.model == model.ref
    assert (outcome.image.width_px, outcome.image.height_px, outcome.image.format) == (
        40,
        30,
        "JPEG",
    )
    assert outcome.confidence == outcome.scores[0].score == pytest.approx(1)


def test_many_threads_at_once_each_get_the_outcome_of_their_own_image(
    engine: Engine, paint: Paint
) -> None:
    def ask(number: int) -> bool:
        color = COLORS[number % 3]
        outcome = engine.submit(paint(color, (number + 1, 3))).result()
        assert isinstance(outcome, Prediction)
        return (outcome.label, outcome.image.width_px) == (LABEL[color], number + 1)

    with ThreadPoolExecutor(16) as pool:
        right = list(pool.map(ask, range(400)))

    assert all(right)


def test_images_that_wait_together_are_classified_together(gated: Gated, paint: Paint) -> None:
    notebook = Notebook()

    with Engine(gated, 1, MAX_PIXELS, observer=notebook) as engine:
        first = occupy(engine, gated, paint("red"))
        waiting = [engine.submit(paint("blue")) for _ in range(MAX_FORWARD + 1)]
        gated.gate.set()

    assert notebook.batches == [1, MAX_FORWARD, 1]
    assert label(first.result()) == "red"
    assert {label(future.result()) for future in waiting} == {"blue"}


def test_a_network_that_gains_nothing_from_it_gets_few_at_once(gated: Gated, paint: Paint) -> None:
    gated.is_faster_together = False
    notebook = Notebook()

    with Engine(gated, 1, MAX_PIXELS, observer=notebook) as engine:
        occupy(engine, gated, paint("red"))
        waiting = [engine.submit(paint("blue")) for _ in range(2 * FEW + 1)]
        gated.gate.set()

    assert notebook.batches == [1, FEW, FEW, 1]
    assert {label(future.result()) for future in waiting} == {"blue"}


def test_an_image_that_is_alone_gets_all_cores_and_nobody_else_does(
    gated: Gated, paint: Paint
) -> None:
    with Engine(gated, 2, MAX_PIXELS) as engine:
        first = occupy(engine, gated, paint("red"))
        gated.entered.clear()
        second = occupy(engine, gated, paint("red"))
        waiting = [engine.submit(paint("blue")) for _ in range(3)]
        gated.gate.set()
        outcomes = [future.result() for future in (first, second, *waiting)]
        engine.submit(paint("blue")).result()

    assert [label(outcome) for outcome in outcomes] == ["red", "red", "blue", "blue", "blue"]
    assert gated.alone[0]
    assert not any(gated.alone[1:3])  # somebody was at work, and then several waited


def test_what_is_recalled_costs_no_forward_pass(model: Bundle, paint: Paint) -> None:
    notebook = Notebook()
    with Engine(model, 1, MAX_PIXELS, observer=notebook) as engine:
        outcome = engine.submit(paint("red")).result()
        asked: list[ModelRef] = []

        def recall(ref: ModelRef) -> Outcome:
            asked.append(ref)
            return outcome

        again = engine.submit(b"not even an image", recall).result()
        fresh = engine.submit(paint("blue"), lambda _: None).result()

    assert again is outcome
    assert asked == [model.ref]
    assert label(fresh) == "blue"
    assert notebook.batches == [1, 1]


def test_a_recall_that_fails_harms_nobody_else(gated: Gated, paint: Paint) -> None:
    def broken(_: ModelRef) -> Outcome | None:
        raise LookupError("no database")

    with Engine(gated, 1, MAX_PIXELS) as engine:
        running = occupy(engine, gated, paint("red"))
        lost, good = engine.submit(paint("red"), broken), engine.submit(paint("blue"))
        gated.gate.set()

        with pytest.raises(LookupError, match="no database"):
            lost.result()
        assert [label(future.result()) for future in (running, good)] == ["red", "blue"]


def test_more_images_than_the_bound_are_turned_away_and_the_others_are_not(
    gated: Gated, paint: Paint
) -> None:
    with Engine(gated, 1, MAX_PIXELS, max_waiting=2) as engine:
        accepted = [occupy(engine, gated, paint("red"))]
        accepted += [engine.submit(paint("red")) for _ in range(2)]
        with pytest.raises(EngineBusyError, match="2 images wait already"):
            engine.submit(paint("red"))
        gated.gate.set()

        assert [label(future.result()) for future in accepted] == ["red"] * 3
        assert label(engine.submit(paint("blue")).result()) == "blue"


def test_a_cancelled_image_does_not_disturb_the_others(gated: Gated, paint: Paint) -> None:
    with Engine(gated, 1, MAX_PIXELS) as engine:
        running = occupy(engine, gated, paint("red"))
        before, cancelled, after = (engine.submit(paint(color)) for color in COLORS)
        assert cancelled.cancel()
        assert not running.cancel()
        gated.gate.set()

        assert [label(f.result()) for f in (running, before, after)] == ["red", "red", "blue"]
        with pytest.raises(CancelledError):
            cancelled.result()


def test_an_exception_of_the_forward_pass_reaches_the_callers_of_that_pass_alone(
    gated: Gated, paint: Paint
) -> None:
    with Engine(gated, 1, MAX_PIXELS) as engine:
        earlier = occupy(engine, gated, paint("red"))
        stumbling = [engine.submit(paint(color)) for color in ("blue", "black", "blue")]
        gated.gate.set()

        for future in stumbling:
            with pytest.raises(ZeroDivisionError, match="black"):
                future.result()
        assert label(earlier.result()) == "red"
        assert label(engine.submit(paint("blue")).result()) == "blue"


def test_closing_finishes_what_waits_and_then_accepts_no_more(gated: Gated, paint: Paint) -> None:
    engine = Engine(gated, 1, MAX_PIXELS)
    futures = [occupy(engine, gated, paint("red"))]
    futures += [engine.submit(paint("blue")) for _ in range(3 * MAX_FORWARD)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    gated.gate.set()
    closing.join()

    assert all(future.done() for future in futures)
    assert Counter(label(f.result()) for f in futures) == {"red": 1, "blue": 3 * MAX_FORWARD}
    for send in (lambda: engine.submit(b""), lambda: engine.classify([b""])):
        with pytest.raises(RuntimeError, match="closed"):
            send()
    engine.close()  # twice is as good as once


def test_a_replaced_bundle_answers_what_waits_and_the_old_one_finishes_what_runs(
    gated: Gated, dark: Bundle, paint: Paint
) -> None:
    with Engine(gated, 1, MAX_PIXELS) as engine:
        running = occupy(engine, gated, paint("red"))
        waiting = [engine.submit(paint("red")) for _ in range(MAX_FORWARD + 1)]
        engine.replace(dark)
        assert engine.bundle is dark
        assert not running.done()
        gated.gate.set()

        for future, who in [(running, gated), *((future, dark) for future in waiting)]:
            outcome = future.result()
            assert isinstance(outcome, Prediction)
            assert outcome.model == who.ref
            assert (outcome.label == "red") == (who is gated)


def test_nothing_is_dropped_or_mixed_while_bundles_are_replaced(
    model: Bundle, dark: Bundle, paint: Paint
) -> None:
    red = paint("red")
    with Engine(model, 2, MAX_PIXELS) as engine, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(engine.classify, [red] * 25) for _ in range(8)]
        for other in islice(cycle((dark, model)), 50):
            engine.replace(other)
            engine.submit(red).result()
        outcomes = [outcome for answer in answers for outcome in answer.result()]

    assert len(outcomes) == 200
    for outcome in outcomes:
        assert isinstance(outcome, Prediction)
        assert (outcome.label == "red") == (outcome.model == model.ref)


def test_closing_ends_the_worker_threads(model: Bundle) -> None:
    before = set(threading.enumerate())

    with Engine(model, 3, MAX_PIXELS):
        assert len(set(threading.enumerate()) - before) == 3

    assert set(threading.enumerate()) <= before


def test_images_that_are_read_one_by_one_do_not_hold_up_the_workers(
    engine: Engine, paint: Paint
) -> None:
    def one_after_the_other() -> Iterator[bytes]:
        for color in COLORS:
            engine.submit(paint(color)).result()  # needs a worker while `classify` still reads
            yield paint(color)

    outcomes = engine.classify(one_after_the_other())

    assert [label(outcome) for outcome in outcomes] == ["red", "green", "blue"]


def test_the_observer_sees_every_stage_of_every_image(model: Bundle, paint: Paint) -> None:
    notebook = Notebook()

    with Engine(model, 1, MAX_PIXELS, observer=notebook) as engine:
        engine.classify([paint("red"), b"broken", paint("blue")])

    seen = Counter(name for name, _ in notebook.stages)
    assert seen["queue"] == seen["decode"] == 3  # the broken one was tried as well
    assert seen["infer"] == len(notebook.batches) == 1
    assert notebook.batches == [2]
    assert all(seconds >= 0 for _, seconds in notebook.stages)


@pytest.mark.parametrize("stage", ["queue", "decode", "infer"])
def test_an_observer_that_raises_does_not_end_the_workers(
    model: Bundle, paint: Paint, stage: str
) -> None:
    observer = Loud(stage)

    with Engine(model, 1, MAX_PIXELS, observer=observer) as engine:
        with pytest.raises(LookupError, match=stage):
            engine.submit(paint("red")).result()
        observer.where = None

        assert label(engine.submit(paint("red")).result()) == "red"


def test_an_image_gets_the_same_scores_alone_and_in_company(model: Bundle, paint: Paint) -> None:
    images = [paint((r, 100, b)) for r in (99, 100, 101) for b in (98, 100, 102)]

    with Engine(model, 1, MAX_PIXELS) as engine:
        together = engine.classify(images)
        alone = [engine.submit(image).result() for image in images]

    assert together == alone
    assert np.unique([label(outcome) for outcome in alone]).size == 3
