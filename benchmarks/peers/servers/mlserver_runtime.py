"""A runtime for MLServer, which has none for OpenVINO: arrays in, AsyncInferQueue, arrays out."""

from __future__ import annotations

import os

import numpy as np
from async_infer import Inferences
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse


class OpenVino(MLModel):
    """One model."""

    async def load(self) -> bool:
        """Compile on the loop that will serve."""
        limit = os.environ.get("BENCH_LIMIT")
        self._inferences = Inferences(os.environ["BENCH_MODEL"], int(limit) if limit else None)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Infer, or refuse; MLServer has read and parsed the body before it calls."""
        inferences = self._inferences
        if inferences.full:
            raise MLServerError("full", status_code=503)
        inferences.in_flight += 1
        try:
            array = NumpyCodec.decode_input(payload.inputs[0])
            answer = await inferences.infer(np.ascontiguousarray(array, np.float32).data)
        finally:
            inferences.in_flight -= 1
        output = np.frombuffer(answer, np.float32).reshape(1, -1)
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output("output", output)]
        )
