"""The gate for real: bundles from disk, images from disk, and what is written about them."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from core import bundle
from core.recipe import Recipe
from pipeline import gate as gates
from pipeline import params as params_file
from pipeline.gate import gate
from pipeline.params import Gate
from pipeline.stage import StageError

COLORS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
HOSTILE = "a|b <script>*x* [y](z)\n`w`.png"


@pytest.fixture(scope="module")
def limits(repository: Path) -> Gate:
    return params_file.read(repository / "params.yaml").gate


@pytest.fixture
def top(tmp_path: Path, paint: Callable[..., bytes]) -> Path:
    """A folder in which `unzip` has run: twelve test images of each colour."""
    for label, color in COLORS.items():
        folder = tmp_path / "top/data/images/test" / label
        folder.mkdir(parents=True)
        for number in range(12):
            (folder / f"{number:02}.png").write_bytes(paint(color, (20 + number, 20)))
    return tmp_path / "top"


@pytest.fixture
def make(rgb_model: bytes, tmp_path: Path) -> Callable[..., Path]:
    """`make("green", "red", "blue")`: a bundle with these words for its three channels."""

    def make(*labels: str, temperature: float = 2.0) -> Path:
        folder = tmp_path / "-".join(labels)
        bundle.write(
            folder,
            name="made",
            weights=rgb_model,
            labels=labels,
            recipe=Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1)),
            temperature=temperature,
        )
        return folder

    return make


def report(top: Path) -> str:
    return (top / "reports/gate.md").read_text()


def test_an_equal_challenger_passes_and_the_reports_say_why(
    limits: Gate, top: Path, make: Callable[..., Path], rgb_bundle: Path
) -> None:
    challenger = make("red", "green", "blue")
    verdict = gate(limits, challenger, rgb_bundle, top)
    assert verdict.passed
    assert verdict.challenger.accuracy == 1.0
    assert 0 < verdict.cost.latency_ms_p95 < limits.max_latency_ms
    assert 30e6 < verdict.cost.memory_bytes < limits.max_memory_bytes
    record = json.loads((top / "reports/gate.json").read_text())
    assert record["passed"] is True
    assert record["versions"] == {
        "challenger": bundle.read_manifest(challenger).version,
        "champion": bundle.read_manifest(rgb_bundle).version,
    }
    assert record["sentence"] == verdict.sentence
    assert "# The gate: passed" in report(top)


def test_a_worse_one_is_refused_and_its_flips_are_shown_with_their_pictures(
    limits: Gate, top: Path, make: Callable[..., Path], rgb_bundle: Path
) -> None:
    verdict = gate(limits, make("green", "red", "blue"), rgb_bundle, top)
    assert not verdict.passed
    assert "33.3% of 36 test images right, the champion 100.0%: -66.7 points" in verdict.sentence
    record = json.loads((top / "reports/gate.json").read_text())
    assert len(record["flips"]) == 24
    assert record["flips"][0]["image"].startswith("data/images/test/")
    assert "# The gate: refused" in report(top)
    assert "## Answers that change: 24" in report(top)
    assert "| ![](../data/images/test/green/00.png)" in report(top)


def test_each_model_sees_the_images_by_its_own_recipe(
    limits: Gate, top: Path, rgb_model: bytes, rgb_bundle: Path, tmp_path: Path,
    paint: Callable[..., bytes],
) -> None:  # fmt: skip
    """Transparent pixels are blue to the challenger and white to the champion."""
    clear = paint((0, 0, 0, 0), mode="RGBA")
    (top / "data/images/test/blue/clear.png").write_bytes(clear)
    challenger = tmp_path / "on-blue"
    recipe = Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1), background=(0, 0, 255))
    bundle.write(
        challenger, name="b", weights=rgb_model, labels=["red", "green", "blue"], recipe=recipe
    )
    verdict = gate(limits, challenger, rgb_bundle, top)
    (flip,) = verdict.flips
    assert (flip.truth, flip.challenger) == ("blue", "blue")


def test_an_image_that_cannot_be_read_is_left_out(
    limits: Gate, top: Path, make: Callable[..., Path]
) -> None:
    (top / "data/images/test/red/broken.png").write_bytes(b"no image")
    assert gate(limits, make("red", "green", "blue"), None, top).challenger.images == 36


def test_an_image_that_preprocess_could_not_use_is_left_out(top: Path) -> None:
    """Such as one of more pixels than `preprocess.max_pixels`, which the gate could decode."""
    folder = top / "data/preprocessed/small"
    folder.mkdir(parents=True)
    (folder / "unreadable.csv").write_text("path,sha256,reason\ntest/red/03.png,0,too large\n")
    names = {image.path.name for image in gates.test_images(top) if image.label == "red"}
    assert len(names) == 11
    assert "03.png" not in names


def test_strangers_names_are_text_in_the_report(
    limits: Gate, top: Path, make: Callable[..., Path], rgb_bundle: Path
) -> None:
    folder = top / "data/images/test/red"
    (folder / "00.png").rename(folder / HOSTILE)
    gate(limits, make("green", "red", "blue"), rgb_bundle, top)
    (line,) = [line for line in report(top).splitlines() if "script" in line]
    assert line.count("|") == 5
    assert "<script>" not in line
    assert "[y]" not in line


def test_without_images_of_its_classes_nothing_is_judged(
    limits: Gate, top: Path, make: Callable[..., Path]
) -> None:
    with pytest.raises(StageError, match="has no images of the classes of"):
        gate(limits, make("rouge", "vert", "bleu"), None, top)
    assert not (top / "reports").exists()


@pytest.mark.parametrize(
    ("labels", "code", "said"),
    [(("red", "green", "blue"), 0, "Passed"), (("green", "red", "blue"), 1, "Refused")],
)
def test_it_can_be_asked_by_itself(
    top: Path, repository: Path, make: Callable[..., Path], rgb_bundle: Path,
    labels: Sequence[str], code: int, said: str,
) -> None:  # fmt: skip
    (top / "params.yaml").write_text((repository / "params.yaml").read_text())
    words = ["--challenger", str(make(*labels)), "--champion", str(rgb_bundle)]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.gate", *words],
        cwd=top,
        env={"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
