"""The figure that we name for the starter is the figure that serving's own path measures."""

import dataclasses
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from core.bundle import Bundle
from pipeline import gate, params
from pipeline.export import CANDIDATE
from pipeline.fashion5 import FASHION5_SHA256
from pipeline.report import Report, main, report
from pipeline.stage import StageError
from pipeline.unzip import unzip

from .conftest import Run


def test_the_starter_is_as_good_as_it_says(repository: Path) -> None:
    starter = Bundle.load(repository / "models/starter")
    limits = params.read(repository / "params.yaml").unzip
    measured = report(starter, repository / "data/fashion5.zip", limits)
    assert measured.images == 500
    assert measured.accuracy == starter.manifest.metrics["test_accuracy"]
    assert measured.accuracy >= 0.93


def test_the_starter_is_small_and_made_of_what_is_committed(repository: Path) -> None:
    lineage = Bundle.load(repository / "models/starter").manifest.lineage
    assert lineage["zip_sha256"] == FASHION5_SHA256
    assert lineage["params"] == params.to_dict(params.read(repository / "params.yaml"))
    files = (repository / "models/starter").iterdir()
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_a_bundle_is_as_good_as_export_said(run: Run) -> None:
    bundle = Bundle.load(run.root / CANDIDATE)
    measured = report(bundle, run.root / run.params.unzip.archive, run.params.unzip)
    assert measured.accuracy == bundle.manifest.metrics["test_accuracy"]


def test_recall_is_the_share_of_a_label_that_was_found() -> None:
    counts = Counter({("cat", "cat"): 3, ("cat", "dog"): 1, ("dog", "dog"): 4})
    measured = Report(("cat", "dog"), counts)
    assert (measured.images, measured.accuracy) == (8, 7 / 8)
    assert (measured.recall("cat"), measured.recall("dog")) == (3 / 4, 1.0)


def test_the_command_prints_accuracy_recall_and_confusion(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = run.root / run.params.unzip.archive
    main(["--bundle", str(run.root / CANDIDATE), "--data", str(archive)])
    head, columns, *rows = capsys.readouterr().out.splitlines()
    assert re.match(r"shapes \w{12}: accuracy [01]\.\d{4} \(\d+ of 16 test images\)", head)
    assert columns.split() == ["true", "\\", "answered", "disc", "square", "recall"]
    assert [row.split()[0] for row in rows] == ["disc", "square"]


def test_a_zip_of_other_classes_is_refused(
    run: Run, tmp_path: Path, members: dict[str, bytes], zipped: Callable[..., Path]
) -> None:
    other = zipped(tmp_path / "o.zip", {n.replace("disc", "ring"): d for n, d in members.items()})
    with pytest.raises(StageError, match="has the classes ring, square; the bundle knows disc"):
        report(Bundle.load(run.root / CANDIDATE), other, run.params.unzip)


def test_an_unreadable_test_image_is_named_and_left_out(
    run: Run, tmp_path: Path, members: dict[str, bytes], zipped: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    broken = zipped(tmp_path / "b.zip", members | {"test/disc/broken.png": b"\x89PNG"})
    assert report(Bundle.load(run.root / CANDIDATE), broken, run.params.unzip).images == 16
    assert "left out: test/disc/broken.png: This PNG is damaged" in capsys.readouterr().err


def test_of_a_zip_with_no_test_split_the_images_that_unzip_puts_aside_are_judged(
    run: Run, tmp_path: Path, members: dict[str, bytes], zipped: Callable[..., Path]
) -> None:
    """The same as the gate's."""
    alone = zipped(tmp_path / "a.zip", {n.partition("/")[2]: d for n, d in members.items()})
    measured = report(Bundle.load(run.root / CANDIDATE), alone, run.params.unzip)
    unzip(dataclasses.replace(run.params.unzip, archive="a.zip"), tmp_path)
    judged = Counter(image.label for image in gate.test_images(tmp_path))
    assert judged["disc"] > 3
    for label in ("disc", "square"):
        assert (
            sum(n for (truth, _), n in measured.counts.items() if truth == label) == judged[label]
        )


def test_a_mistake_ends_with_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--bundle", "no/such/folder"])
    out, error = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert error.startswith("error: no/such/folder: bundle.json is missing.")
    assert "Traceback" not in error


def test_the_report_needs_no_training_package(repository: Path) -> None:
    code = (
        "import sys, pipeline.report;"
        "print({'torch', 'torchvision', 'onnx', 'onnxscript', 'dvc', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
