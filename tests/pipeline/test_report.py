"""The figure that we name for the starter is the figure that serving's own path measures."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from core.bundle import Bundle
from pipeline import params
from pipeline.export import CANDIDATE
from pipeline.fashion5 import FASHION5_SHA256
from pipeline.report import Report, main, report
from pipeline.stage import StageError

from .conftest import Run


def test_the_starter_is_as_good_as_it_says(repository: Path) -> None:
    starter = Bundle.load(repository / "models/starter")
    measured = report(starter, repository / "data/fashion5.zip")
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
    measured = report(bundle, run.root / run.params.unzip.archive)
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
        report(Bundle.load(run.root / CANDIDATE), other)


def test_an_unreadable_test_image_is_named(
    run: Run, tmp_path: Path, members: dict[str, bytes], zipped: Callable[..., Path]
) -> None:
    broken = zipped(tmp_path / "b.zip", members | {"test/disc/broken.png": b"\x89PNG"})
    with pytest.raises(StageError, match=r"test/disc/broken\.png: .*damaged"):
        report(Bundle.load(run.root / CANDIDATE), broken)


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
