"""BentoML with adaptive batching: `bentoml serve benchmarks.peers.bentoml_service:Classifier`."""

from typing import Any

import bentoml
import numpy as np
from PIL.Image import Image, Resampling

from benchmarks.peers.model import SIDE_PX, best, load


@bentoml.service(workers=1, traffic={"timeout": 60})
class Classifier:
    """A service with one batchable method."""

    def __init__(self) -> None:
        self.run = load()

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=60_000)
    def predict(self, file: list[Image]) -> list[dict[str, Any]]:
        """A batch of images in, an answer for each out."""
        sized = [
            each.convert("RGB").resize((SIDE_PX, SIDE_PX), Resampling.BILINEAR) for each in file
        ]
        return [best(row) for row in self.run(np.stack([np.asarray(each) for each in sized]))]
