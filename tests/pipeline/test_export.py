"""The bundle answers as the checkpoint does, says where it came from, and names no machine."""

import csv
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
from core.statistics import KINDS, Reference
from pipeline import calibrate, export, lineage, tracking, variants
from pipeline.dataset import MANIFEST, read_split
from pipeline.export import ANSWERS, CANDIDATE, METRICS, load, parity
from pipeline.fit import logits_of
from pipeline.metrics import confusion
from pipeline.params import Params
from pipeline.stage import StageError
from pipeline.starter import STARTER, ship
from pipeline.variants import Variant, folder_of

from .conftest import COUNTS, SMALL, Run


@pytest.fixture
def trained(run: Run, tmp_path: Path) -> Path:
    """A root of its own with everything that export reads."""
    for name in ("data", "models", "metrics", "mlflow"):
        shutil.copytree(run.root / name, tmp_path / name)
    shutil.rmtree(tmp_path / CANDIDATE)
    return tmp_path


def with_limits(run: Run, **limits: object) -> Params:
    section = dataclasses.replace(run.params.export, **limits)
    return dataclasses.replace(run.params, export=section)


def chosen(run: Run) -> Variant:
    name = Bundle.load(run.root / CANDIDATE).manifest.lineage["variant"]
    return Variant.read(folder_of(run.root, name))


def test_the_bundle_gives_the_scores_of_the_checkpoint(run: Run) -> None:
    test = read_split(run.root / SMALL, "test")
    model = load(run.params, chosen(run), run.root)
    bundle = Bundle.load(run.root / CANDIDATE, is_reference=True)
    logits = logits_of(model, test.images).numpy()
    expected = softmax(logits, calibrate.read(run.root))
    measured = parity(expected, bundle.scores(np.array(test.images)))
    assert measured.images == 2 * COUNTS["test"]
    assert measured.max_score_difference <= 1e-5
    assert measured.label_flips == 0


def test_a_bundle_that_answers_differently_is_refused_and_removed(run: Run, trained: Path) -> None:
    weights = variants.onnx_path(folder_of(trained, chosen(run).name))
    other = next(name for name in run.params.train.run if name != chosen(run).name)
    shutil.copy(variants.onnx_path(folder_of(trained, other)), weights)
    with pytest.raises(StageError, match=r"scores differ by up to .* \(export\.max_score_diff"):
        export.export(run.params, trained)
    assert not (trained / CANDIDATE).exists()
    assert json.loads((trained / METRICS).read_text())["max_score_difference"] > 0


def test_int8_weights_are_kept_within_the_limit(run: Run) -> None:
    metrics = json.loads((run.root / METRICS).read_text())
    assert metrics["int8_kept"]
    kept = Bundle.load(run.root / CANDIDATE).manifest
    assert kept.int8_sha256
    assert kept.metrics["int8_test_accuracy"] == metrics["int8_test_accuracy"]


def test_int8_weights_that_lose_too_much_are_left_out(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.export._int8_loss", lambda *_: 0.21)
    export.export(run.params, trained)
    assert not json.loads((trained / METRICS).read_text())["int8_kept"]
    assert Bundle.load(trained / CANDIDATE).manifest.int8_sha256 is None


def test_a_small_network_gets_no_int8_weights(run: Run, trained: Path) -> None:
    assert run.params.export.int8 is not None
    large_only = dataclasses.replace(run.params.export.int8, min_multiply_adds=10**12)
    export.export(with_limits(run, int8=large_only), trained)
    assert Bundle.load(trained / CANDIDATE).manifest.int8_sha256 is None
    assert "int8_kept" not in json.loads((trained / METRICS).read_text())


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


def test_the_same_checkpoint_gives_the_same_bytes(run: Run, trained: Path) -> None:
    export.export(run.params, trained)
    for path in (run.root / CANDIDATE).iterdir():
        assert (trained / CANDIDATE / path.name).read_bytes() == path.read_bytes(), path.name
    assert (trained / METRICS).read_bytes() == (run.root / METRICS).read_bytes()


def test_the_bundle_says_what_it_was_made_of(run: Run) -> None:
    manifest = Bundle.load(run.root / CANDIDATE).manifest
    archive = (run.root / run.params.unzip.archive).read_bytes()
    chain = manifest.lineage
    assert manifest.name == "shapes"
    assert manifest.labels == ("disc", "square")
    assert chain["zip_sha256"] == hashlib.sha256(archive).hexdigest()
    assert chain["zip_md5"] == hashlib.md5(archive).hexdigest()
    assert chain["prepared_md5"] == lineage.dvc_md5(run.root / SMALL)
    manifest_csv = (run.root / SMALL / MANIFEST).read_bytes()
    assert chain["manifest_sha256"] == hashlib.sha256(manifest_csv).hexdigest()
    assert chain["params"]["train"]["variants"]["cnn1"]["filters"] == [4, 8]
    assert chain["params_sha256"] == lineage.params_sha256(run.params)
    assert chain["git_revision"] is None
    assert chain["mlflow_run_id"] in tracking.run_ids(run.root)
    assert set(chain["versions"]) >= {"python", "torch", "onnxruntime"}


def test_the_bundle_remembers_what_images_and_answers_looked_like(run: Run) -> None:
    reference = Reference.of_lineage(Bundle.load(run.root / CANDIDATE).manifest.lineage)
    assert reference is not None
    assert reference.images == 2 * COUNTS["valid"]
    assert sum(reference.labels.values()) == pytest.approx(1)
    assert set(reference.inputs) == set(KINDS)
    answers = variants.valid_logits(folder_of(run.root, chosen(run).name)).argmax(1)
    assert reference.labels.get("disc", 0.0) == pytest.approx((answers == 0).mean())


def test_the_metrics_are_those_of_the_bundle(run: Run) -> None:
    metrics = json.loads((run.root / METRICS).read_text())
    manifest = Bundle.load(run.root / CANDIDATE).manifest
    assert set(manifest.metrics) >= {"validation_accuracy", "test_accuracy", "ece", "macro_recall"}
    assert manifest.metrics == {key: metrics[key] for key in manifest.metrics}
    assert manifest.metrics["validation_accuracy"] == chosen(run).validation_accuracy
    with (run.root / ANSWERS).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == metrics["images"] == 16
    assert {row["true"] for row in rows} == set(manifest.labels)
    assert sum(row["true"] == row["answered"] for row in rows) / 16 == metrics["test_accuracy"]


def test_the_table_has_a_row_for_every_variant_and_marks_the_chosen_one(run: Run) -> None:
    rows = (run.root / "reports/variants.md").read_text().splitlines()[2:]
    names = [row.split("|")[1].strip() for row in rows]
    expected = list(run.params.train.run)
    expected[expected.index(chosen(run).name)] = f"**{chosen(run).name}**"
    assert names == expected
    figures = json.loads((run.root / "metrics/variants.json").read_text())
    test_accuracy = json.loads((run.root / METRICS).read_text())["test_accuracy"]
    assert figures[chosen(run).name]["test_accuracy"] == test_accuracy
    for name in ("confusion.png", "curves.png", "reliability.png"):
        assert (run.root / "reports" / name).read_bytes().startswith(b"\x89PNG")


def test_the_revision_says_when_the_code_was_changed_since(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "pipeline" / "train.py"
    code.parent.mkdir()
    code.write_text("")
    assert lineage.git_revision(tmp_path) is None
    git("init", "-q")
    assert lineage.git_revision(tmp_path) is None
    git("add", "pipeline")
    git("commit", "-qm", "first")
    assert lineage.git_revision(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("no code")
    assert lineage.git_revision(tmp_path) == git("rev-parse", "HEAD")
    code.write_text("changed")
    assert lineage.git_revision(tmp_path) == git("rev-parse", "HEAD") + "-dirty"


def test_the_candidate_can_be_made_the_starter(run: Run, trained: Path) -> None:
    shutil.copytree(run.root / CANDIDATE, trained / CANDIDATE)
    manifest = ship(trained)
    assert manifest == Bundle.load(run.root / CANDIDATE).manifest
    assert manifest == Bundle.load(trained / STARTER).manifest
