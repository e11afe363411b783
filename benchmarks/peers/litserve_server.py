"""LitServe with batches of 16 that wait for 10 ms: `python -m benchmarks.peers.litserve_server`."""

import os
from collections.abc import Sequence
from typing import Any

import litserve
import numpy as np
from fastapi import Request

from benchmarks.peers.model import best, load, pixels


class Classifier(litserve.LitAPI):
    """The hooks of LitServe around the model."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - the hook's signature
        """Once in the worker."""
        self.run = load()

    def decode_request(self, request: Request) -> np.ndarray:
        """Of one request; LitServe hands over its form."""
        return pixels(request["file"].file.read())

    def batch(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Of what waits."""
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """For the batch."""
        return self.run(x)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """An answer for each."""
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """To one request."""
        return best(output)


if __name__ == "__main__":
    api = Classifier(max_batch_size=16, batch_timeout=0.01)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
    )
