"""Valid manifests, inventories, models and plans for tests: defaults that hold, override one thing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.inventory.device import Cores, Device, Host, Inventory
from orchestrator.inventory.model import Dim, ModelInfo, TensorInfo
from orchestrator.inventory.text import inventory_from_yaml
from orchestrator.manifest.spec import Deployment
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.planner.resolve import resolve

FIXTURES = Path(__file__).parent / "fixtures"
MIB = 2**20

CPU_PROPERTIES = (
    "NUM_STREAMS INFERENCE_NUM_THREADS PERF_COUNT INFERENCE_PRECISION_HINT PERFORMANCE_HINT EXECUTION_MODE_HINT "
    "PERFORMANCE_HINT_NUM_REQUESTS ENABLE_CPU_PINNING ENABLE_CPU_RESERVATION SCHEDULING_CORE_TYPE "
    "MODEL_DISTRIBUTION_POLICY ENABLE_HYPER_THREADING DEVICE_ID LOG_LEVEL KV_CACHE_PRECISION WEIGHTS_PATH"
)
GPU_PROPERTIES = (
    "NUM_STREAMS COMPILATION_NUM_THREADS PERF_COUNT INFERENCE_PRECISION_HINT PERFORMANCE_HINT EXECUTION_MODE_HINT "
    "PERFORMANCE_HINT_NUM_REQUESTS ENABLE_CPU_PINNING CACHE_DIR CACHE_MODE MODEL_PRIORITY GPU_QUEUE_PRIORITY "
    "GPU_QUEUE_THROTTLE GPU_HOST_TASK_PRIORITY DEVICE_ID"
)
NPU_PROPERTIES = (
    "PERFORMANCE_HINT PERFORMANCE_HINT_NUM_REQUESTS MODEL_PRIORITY WORKLOAD_TYPE NPU_TURBO NPU_COMPILER_TYPE CACHE_DIR "
    "COMPILATION_NUM_THREADS PERF_COUNT LOG_LEVEL INFERENCE_PRECISION_HINT NPU_TILES DEVICE_ID"
)


def writable(keys: str, read_only: str = "SUPPORTED_PROPERTIES FULL_DEVICE_NAME") -> dict[str, Any]:
    """Return SUPPORTED_PROPERTIES with `keys` writable."""
    return {**dict.fromkeys(read_only.split(), "RO"), **dict.fromkeys(keys.split(), "RW")}


def a_cpu(**over: Any) -> Device:
    """Return a CPU of two cores."""
    fields = {
        "name": "CPU",
        "full_name": "Intel(R) Xeon(R) Processor",
        "type": "integrated",
        "capabilities": ("FP32", "INT8", "EXPORT_IMPORT"),
        "range_for_streams": (1, 2),
        "properties": writable(CPU_PROPERTIES, "SUPPORTED_PROPERTIES FULL_DEVICE_NAME RANGE_FOR_STREAMS"),
    }
    return Device(**{**fields, **over})


def a_gpu(**over: Any) -> Device:
    """Return an integrated Intel GPU."""
    fields = {
        "name": "GPU",
        "full_name": "Intel(R) Iris(R) Xe Graphics (iGPU)",
        "type": "integrated",
        "capabilities": ("FP32", "FP16", "INT8"),
        "range_for_streams": (1, 2),
        "properties": writable(GPU_PROPERTIES),
        "memory_bytes": 8192 * MIB,
    }
    return Device(**{**fields, **over})


def an_npu(**over: Any) -> Device:
    """Return an NPU."""
    fields = {
        "name": "NPU",
        "full_name": "Intel(R) AI Boost",
        "type": "integrated",
        "capabilities": ("FP16", "INT8"),
        "range_for_streams": (1, 1),
        "properties": writable(NPU_PROPERTIES),
    }
    return Device(**{**fields, **over})


def a_host(cpus: int = 2, **over: Any) -> Host:
    """Return a host of that many processors on one socket, without limits."""
    allowed = tuple(range(cpus))
    cores = over.pop("cores", Cores(allowed=allowed, numa_nodes=(allowed,)))
    fields = {"name": "host", "cpu": "Intel(R) Xeon(R) Processor", "cores": cores, "memory_bytes": 4096 * MIB}
    return Host(**{**fields, **over})


def an_inventory(*devices: Device, cpus: int = 2, **host: Any) -> Inventory:
    """Return a machine with these devices (a CPU alone by default)."""
    chosen = devices or (a_cpu(range_for_streams=(1, cpus)),)
    return Inventory(openvino="2026.4.1", host=a_host(cpus, **host), devices=chosen)


def a_recorded_inventory(name: str) -> Inventory:
    """Return one of the inventories under tests/fixtures/inventories."""
    path = FIXTURES / "inventories" / f"{name}.yaml"
    return inventory_from_yaml(path.read_text(), path.name)


def a_tensor(name: str = "image", *sizes: int | tuple[int, int | None], datatype: str = "FP32") -> TensorInfo:
    """Return a tensor; a size is a number, or (low, high) where it may vary."""
    pairs = [(size, size) if isinstance(size, int) else size for size in sizes or (1, 3, 224, 224)]
    return TensorInfo(name=name, datatype=datatype, shape=tuple(Dim(low=low, high=high) for low, high in pairs))


def a_model_info(**over: Any) -> ModelInfo:
    """Return a batchable model with one static image as input."""
    fields = {
        "path": "/models/detector.onnx",
        "sha256": "a" * 64,
        "weights_bytes": 14 * MIB,
        "inputs": (a_tensor(),),
        "outputs": (a_tensor("scores", 1, 1000),),
        "batchable": True,
    }
    return ModelInfo(**{**fields, **over})


def a_dynamic_model_info(**over: Any) -> ModelInfo:
    """Return a model whose input may have any width and height."""
    return a_model_info(inputs=(a_tensor("image", 1, 3, (1, None), (1, None)),), **over)


def a_model(name: str = "detector", **over: Any) -> dict[str, Any]:
    """Return a model of a manifest, as YAML would give it."""
    return {"name": name, "source": f"models/{name}.onnx", **over}


def a_deployment(*models: Mapping[str, Any], name: str = "shop", **spec: Any) -> Deployment:
    """Return a deployment of these models (one detector on the CPU by default); `spec` overrides its other fields."""
    return Deployment.model_validate(
        {
            "apiVersion": "orch/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"models": list(models or (a_model(),)), **spec},
        }
    )


def model_infos(deployment: Deployment, info: ModelInfo | None = None) -> dict[str, ModelInfo]:
    """Return what each model's file is: all the same, at their own paths."""
    shared = info or a_model_info()
    return {model.name: shared.model_copy(update={"path": f"/{model.source}"}) for model in deployment.spec.models}


def a_plan(
    *models: Mapping[str, Any],
    inventory: Inventory | None = None,
    info: ModelInfo | None = None,
    cores: tuple[int, ...] | None = None,
    taken_cpus: int = 0,
    **spec: Any,
) -> DeploymentPlan:
    """Return the plan of these models on the machine (a CPU of two cores by default)."""
    deployment = a_deployment(*models, **spec)
    return resolve(
        deployment,
        inventory or an_inventory(),
        model_infos(deployment, info),
        cores=cores,
        taken_cpus=taken_cpus,
    )
