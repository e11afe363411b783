import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from core import bundle
from core.bundle import Bundle
from core.errors import BundleError, ModelError, SettingsError
from core.recipe import Recipe
from core.types import Batch, Scores

RECIPE = Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1))
LABELS = ["red", "green", "blue"]


@pytest.fixture
def copy(rgb_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of one's own, to be altered."""
    return shutil.copytree(rgb_bundle, tmp_path / "copy")


def change(folder: Path, **values: object) -> None:
    """Set keys of bundle.json, as somebody with an editor would."""
    file = folder / "bundle.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_and_sign(folder: Path, **values: object) -> None:
    """Set keys of bundle.json with a version that fits, so that only the values can be wrong."""
    data = {**json.loads((folder / "bundle.json").read_text()), **values}
    answer = [data[key] for key in ("weights_sha256", "labels", "recipe", "temperature")]
    version = hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()[:12]
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in data["labels"]))
    change(folder, **values, version=version)


# Reading


def test_all_cores_give_the_same_scores(rgb_bundle: Path) -> None:
    model = Bundle.load(rgb_bundle, cores=2)
    image = np.random.default_rng(7).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)

    assert model.scores(image, on_all_cores=True) == pytest.approx(model.scores(image), abs=1e-6)


@pytest.mark.parametrize(
    ("pass_s", "image_s", "gains"), [(0.03, 0.01, True), (0.001, 0.01, False), (3.0, 1.0, False)]
)
def test_whether_images_gain_from_each_other_is_measured_when_a_bundle_is_loaded(
    rgb_bundle: Path, monkeypatch: pytest.MonkeyPatch, pass_s: float, image_s: float, gains: bool
) -> None:
    clock = [0.0]

    class Timed(Bundle):
        """A real bundle whose forward passes take as long as the test says."""

        def scores(self, images: Batch, *, on_all_cores: bool = False) -> Scores:
            clock[0] += pass_s + image_s * len(images)
            return super().scores(images, on_all_cores=on_all_cores)

    monkeypatch.setattr(bundle, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert Timed.load(rgb_bundle).is_faster_together is gains


def test_a_bundle_names_the_brightest_channel(rgb_bundle: Path) -> None:
    model = Bundle.load(rgb_bundle)
    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    images[0, :, :, 2] = images[1, :, :, 0] = images[2, :, :, 1] = 20

    scores = model.scores(images)

    assert [model.labels[index] for index in scores.argmax(axis=1)] == ["blue", "red", "green"]
    assert scores.sum(axis=1) == pytest.approx([1, 1, 1])
    assert model.recipe == RECIPE
    assert (model.ref.name, model.ref.version) == ("rgb", model.manifest.version)


def test_the_temperature_of_the_bundle_softens_its_scores(rgb_model: bytes, tmp_path: Path) -> None:
    image = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    image[..., 0] = 20
    bundle.write(
        tmp_path / "b",
        name="x",
        weights=rgb_model,
        labels=LABELS,
        recipe=RECIPE,
        temperature=20,
    )

    scores = Bundle.load(tmp_path / "b").scores(image)

    assert scores[0, 0] == pytest.approx(np.e / (np.e + 2))  # logits 20, 0, 0


def test_a_manifest_reads_back_as_it_was_written(rgb_model: bytes, tmp_path: Path) -> None:
    recipe = Recipe(8, (0.1, 0.2, 0.3), (1, 1, 1), "center", 9, "bicubic", (1, 2, 3))
    written = bundle.write(
        tmp_path / "b",
        name="höhle",
        weights=rgb_model,
        labels=["Zwerg", "Ñandú", "چای‌خانه"],  # the last with a zero-width non-joiner, as spelled
        recipe=recipe,
        temperature=1.5,
        metrics={"ece": 0.1},
        lineage={"git": {"dirty": False}},
    )

    assert bundle.read_manifest(tmp_path / "b") == written
    assert written.recipe == recipe
    json.dumps(written.to_dict())


def test_a_temperature_of_1_and_of_1_0_is_one_version(rgb_model: bytes, tmp_path: Path) -> None:
    for folder, temperature in (("a", 1), ("b", 1.0)):
        bundle.write(
            tmp_path / folder,
            name="x",
            weights=rgb_model,
            labels=LABELS,
            recipe=RECIPE,
            temperature=temperature,
        )

    versions = {bundle.read_manifest(tmp_path / folder).version for folder in "ab"}
    assert len(versions) == 1


def test_everything_that_changes_an_answer_changes_the_version(
    rgb_model: bytes, tmp_path: Path
) -> None:
    same: dict[str, Any] = {"weights": rgb_model, "labels": LABELS, "recipe": RECIPE}
    others: list[dict[str, Any]] = [
        {"weights": rgb_model + b"\0"},
        {"labels": ["red", "blue", "green"]},
        {"recipe": Recipe(size_px=9, mean=(0, 0, 0), std=(1, 1, 1))},
        {"temperature": 2.0},
    ]
    versions = [
        bundle.write(tmp_path / "b", **{"name": "x", **same, **other}).version
        for other in [{}, *others]
    ]
    renamed = bundle.write(tmp_path / "b", name="y", metrics={"a": 1}, **same)

    assert len(set(versions)) == len(versions)
    assert renamed.version == versions[0]


# The quantised weights


@pytest.fixture
def int8_bundle(rgb_model: bytes, tmp_path: Path) -> Path:
    """Its int8 weights name the darkest channel, so that one sees which weights answer."""
    weights = broken_model(rgb_model, negated)
    bundle.write(
        tmp_path / "int8",
        name="x",
        weights=rgb_model,
        labels=LABELS,
        recipe=RECIPE,
        int8_weights=weights,
    )
    return tmp_path / "int8"


def test_a_cpu_serves_the_int8_weights_and_the_reference_is_fp32(int8_bundle: Path) -> None:
    image = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    image[..., 0] = 20

    served = Bundle.load(int8_bundle).scores(image)
    reference = Bundle.load(int8_bundle, is_reference=True).scores(image)

    assert (served.argmin(), reference.argmax()) == (0, 0)


def test_int8_weights_are_part_of_the_version(int8_bundle: Path, rgb_bundle: Path) -> None:
    with_int8, without = (bundle.read_manifest(folder) for folder in (int8_bundle, rgb_bundle))

    assert with_int8.version != without.version
    assert with_int8.weights_sha256 == without.weights_sha256
    assert with_int8.to_dict()["int8"] == {"sha256": with_int8.int8_sha256}
    assert without.to_dict()["int8"] is None


def test_a_bundle_from_before_int8_keeps_its_version(copy: Path) -> None:
    before = bundle.read_manifest(copy)
    data = json.loads((copy / "bundle.json").read_text())
    del data["int8"]
    (copy / "bundle.json").write_text(json.dumps(data))

    assert bundle.read_manifest(copy) == before


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda b: (b / "model.int8.onnx").unlink(), "model.int8.onnx is missing"),
        (lambda b: cut("model.int8.onnx")(b), "model.int8.onnx is not the file"),
        (lambda b: change(b, int8=None), "was altered after training"),
        (lambda b: change(b, int8="yes"), "bundle.json is incomplete"),
    ],
)
def test_int8_weights_that_are_not_as_written_are_refused(
    int8_bundle: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(int8_bundle)

    for read in (bundle.read_manifest, Bundle.load):
        with pytest.raises(BundleError, match=sentence):
            read(int8_bundle)


def test_a_provider_that_is_not_installed_is_a_setting_to_change(rgb_bundle: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")

    with pytest.raises(SettingsError, match="PIGEONHOLE_PROVIDER is cuda"):
        Bundle.load(rgb_bundle, "cuda")


# Damage


def cut(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut("model.onnx"), "model.onnx is not the file that bundle.json names"),
        (cut("labels.txt"), "labels.txt and bundle.json differ"),
        (cut("bundle.json"), "cannot be read"),
        (lambda b: (b / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda b: (b / "labels.txt").unlink(), "labels.txt is missing"),
        (lambda b: (b / "bundle.json").unlink(), "bundle.json is missing"),
        (shutil.rmtree, "bundle.json is missing"),
        (lambda b: (b / "bundle.json").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda b: (b / "bundle.json").write_text("[1]"), "bundle.json is not of format 1"),
        (lambda b: change(b, format_version=2), "not of format 1; update Pigeonhole"),
        (lambda b: change(b, temperature=2.0), "bundle.json was altered after training"),
        (lambda b: change(b, version="0" * 12), "bundle.json was altered after training"),
        (lambda b: change(b, labels=["a", "b", "c"]), "labels.txt and bundle.json differ"),
        (lambda b: change(b, labels=None), "bundle.json is incomplete"),
        (lambda b: change(b, recipe=None), "bundle.json is incomplete"),
        (lambda b: change(b, recipe={"size_px": 8}), "recipe: .*mean"),
        (lambda b: change(b, recipe={**RECIPE.to_dict(), "size_px": 9}), "was altered"),
        (lambda b: change(b, recipe={**RECIPE.to_dict(), "blur": 9}), "unknown keys"),
        (lambda b: change_and_sign(b, labels=["red", "red", "blue"]), "different labels"),
        (lambda b: change_and_sign(b, labels=["red", " ", "blue"]), "cannot be a label"),
        (lambda b: change_and_sign(b, temperature=0.0), "temperature of a model is above 0"),
    ],
)
def test_a_bundle_that_is_not_as_it_was_written_is_refused(
    copy: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(copy)

    for read in (bundle.read_manifest, Bundle.load):
        with pytest.raises(BundleError, match=sentence) as refusal:
            read(copy)
        assert str(copy) in str(refusal.value)


def test_signing_alone_does_not_spoil_a_bundle(copy: Path) -> None:
    change_and_sign(copy, labels=["rouge", "vert", "bleu"])

    assert Bundle.load(copy).labels == ("rouge", "vert", "bleu")


def test_labels_with_windows_line_ends_are_the_same_labels(copy: Path) -> None:
    (copy / "labels.txt").write_bytes(b"red\r\ngreen\r\nblue\r\n")

    assert Bundle.load(copy).labels == ("red", "green", "blue")


def broken_model(rgb_model: bytes, change_graph: Callable[[Any], object]) -> bytes:
    model = onnx.load_from_string(rgb_model)
    change_graph(model.graph)
    weights: bytes = model.SerializeToString()
    return weights


def only_batches_of_one(graph: Any) -> None:  # noqa: ANN401 - onnx ships no types
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1


def negated(graph: Any) -> None:  # noqa: ANN401 - onnx ships no types
    graph.node[1].output[0] = "means"
    graph.node.append(onnx.helper.make_node("Neg", ["means"], ["logits"]))


def logarithms(graph: Any) -> None:  # noqa: ANN401 - onnx ships no types
    graph.node[1].output[0] = "means"
    graph.node.append(onnx.helper.make_node("Log", ["means"], ["logits"]))


@pytest.mark.parametrize(
    ("change_graph", "labels", "sentence"),
    [
        (only_batches_of_one, LABELS, "the model does not run"),
        (logarithms, LABELS, "answers a black image with NaN"),
        (lambda graph: graph.node.pop(), LABELS, "the model does not run"),
        (lambda _: None, ["red", "green"], r"2 labels, but the model answers \(2, 3\)"),
    ],
)
def test_a_model_that_cannot_serve_is_refused_when_it_is_loaded(
    rgb_model: bytes,
    tmp_path: Path,
    change_graph: Callable[[Any], object],
    labels: list[str],
    sentence: str,
) -> None:
    weights = broken_model(rgb_model, change_graph)
    bundle.write(tmp_path / "b", name="x", weights=weights, labels=labels, recipe=RECIPE)
    bundle.read_manifest(tmp_path / "b")  # the files themselves are in order

    with pytest.raises(BundleError, match=sentence):
        Bundle.load(tmp_path / "b")


def test_weights_that_are_no_model_are_refused_when_they_are_loaded(tmp_path: Path) -> None:
    bundle.write(tmp_path / "b", name="x", weights=b"no model", labels=LABELS, recipe=RECIPE)

    with pytest.raises(BundleError, match="the model does not run"):
        Bundle.load(tmp_path / "b")


def test_a_model_that_breaks_down_over_an_image_says_what_to_do(fragile_bundle: Path) -> None:
    model = Bundle.load(fragile_bundle)

    with pytest.raises(ModelError, match=r"fragile .* failed .*models rollback"):
        model.scores(np.full((1, 8, 8, 3), 7, np.uint8))
    assert model.scores(np.zeros((1, 8, 8, 3), np.uint8)) == pytest.approx(1 / 3)


# Writing


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([], "two or more different labels"),
        (["only"], "two or more different labels"),
        (["a", "b", "a"], "two or more different labels"),
        (["a", ""], "cannot be a label"),
        (["a", " \t"], "cannot be a label"),
        (["a", "b\nc"], "cannot be a label"),
        (["a", "b\u2028c"], "cannot be a label"),
        (["a", "b\0c"], "cannot be a label"),
        (["a", "b\udcffc"], "cannot be a label"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, labels: list[str], sentence: str
) -> None:
    with pytest.raises(BundleError, match=sentence):
        bundle.write(tmp_path / "b", name="x", weights=b"", labels=labels, recipe=RECIPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_zero_is_refused(
    tmp_path: Path, temperature: float
) -> None:
    with pytest.raises(BundleError, match="temperature"):
        bundle.write(
            tmp_path / "b",
            name="x",
            weights=b"",
            labels=LABELS,
            recipe=RECIPE,
            temperature=temperature,
        )


def test_writing_makes_the_folders_above_and_leaves_nothing_beside(
    rgb_model: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "registry" / "x"

    bundle.write(folder, name="x", weights=rgb_model, labels=LABELS, recipe=RECIPE)

    assert [path.name for path in folder.parent.iterdir()] == ["x"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "bundle.json",
        "labels.txt",
        "model.onnx",
    ]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_writing_over_a_bundle_replaces_it_whole(copy: Path, rgb_model: bytes) -> None:
    (copy / "stray.txt").touch()
    labels = ["rouge", "vert", "bleu"]

    bundle.write(copy, name="new", weights=rgb_model, labels=labels, recipe=RECIPE)

    assert list(Bundle.load(copy).labels) == labels
    assert not (copy / "stray.txt").exists()
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": {"ece": float("nan")}},  # is no JSON
        {"lineage": {"when": object()}},  # neither
        {"name": "lone surrogate \udcff"},  # is not UTF-8: fails after two files were written
    ],
)
def test_a_write_that_fails_leaves_the_old_bundle_and_no_half_folder(
    copy: Path, rgb_model: bytes, wrong: dict[str, Any]
) -> None:
    before = bundle.read_manifest(copy)
    values: dict[str, Any] = {"name": "x", "weights": rgb_model, "labels": LABELS}

    with pytest.raises((TypeError, ValueError)):
        bundle.write(copy, recipe=RECIPE, **{**values, **wrong})

    assert bundle.read_manifest(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def a_file(path: Path) -> None:
    path.write_text("a file")


def a_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("put", [a_file, a_link])
def test_what_is_not_a_folder_is_never_replaced(
    rgb_model: bytes, tmp_path: Path, put: Callable[[Path], None]
) -> None:
    put(tmp_path / "b")
    before = sorted(tmp_path.iterdir())

    with pytest.raises(BundleError, match="b is in the way"):
        bundle.write(tmp_path / "b", name="x", weights=rgb_model, labels=LABELS, recipe=RECIPE)

    assert sorted(tmp_path.iterdir()) == before
    assert not (tmp_path / "b" / "bundle.json").exists()


def test_the_promoted_bundle_serves_and_the_starter_where_there_is_none(tmp_path: Path) -> None:
    assert bundle.locate(tmp_path) == bundle.STARTER

    promoted = tmp_path / "models" / "current"
    promoted.mkdir(parents=True)

    assert bundle.locate(tmp_path) == promoted
