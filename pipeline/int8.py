"""The same network with weights and activations in 8 bits: two to three times faster on CPUs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from core.types import Batch
from pipeline.onnx_file import INPUT


def quantised(weights: bytes, images: Batch) -> bytes:
    """Static QDQ quantisation; `images` (N, S, S, 3), of train, set the ranges of activations."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, prepared, target = (folder / f"{stem}.onnx" for stem in ("fp32", "ready", "int8"))
        source.write_bytes(weights)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # 7 bits for weights: processors without VNNI would add up too much and clip.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return target.read_bytes()


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Batch) -> None:
        self._batches: Iterator[Batch] = (np.ascontiguousarray(one[None]) for one in images)

    def get_next(self) -> dict[str, Batch] | None:
        """The next image, or None."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}
