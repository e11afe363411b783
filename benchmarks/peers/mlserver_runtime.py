"""MLServer with a custom runtime and adaptive batching: `mlserver start FOLDER`."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.model import load, pixels


class Classifier(MLModel):
    """Images as base64 in, class indices out."""

    async def load(self) -> bool:
        """Once, at the start."""
        self.run = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A batch of images in, an index for each out."""
        images = [pixels(data) for data in Base64Codec.decode_input(payload.inputs[0])]
        classes = self.run(np.stack(images)).argmax(axis=1).reshape(-1, 1)
        output = NumpyCodec.encode_output("class", classes)
        return InferenceResponse(model_name=self.name, outputs=[output])
