"""The model file that all serve, and the same request in each server's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import topologies
from benchmarks.inprocess import made_up
from benchmarks.overload.order import Request
from orchestrator.backend.base import Array
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.serving.oip_messages import ModelInferRequest

OIP_PATH: Final = "/v2/models/model/infer"
GRPC_PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
JSON_DIGITS: Final = 3  # of the values in a JSON body; more would only make it longer


@dataclass(frozen=True, slots=True)
class Subject:
    """A model on disk, and its one made-up request in files beside it."""

    name: str
    path: Path
    requests: Mapping[str, Request]
    """By form: `oip`, `grpc`, and of models with one input `raw`, `oip json`, `oip data`, `grpc data`."""


def save(name: str, folder: Path) -> Subject:
    """Write the model and its requests."""
    path = topologies.save(name, folder)
    info = OpenVinoBackend(()).inspect(str(path), {}, ())
    arrays = made_up(path)
    named = {tensor.name: (tensor.datatype, array) for tensor, array in zip(info.inputs, arrays, strict=True)}
    requests = {"oip": _binary(named, folder / f"{name}.oip"), "grpc": _grpc(named, folder / f"{name}.grpc")}
    if len(arrays) == 1:
        data = {"data": next(iter(named.values()))}  # as PyTriton's input is called
        requests |= {
            "raw": _written(folder / f"{name}.raw", arrays[0].tobytes(), "/infer", {}),
            "oip json": _json(named, folder / f"{name}.json"),
            "oip data": _binary(data, folder / f"{name}.data"),
            "grpc data": _grpc(data, folder / f"{name}.grpc_data"),
        }
    return Subject(name, path, requests)


Named = Mapping[str, tuple[str, Array]]


def _written(path: Path, body: bytes, where: str, headers: Mapping[str, str], protocol: str = "http") -> Request:
    path.write_bytes(body)
    return Request(protocol, where, headers, str(path))


def _binary(named: Named, path: Path) -> Request:
    inputs = [
        {"name": name, "shape": array.shape, "datatype": kind, "parameters": {"binary_data_size": array.nbytes}}
        for name, (kind, array) in named.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(array.tobytes() for _, array in named.values())
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return _written(path, body, OIP_PATH, headers)


def _json(named: Named, path: Path) -> Request:
    inputs = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": kind,
            "data": np.round(array.astype(float), JSON_DIGITS).ravel().tolist(),
        }
        for name, (kind, array) in named.items()
    ]
    text = json.dumps({"inputs": inputs}, separators=(",", ":"), default=float)
    return _written(path, text.encode(), OIP_PATH, {"Content-Type": "application/json"})


def _grpc(named: Named, path: Path) -> Request:
    request = ModelInferRequest(model_name="model", raw_input_contents=[array.tobytes() for _, array in named.values()])
    for name, (kind, array) in named.items():
        request.inputs.add(name=name, datatype=kind, shape=array.shape)
    message = request.SerializeToString()
    return _written(path, b"\0" + len(message).to_bytes(4, "big") + message, GRPC_PATH, {}, "grpc")
