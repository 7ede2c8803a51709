"""Hypothesis strategies for what a plan is made from: manifests that hold, machines, and what models are."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.inventory.device import Cores, Device, Host, Inventory
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import Deployment
from orchestrator.manifest.target import parse_target
from tests.builders import MIB, a_cpu, a_deployment, a_gpu, a_model, a_model_info, a_tensor, an_npu

NAMES = ("anna", "berta", "carla", "dora")
DEVICES = (
    "CPU", "GPU", "GPU.0", "GPU.1", "NPU", "AUTO", "AUTO:-CPU", "AUTO:GPU,CPU", "AUTO:NPU,CPU", "MULTI:CPU,GPU",
    "MULTI:CPU,GPU.0,GPU.1", "MULTI:GPU.1,GPU.0", "HETERO:GPU,CPU", "BATCH:CPU(4)", "BATCH:GPU", "MULTI:XPU,CPU",
)  # fmt: skip


def slos() -> st.SearchStrategy[dict[str, Any]]:
    """Return SLOs with and without a rate."""
    latencies = st.sampled_from(["5ms", "40ms", "500ms", "3s"])
    return st.fixed_dictionaries(
        {"latency": latencies}, optional={"rate": st.sampled_from(["1/min", "5/s", "60/s", "4000/s"])}
    )


def compiles() -> st.SearchStrategy[dict[str, Any]]:
    """Return hints with requests, and explicit streams, threads and batch."""
    hints = st.fixed_dictionaries(
        {"hint": st.sampled_from(["LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT"])},
        optional={"requests": st.integers(1, 64)},
    )
    explicit = st.fixed_dictionaries(
        {"streams": st.sampled_from([1, 2, 2, 2, 4, "AUTO"])},
        optional={
            "threads": st.sampled_from([2, 3]),
            "batch": st.sampled_from([1, 1, 2]),
            "requests": st.integers(1, 4),
        },
    )
    return st.one_of(st.none(), st.none(), hints, explicit, st.just({"batch": 2}), st.just({"requests": 3}))


def models(
    name: str, devices: st.SearchStrategy[str], properties: st.SearchStrategy[dict[str, Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """Return models of that name as a manifest's YAML gives them."""
    return st.fixed_dictionaries(
        {
            "name": st.just(name),
            "source": st.just(f"models/{name}.onnx"),
            "device": devices,
            "traffic": st.sampled_from([{}, *({"concurrency": callers} for callers in (1, 2, 4, 16, 100))]),
            "priority": st.sampled_from(["critical", "default", "sheddable"]),
            "compile": compiles(),
            "slo": st.one_of(st.none(), slos()),
            "properties": properties,
        },
        optional={"queue": st.sampled_from([{"memory": "256MiB"}, {"memory": "268435457B"}, {"limit": 5}])},
    )


STRANGE = st.dictionaries(
    st.sampled_from(["CACHE_DIR", "PERF_COUNT", "ENABLE_CPU_PINNING", "GPU_QUEUE_PRIORITY", "NO_SUCH"]),
    st.sampled_from(["YES", "LOW", True, 3]),
    max_size=2,
)
HARMLESS = st.sampled_from([{}, {}, {"CACHE_DIR": "/cache"}, {"PERF_COUNT": True}])


@st.composite
def deployments(
    draw: st.DrawFn,
    devices: st.SearchStrategy[str] = st.sampled_from(DEVICES),  # noqa: B008 - strategies are values
    properties: st.SearchStrategy[dict[str, Any]] = STRANGE,
) -> Deployment:
    """Return a deployment of one to four models; models that the manifest itself refuses become plain ones."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    memory = draw(st.sampled_from([{}, {"memory": "4GiB"}]))
    accepted = [_accepted(draw(models(name, devices, properties))) for name in names]
    return a_deployment(*accepted, resources={**memory, **draw(st.sampled_from([{}, {"cpus": 3}]))})


def _accepted(model: dict[str, Any]) -> dict[str, Any]:
    try:
        a_deployment(model)
    except ValidationError:
        return a_model(model["name"], device=model["device"], traffic=model["traffic"])
    return model


@st.composite
def cases(draw: st.DrawFn) -> tuple[Deployment, Inventory, ModelInfo]:
    """Return a machine, a model, and a deployment that names only devices of that machine."""
    inventory = draw(inventories())
    return draw(deployments(devices_on(inventory), HARMLESS)), inventory, draw(model_facts())


def devices_on(inventory: Inventory) -> st.SearchStrategy[str]:
    """Return device strings that name what the machine has."""
    there = [text for text in DEVICES if all(inventory.device(name) for name in parse_target(text).devices)]
    direct = [name for name in ("CPU", "GPU") if name in there]
    return st.sampled_from([*there, *direct * 4])


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    """Return machines from one core to two sockets, with and without GPUs, NPU, SMT, E cores and a quota."""
    cpus = draw(st.sampled_from([2, 4, 8, 1, 24, 64]))
    allowed = tuple(range(cpus))
    sockets = draw(st.sampled_from([1, 2])) if cpus >= 8 else 1
    fast = draw(st.sampled_from([0, cpus // 2])) if sockets == 1 else 0
    cores = Cores(
        allowed=allowed,
        performance=allowed[:fast],
        efficient=allowed[fast:] if fast else (),
        threads_per_core=draw(st.sampled_from([1, 2])),
        sockets=sockets,
        numa_nodes=(allowed,) if sockets == 1 else (allowed[: cpus // 2], allowed[cpus // 2 :]),
    )
    quota = draw(st.one_of(st.none(), st.sampled_from([0.5, 1.5, 4.0])))
    host = Host(name="host", cpu="cpu", cores=cores, quota_cpus=quota, memory_bytes=8192 * MIB)
    return Inventory(openvino="2026.4.1", host=host, devices=draw(_devices(cpus)))


@st.composite
def _devices(draw: st.DrawFn, cpus: int) -> tuple[Device, ...]:
    found = [a_cpu(range_for_streams=(1, cpus))]
    match draw(st.integers(0, 2)):
        case 1:
            found.append(a_gpu())
        case 2:
            found += [a_gpu(name="GPU.0"), a_gpu(name="GPU.1", type="discrete")]
    if draw(st.booleans()):
        found.append(an_npu())
    if draw(st.booleans()):
        found.append(a_cpu(name="XPU", full_name="a plugin of somebody's own", properties={}))
    return tuple(found)


def model_facts() -> st.SearchStrategy[ModelInfo]:
    """Return models that can be batched or not, static or dynamic, with state or without."""
    shapes = st.sampled_from([(1, 3, 8, 8), (1, 3, 8, 8), ((1, None), 3, 8, 8), (1, 3, (1, None), (1, 512))])
    mostly = st.sampled_from([True, True, True, False])
    return st.builds(
        lambda shape, batchable, stateful, int8, weights, optimal: a_model_info(
            inputs=(a_tensor("image", *shape),), batchable=batchable, stateful=stateful, int8=int8,
            weights_bytes=weights * MIB, optimal_batch=optimal,
        ),
        shapes, mostly, st.sampled_from([False, False, False, True]), st.booleans(), st.sampled_from([1, 100]),
        st.sampled_from([{}, {"GPU": 8}, {"GPU.0": 1}]),
    )  # fmt: skip
