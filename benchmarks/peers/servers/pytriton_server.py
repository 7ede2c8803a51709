"""The model in Triton through PyTriton: as many instances as the THROUGHPUT hint finds good, batches of one.

python pytriton_server.py HTTP_PORT GRPC_PORT FOLDER; BENCH_MODEL, and by hand BENCH_LIMIT (requests in Triton's queue)
and BENCH_TIMEOUT_US (longest time in it).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

import numpy as np
import openvino as ov
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, QueuePolicy, Tensor, TimeoutAction
from pytriton.triton import Triton, TritonConfig


def instance(compiled: ov.CompiledModel) -> Callable[..., list[np.ndarray]]:
    """Return an instance's function, with an infer request of its own."""
    request = compiled.create_infer_request()
    shape = tuple(compiled.input(0).shape)

    @batch
    def infer(data: np.ndarray) -> list[np.ndarray]:
        request.infer({0: data.reshape(shape)}, share_inputs=True)
        return [request.get_output_tensor(0).data.reshape(1, -1).copy()]

    return infer


def batcher() -> DynamicBatcher:
    """Return Triton's queue as installed, or with the limits found by hand."""
    limit = os.environ.get("BENCH_LIMIT")
    if not limit:
        return DynamicBatcher()
    policy = QueuePolicy(
        timeout_action=TimeoutAction.REJECT,
        default_timeout_microseconds=int(os.environ.get("BENCH_TIMEOUT_US", "0")),
        max_queue_size=int(limit),
    )
    return DynamicBatcher(default_queue_policy=policy)


def main() -> None:
    """Serve until SIGTERM."""
    http, grpc, folder = sys.argv[1:4]
    logging.basicConfig(level=logging.WARNING)
    compiled = ov.Core().compile_model(os.environ["BENCH_MODEL"], "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    instances = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    config = TritonConfig(
        http_address="127.0.0.1", http_port=int(http), grpc_address="127.0.0.1", grpc_port=int(grpc),
        allow_metrics=False, log_verbose=0,
    )  # fmt: skip
    with Triton(config=config, workspace=f"{folder}/workspace") as triton:
        triton.bind(
            model_name="model",
            infer_func=[instance(compiled) for _ in range(instances)],
            inputs=[Tensor(name="data", dtype=np.float32, shape=tuple(compiled.input(0).shape)[1:])],
            outputs=[Tensor(name="output", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(batching=True, max_batch_size=1, batcher=batcher()),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
