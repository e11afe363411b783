"""The bundle answers as the checkpoint does, says where it came from, and names no machine."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from core.bundle import Bundle
from core.classify import softmax
from pipeline import train
from pipeline.dataset import MANIFEST, read_recipe, read_split
from pipeline.export import CANDIDATE, METRICS, confusion, export, git_revision, parity
from pipeline.stage import StageError
from pipeline.starter import STARTER, ship

from .conftest import COUNTS, SMALL, Run


@pytest.fixture
def trained(run: Run, tmp_path: Path) -> Path:
    """A root of its own with everything that export reads."""
    for name in ("data", "models/checkpoint.pt"):
        copy = shutil.copytree if (run.root / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(run.root / name, tmp_path / name)
    return tmp_path


def test_the_bundle_gives_the_scores_of_the_checkpoint(run: Run) -> None:
    test = read_split(run.root / SMALL, "test")
    recipe = read_recipe(run.root / SMALL)
    model = train.load(run.params.train, recipe, 2, run.root / train.CHECKPOINT)
    bundle = Bundle.load(run.root / CANDIDATE)
    expected = softmax(train.logits_of(model, test.images).numpy())
    measured = parity(expected, bundle.scores(np.array(test.images)))
    assert measured.images == 2 * COUNTS["test"]
    assert measured.max_score_difference <= 1e-5
    assert measured.label_flips == 0


def test_a_bundle_that_answers_differently_is_refused_and_removed(run: Run, trained: Path) -> None:
    strict = dataclasses.replace(run.params.export, max_score_difference=0.0)
    (trained / METRICS).parent.mkdir()
    with pytest.raises(StageError, match=r"scores differ by up to .* \(export\.max_score_diff"):
        export(dataclasses.replace(run.params, export=strict), trained)
    assert not (trained / CANDIDATE).exists()
    assert json.loads((trained / METRICS).read_text())["max_score_difference"] > 0


def test_parity_counts_flips_and_finds_the_largest_difference() -> None:
    expected = np.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]], dtype=np.float32)
    given = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], dtype=np.float32)
    measured = parity(expected, given)
    assert (measured.images, measured.label_flips) == (3, 1)
    assert measured.max_score_difference == pytest.approx(0.2)


def test_confusion_has_a_row_per_truth_and_a_column_per_answer() -> None:
    counts = confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_the_weights_are_one_file_with_one_input_and_one_output(run: Run) -> None:
    model = onnx.load(run.root / CANDIDATE / "model.onnx", load_external_data=False)
    (images,), (logits,) = model.graph.input, model.graph.output
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    dims = images.type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 16, 16, 3]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_the_bundle_names_no_place_of_the_machine_that_made_it(run: Run, repository: Path) -> None:
    for path in (run.root / CANDIDATE).iterdir():
        data = path.read_bytes()
        for place in (repository, run.root, Path.home(), Path(onnx.__file__).parent.parent):
            assert place == Path("/") or str(place).encode() not in data


def test_the_same_checkpoint_gives_the_same_version(run: Run, trained: Path) -> None:
    export(run.params, trained)
    first, second = (Bundle.load(root / CANDIDATE).manifest for root in (run.root, trained))
    assert first.version == second.version
    assert first.weights_sha256 == second.weights_sha256


def test_the_bundle_says_what_it_was_made_of(run: Run) -> None:
    manifest = Bundle.load(run.root / CANDIDATE).manifest
    archive = (run.root / run.params.unzip.archive).read_bytes()
    lineage = manifest.lineage
    assert manifest.name == "shapes"
    assert manifest.labels == ("disc", "square")
    assert lineage["zip_sha256"] == hashlib.sha256(archive).hexdigest()
    assert lineage["zip_md5"] == hashlib.md5(archive).hexdigest()
    manifest_csv = (run.root / SMALL / MANIFEST).read_bytes()
    assert lineage["manifest_sha256"] == hashlib.sha256(manifest_csv).hexdigest()
    assert lineage["params"]["train"]["filters"] == [4, 8]
    assert lineage["git_revision"] is None


def test_the_metrics_are_those_of_the_bundle(run: Run) -> None:
    metrics = json.loads((run.root / METRICS).read_text())
    manifest = Bundle.load(run.root / CANDIDATE).manifest
    assert manifest.metrics == {k: metrics[k] for k in ("validation_accuracy", "test_accuracy")}
    table = metrics["confusion"]
    right = sum(table[label][label] for label in manifest.labels)
    assert sum(sum(row.values()) for row in table.values()) == metrics["images"] == 16
    assert right / 16 == metrics["test_accuracy"]


def test_the_revision_says_when_the_code_was_changed_since(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "pipeline" / "train.py"
    code.parent.mkdir()
    code.write_text("")
    assert git_revision(tmp_path) is None
    git("init", "-q")
    assert git_revision(tmp_path) is None
    git("add", "pipeline")
    git("commit", "-qm", "first")
    assert git_revision(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("no code")
    assert git_revision(tmp_path) == git("rev-parse", "HEAD")
    code.write_text("changed")
    assert git_revision(tmp_path) == git("rev-parse", "HEAD") + "-dirty"


def test_the_candidate_can_be_made_the_starter(run: Run, trained: Path) -> None:
    shutil.copytree(run.root / CANDIDATE, trained / CANDIDATE)
    manifest = ship(trained)
    assert manifest == Bundle.load(run.root / CANDIDATE).manifest
    assert manifest == Bundle.load(trained / STARTER).manifest
