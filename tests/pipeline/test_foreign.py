"""Models that others have trained: wrapped, they answer to bytes what they answered to floats."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from core import bundle
from core.bundle import Bundle
from core.errors import BundleError
from core.recipe import Recipe
from pipeline.foreign import read_labels, write_bundle

SIZE = 8
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
RECIPE = Recipe(size_px=SIZE, mean=MEAN, std=STD)
LABELS = ["red", "green", "blue"]
PIXELS = np.random.default_rng(5).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
NORMALISED = ((PIXELS / 255 - MEAN) / STD).astype(np.float32)


def expected() -> np.ndarray:
    """Softmax over the mean of each normalised channel."""
    powers = np.exp(NORMALISED.mean((1, 2)))
    return powers / powers.sum(1, keepdims=True)


def model_file(
    path: Path,
    shape: Sequence[int | str] = ("batch", 3, SIZE, SIZE),
    axes: Sequence[int] = (2, 3),
    end: str = "Identity",
    kind: int = TensorProto.FLOAT,
    classes: int = 3,
    opset: int = 13,
) -> Path:
    """Means of the channels, and what `end` makes of them."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels"], ["means"], axes=list(axes), keepdims=0),
            helper.make_node(end, ["means"], ["answer"]),
        ],
        "means",
        [helper.make_tensor_value_info("pixels", kind, shape)],
        [helper.make_tensor_value_info("answer", kind, [shape[0], classes])],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=7), path)
    return path


def imported(model: Path, folder: Path, labels: Sequence[str] = LABELS) -> Bundle:
    write_bundle(folder, model, labels, RECIPE, "theirs")
    return Bundle.load(folder)


@pytest.mark.parametrize("end", ["Identity", "Softmax"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        (("batch", 3, SIZE, SIZE), (2, 3)),
        (("batch", SIZE, SIZE, 3), (1, 2)),
        ((1, 3, SIZE, SIZE), (2, 3)),
        (("n", 3, "h", "w"), (2, 3)),
    ],
)
def test_it_answers_to_bytes_what_it_answered_to_floats(
    tmp_path: Path, end: str, shape: Sequence[int | str], axes: Sequence[int]
) -> None:
    served = imported(model_file(tmp_path / "a.onnx", shape, axes, end), tmp_path / "bundle")
    assert served.scores(PIXELS) == pytest.approx(expected(), abs=1e-5)
    assert served.recipe == RECIPE
    assert served.manifest.lineage["imported_from"] == "a.onnx"


def test_a_temperature_acts_on_what_was_probabilities(tmp_path: Path) -> None:
    imported(model_file(tmp_path / "a.onnx", end="Softmax"), tmp_path / "bundle")
    weights = (tmp_path / "bundle/model.onnx").read_bytes()
    bundle.write(
        tmp_path / "cooler", name="c", weights=weights, labels=LABELS, recipe=RECIPE, temperature=2
    )
    powers = np.exp(NORMALISED.mean((1, 2)) / 2)
    cooler = powers / powers.sum(1, keepdims=True)
    assert Bundle.load(tmp_path / "cooler").scores(PIXELS) == pytest.approx(cooler, abs=1e-5)


def test_half_precision_is_served_as_well(tmp_path: Path) -> None:
    model = model_file(tmp_path / "a.onnx", kind=TensorProto.FLOAT16)
    served = imported(model, tmp_path / "bundle")
    assert served.scores(PIXELS) == pytest.approx(expected(), abs=5e-3)


def test_a_network_from_torch_answers_as_torch_does(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3),
    ).eval()  # fmt: skip
    path = tmp_path / "torch.onnx"
    example = torch.zeros(2, 3, SIZE, SIZE)
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(network, (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    with torch.inference_mode():
        logits = network(torch.from_numpy(NORMALISED.transpose(0, 3, 1, 2)))
    served = imported(path, tmp_path / "bundle")
    assert served.scores(PIXELS) == pytest.approx(logits.softmax(1).numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"shape": ("b", 3, 9, 9)}, "takes 9 x 9 pixels; give that as --size"),
        ({"shape": ("b", 1, SIZE, SIZE)}, r"it must be \(N, 3, S, S\)"),
        ({"shape": ("b", 3, SIZE), "axes": (2,)}, r"it must be \(N, 3, S, S\)"),
        ({"kind": TensorProto.DOUBLE}, "is DOUBLE; it must be FLOAT"),
        ({"classes": 4}, "There are 3 labels, and the model's outputs are"),
        ({"end": "Sigmoid"}, "ends in a sigmoid"),
        ({"opset": 10}, "is of opset 10"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(
    tmp_path: Path, how: dict[str, object], said: str
) -> None:
    model = model_file(tmp_path / "a.onnx", **how)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=said):
        write_bundle(tmp_path / "bundle", model, LABELS, RECIPE, "theirs")
    assert not (tmp_path / "bundle").exists()


def test_a_model_for_one_image_at_a_time_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["pixels", "flat"], ["row"]),
            helper.make_node("MatMul", ["row", "weights"], ["answer"]),
        ],
        "one",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 3])],
        [
            numpy_helper.from_array(np.array([1, 192]), "flat"),
            numpy_helper.from_array(np.ones((192, 3), dtype=np.float32), "weights"),
        ],
    )
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=7), path)
    with pytest.raises(BundleError, match="dynamic batch axis"):
        write_bundle(tmp_path / "bundle", path, LABELS, RECIPE, "theirs")


def test_what_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x00pickle?")
    with pytest.raises(BundleError, match="is no ONNX model that can be read"):
        write_bundle(tmp_path / "bundle", tmp_path / "a.onnx", LABELS, RECIPE, "theirs")


def test_labels_are_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"\xef\xbb\xbftench\ngreat white shark\r\n\n\n")
    assert read_labels(tmp_path / "labels.txt") == ["tench", "great white shark"]
    with pytest.raises(BundleError, match="one label a line"):
        read_labels(tmp_path / "missing.txt")
