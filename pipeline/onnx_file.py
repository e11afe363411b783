"""A network as ONNX: one file, one input, one output, and nothing that names this machine."""

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from core.types import Batch

INPUT, OUTPUT = "images", "logits"

_FORWARD = 8  # images per forward pass, as serving does it


def to_onnx(model: torch.nn.Module, size_px: int) -> bytes:
    """ONNX without side files: `images` (N, S, S, 3) uint8, any N, to `logits` (N, C) float32."""
    model.eval()
    example = torch.zeros((2, size_px, size_px, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        verbose=False,
    )
    proto = program.model_proto
    _forget_origins(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    weights: bytes = proto.SerializeToString(deterministic=True)
    return weights


def session(weights: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session as serving has it; `threads` inside of one forward pass."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])


def run(runner: onnxruntime.InferenceSession, images: Batch) -> NDArray[np.float32]:
    """(N, S, S, 3) to (N, C) logits, in batches as small as serving's."""
    parts = [
        runner.run(None, {INPUT: np.ascontiguousarray(images[start : start + _FORWARD])})[0]
        for start in range(0, len(images), _FORWARD)
    ]
    logits: NDArray[np.float32] = np.concatenate(parts)
    return logits


def _forget_origins(graph: onnx.GraphProto) -> None:
    """Remove the exporter's notes of the source lines behind each node: they name this machine."""
    for item in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del item.metadata_props[:]
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
