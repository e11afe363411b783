"""The same model for every peer: `RUNTIME` is torch (eager, its default threads) or onnx.

`onnx` is the very graph and runtime of our bundles, so that only the framework differs.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE_PX = 224


def pixels(data: bytes) -> np.ndarray:
    """Bytes to (S, S, 3) uint8, as most people write it."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))


def load() -> Callable[[np.ndarray], np.ndarray]:
    """A function from (N, S, S, 3) uint8 to (N, C) logits, warmed up."""
    run = _torch() if os.environ["RUNTIME"] == "torch" else _onnx()
    run(np.zeros((1, SIDE_PX, SIDE_PX, 3), np.uint8))
    return run


def best(logits: np.ndarray) -> dict[str, Any]:
    """The answer to one image: the class and its softmax."""
    powers = np.exp(logits - logits.max())
    return {"class": int(powers.argmax()), "score": float(powers.max() / powers.sum())}


def _torch() -> Callable[[np.ndarray], np.ndarray]:
    import torch  # noqa: PLC0415 - one of two runtimes

    from benchmarks import networks  # noqa: PLC0415

    network = networks.load(os.environ["MODEL"], Path(os.environ["WEIGHTS"]))

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            answer: np.ndarray = network(torch.from_numpy(np.ascontiguousarray(images))).numpy()
        return answer

    return run


def _onnx() -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime  # noqa: PLC0415 - one of two runtimes

    session = onnxruntime.InferenceSession(os.environ["GRAPH"], providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        answer: np.ndarray = session.run(None, {"images": images})[0]
        return answer

    return run
