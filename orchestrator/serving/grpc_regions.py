"""The gRPC calls of the shared memory extensions: regions registered, listed, forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.serving import oip_messages
from orchestrator.serving.grpc_infer import parse
from orchestrator.serving.shared_memory import Registration
from orchestrator.serving.shared_regions import Regions, cuda_refused, cuda_status


def answers(regions: Regions) -> dict[str, Callable[[bytes], Any]]:
    """Return what answers each call: bytes in, message out; it raises OrchError."""
    return {
        "SystemSharedMemoryStatus": lambda data: _status(data, regions),
        "SystemSharedMemoryRegister": lambda data: _register(data, regions),
        "SystemSharedMemoryUnregister": lambda data: _unregister(data, regions),
        "CudaSharedMemoryStatus": _cuda_status,
        "CudaSharedMemoryRegister": _cuda_register,
        "CudaSharedMemoryUnregister": _nothing,
    }


def _status(data: bytes, regions: Regions) -> Any:
    response = oip_messages.SystemSharedMemoryStatusResponse()
    for found in regions.status(_name(data)):
        region = response.regions[found.name]
        region.name, region.key, region.offset, region.byte_size = found.name, found.key, found.offset, found.byte_size
    return response


def _register(data: bytes, regions: Regions) -> Any:
    wanted = parse(oip_messages.SystemSharedMemoryRegisterRequest.FromString, data)
    regions.register(Registration(wanted.name, wanted.key, wanted.offset, wanted.byte_size))
    return oip_messages.SystemSharedMemoryRegisterResponse()


def _unregister(data: bytes, regions: Regions) -> Any:
    regions.unregister(_name(data))
    return oip_messages.SystemSharedMemoryUnregisterResponse()


# Of CUDA's messages we read the name only, which has the same number, and answer with what has no fields set.


def _cuda_status(data: bytes) -> Any:
    cuda_status(_name(data))
    return oip_messages.SystemSharedMemoryStatusResponse()


def _cuda_register(_data: bytes) -> Any:
    raise cuda_refused()


def _nothing(_data: bytes) -> Any:
    return oip_messages.SystemSharedMemoryUnregisterResponse()


def _name(data: bytes) -> str:
    return str(parse(oip_messages.SystemSharedMemoryStatusRequest.FromString, data).name)
