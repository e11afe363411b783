"""Somebody's ONNX classifier becomes a bundle: `pigeonhole models import MODEL.onnx`.

Such models mostly take (N, 3, S, S) float32 that was scaled and normalised outside, and give logits
or probabilities. What we serve takes (N, S, S, 3) uint8 and gives logits. So nodes are put before
the graph (cast, normalise, transpose) and, where it ends in probabilities, a logarithm behind it:
the softmax of a logarithm gives the probability back, and a temperature can act on it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from core import bundle
from core.bundle import Manifest
from core.errors import BundleError
from core.recipe import Recipe

IMAGES, LOGITS = "pigeonhole_images", "pigeonhole_logits"

_LEAST_OPSET = 11  # Clip with inputs
_LEAST = 1e-30  # of a probability, before its logarithm
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)

Floats = NDArray[np.float32]


def read_labels(path: Path) -> list[str]:
    """One label a line; blank lines at the end do not count."""
    try:
        return path.read_text("utf-8-sig").rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path}: cannot be read ({error}). Give a text of one label a line."
        ) from error


def write_bundle(
    folder: Path, model: Path, labels: Sequence[str], recipe: Recipe, name: str
) -> Manifest:
    """Wrap an ONNX model and write it as a bundle; raises `BundleError` that says what is odd."""
    weights = wrap(_load(model), len(labels), recipe)
    return bundle.write(
        folder,
        name=name,
        weights=weights,
        labels=labels,
        recipe=recipe,
        lineage={"imported_from": model.name, "imported_sha256": _digest(model)},
    )


def wrap(model: onnx.ModelProto, classes: int, recipe: Recipe) -> bytes:
    """The model with our input and output around its own."""
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < _LEAST_OPSET:
        raise BundleError(
            f"The model is of opset {opset}; {_LEAST_OPSET} is the oldest that can be wrapped. "
            "Export it anew, or convert it with onnx.version_converter."
        )
    graph = model.graph
    source = _input(graph)
    is_nchw = _check_shape(source, recipe.size_px)
    target = _output(graph, classes)
    before, constants = _normalised(source, recipe, is_nchw=is_nchw)
    _any_batch(graph, source, target)
    for node in reversed(before):
        graph.node.insert(0, node)
    graph.initializer.extend(constants)
    graph.input.remove(source)
    size = recipe.size_px
    graph.input.insert(
        0, helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["N", size, size, 3])
    )
    _give_logits(model, target, classes, recipe)
    model.ir_version = max(model.ir_version, 4)  # since then, constants need not be inputs too
    weights: bytes = model.SerializeToString(deterministic=True)
    return weights


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)  # weights in files beside it come along
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, onnx and the file system each have their own
        raise BundleError(f"{path}: is no ONNX model that can be read ({error}).") from error
    return model


# --- what it is ------------------------------------------------------------------------------


def _input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise BundleError(f"The model has {len(inputs)} inputs ({names}); it must have one image.")
    if inputs[0].type.tensor_type.elem_type not in _FLOATS:
        kind = TensorProto.DataType.Name(inputs[0].type.tensor_type.elem_type)
        raise BundleError(f"The model's input {inputs[0].name!r} is {kind}; it must be FLOAT.")
    return inputs[0]


def _check_shape(source: onnx.ValueInfoProto, size_px: int) -> bool:
    """Whether channels come first; raises `BundleError` for what is no square RGB image."""
    shape = [axis.dim_value or None for axis in source.type.tensor_type.shape.dim]
    if len(shape) == 4:
        for is_nchw, (channels, *sides) in ((True, shape[1:]), (False, shape[3:] + shape[1:3])):
            if channels == 3:
                if {*sides} <= {size_px, None}:
                    return is_nchw
                found = " x ".join(str(side) for side in sides)
                raise BundleError(f"The model takes {found} pixels; give that as --size.")
    raise BundleError(
        f"The model's input {source.name!r} is {shape}; it must be (N, 3, S, S) or (N, S, S, 3)."
    )


def _output(graph: onnx.GraphProto, classes: int) -> onnx.ValueInfoProto:
    """The output with a number per label."""
    shapes = {
        value.name: [axis.dim_value or None for axis in value.type.tensor_type.shape.dim]
        for value in graph.output
    }
    fits = [
        value
        for value in graph.output
        if len(shapes[value.name]) == 2 and shapes[value.name][1] in (classes, None)
    ]
    if len(fits) == 1:
        return fits[0]
    raise BundleError(
        f"There are {classes} labels, and the model's outputs are {shapes}: one must be "
        f"(N, {classes}). Does the file of labels belong to this model?"
    )


# --- what is put around it -------------------------------------------------------------------


def _normalised(
    source: onnx.ValueInfoProto, recipe: Recipe, *, is_nchw: bool
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from (N, S, S, 3) uint8 to the model's own input: (x / 255 - mean) / std."""
    mean = np.array(recipe.mean, dtype=np.float32) * 255
    scale = 1 / (np.array(recipe.std, dtype=np.float32) * 255)
    names = [f"pigeonhole_{step}" for step in ("floats", "centred", "scaled", "turned")]
    node = helper.make_node
    nodes = [
        node("Cast", [IMAGES], [names[0]], to=TensorProto.FLOAT),
        node("Sub", [names[0], "pigeonhole_mean"], [names[1]]),
        node("Mul", [names[1], "pigeonhole_scale"], [names[2]]),
        node("Transpose", [names[2]], [names[3]], perm=[0, 3, 1, 2] if is_nchw else [0, 1, 2, 3]),
        node("Cast", [names[3]], [source.name], to=source.type.tensor_type.elem_type),
    ]
    constants = [
        numpy_helper.from_array(mean, "pigeonhole_mean"),
        numpy_helper.from_array(scale.astype(np.float32), "pigeonhole_scale"),
    ]
    return nodes, constants


def _any_batch(graph: onnx.GraphProto, *ends: onnx.ValueInfoProto) -> None:
    """Declare any number of images; what the graph noted of its insides may be of one alone."""
    for end in ends:
        end.type.tensor_type.shape.dim[0].dim_param = "N"
    del graph.value_info[:]


def _give_logits(
    model: onnx.ModelProto, target: onnx.ValueInfoProto, classes: int, recipe: Recipe
) -> None:
    """End in float32 logits: what the model gives, or the logarithm of its probabilities."""
    graph = model.graph
    del graph.output[:]
    graph.output.append(target)
    given = _trial(model, recipe)
    floats = "pigeonhole_output"
    graph.node.append(helper.make_node("Cast", [target.name], [floats], to=TensorProto.FLOAT))
    if _are_probabilities(given):
        least = numpy_helper.from_array(np.float32(_LEAST), "pigeonhole_least")
        graph.initializer.append(least)
        graph.node.append(helper.make_node("Clip", [floats, least.name], ["pigeonhole_clipped"]))
        graph.node.append(helper.make_node("Log", ["pigeonhole_clipped"], [LOGITS]))
    elif _last_step(graph, target.name) in ("Sigmoid", "HardSigmoid"):
        raise BundleError(
            "The model ends in a sigmoid, a yes or no per label: it may see several labels in an "
            "image, and their scores do not add up to 1. Such models cannot be served."
        )
    else:
        graph.node.append(helper.make_node("Identity", [floats], [LOGITS]))
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", classes])
    )


def _last_step(graph: onnx.GraphProto, name: str) -> str | None:
    """What makes this value, apart from nodes that only pass it on."""
    makers = {output: node for node in graph.node for output in node.output}
    while (maker := makers.get(name)) is not None and maker.op_type in ("Cast", "Identity"):
        name = maker.input[0]
    return None if maker is None else str(maker.op_type)


def _trial(model: onnx.ModelProto, recipe: Recipe) -> Floats:
    """(4, C): what it gives to noise, four images at once and one at a time alike."""
    size = recipe.size_px
    noise = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        (together,) = session.run(None, {IMAGES: noise})
        alone = np.concatenate(
            [session.run(None, {IMAGES: noise[[number]]})[0] for number in range(len(noise))]
        )
    except Exception as error:  # the runtime's errors have no common base
        raise BundleError(
            f"The model does not run on four images at once ({error}). Was it exported for a "
            "batch of one? Export it anew with a dynamic batch axis."
        ) from error
    if together.shape != alone.shape or not np.allclose(together, alone, rtol=1e-2, atol=1e-3):
        raise BundleError(
            "The model gives an image another answer when others are beside it. Export it anew "
            "for inference (model.eval()), with a dynamic batch axis."
        )
    if not np.isfinite(together).all():
        raise BundleError("The model answers noise with NaN or infinity.")
    given: Floats = together.astype(np.float32)
    return given


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _are_probabilities(given: Floats) -> bool:
    return bool((given >= 0).all() and np.allclose(given.sum(axis=1), 1, atol=1e-3))
