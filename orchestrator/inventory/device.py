"""What a machine has, as plain data: host, devices and OpenVINO version, written to and read from an inventory file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Facts(BaseModel):
    """Base of observed facts: frozen, unknown keys refused, so that a hand-edited inventory file fails loudly."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Cores(Facts):
    """The processors this process may run on, by logical id."""

    allowed: Annotated[tuple[int, ...], Field(min_length=1)]
    """Logical processors in the affinity mask."""
    performance: tuple[int, ...] = ()
    """P cores among them; empty where the machine is not hybrid or it cannot be read."""
    efficient: tuple[int, ...] = ()
    """E cores among them."""
    threads_per_core: int = 1
    """2 where SMT is on."""
    sockets: int = 1
    numa_nodes: tuple[tuple[int, ...], ...] = ()
    """Allowed processors of each NUMA node."""

    @property
    def physical(self) -> int:
        """Return the number of physical cores among the allowed processors."""
        efficient = len(self.efficient)  # E cores have no second thread
        return max(1, (len(self.allowed) - efficient) // self.threads_per_core + efficient)


class Host(Facts):
    """The machine as the process sees it, limits included."""

    name: str
    cpu: str
    """Model name of the processor."""
    isa: tuple[str, ...] = ()
    """Instruction sets that matter to OpenVINO: avx2, avx512f, avx512_vnni, avx512_bf16, amx_bf16, ..."""
    cores: Cores
    quota_cpus: float | None = None
    """CPU time that the cgroup grants, in cores; None where there is no quota."""
    cgroup: Literal["v1", "v2", "none"] = "none"
    memory_bytes: int
    """Memory of the machine."""
    memory_limit_bytes: int | None = None
    """Memory that the cgroup grants; None where there is no limit."""
    kernel: str = ""

    @property
    def effective_cpus(self) -> int:
        """Return the cores that are really to be had: min(affinity, floor(quota)), at least one (rule 23)."""
        allowed = len(self.cores.allowed)
        return allowed if self.quota_cpus is None else max(1, min(allowed, int(self.quota_cpus)))


class Device(Facts):
    """One device that OpenVINO lists, with what it says of itself."""

    name: str
    """OpenVINO's name: CPU, GPU, GPU.1, NPU."""
    full_name: str
    """FULL_DEVICE_NAME."""
    type: Literal["integrated", "discrete"] | None = None
    """DEVICE_TYPE."""
    architecture: str = ""
    """DEVICE_ARCHITECTURE."""
    capabilities: tuple[str, ...] = ()
    """OPTIMIZATION_CAPABILITIES: FP32, FP16, BF16, INT8, BIN, EXPORT_IMPORT."""
    range_for_streams: tuple[int, int] | None = None
    """RANGE_FOR_STREAMS."""
    properties: dict[str, Literal["RO", "RW"]] = Field(default_factory=dict)
    """SUPPORTED_PROPERTIES with their mutability."""
    memory_bytes: int | None = None
    """GPU_DEVICE_TOTAL_MEM_SIZE, NPU_DEVICE_TOTAL_MEM_SIZE."""

    @property
    def family(self) -> str:
        """Return the name without its number: GPU of GPU.1."""
        return self.name.partition(".")[0]

    def supports(self, key: str) -> bool:
        """Tell whether the device accepts `key` at compile time."""
        return self.properties.get(key) == "RW"


class Inventory(Facts):
    """What a machine has: the file that `orch devices -o yaml` writes and `orch plan --inventory` reads."""

    api_version: Literal["orch/v1"] = "orch/v1"
    kind: Literal["Inventory"] = "Inventory"
    openvino: str
    """Version of OpenVINO."""
    host: Host
    devices: tuple[Device, ...]
    problems: tuple[str, ...] = ()
    """Devices or plugins that could not be asked, and why."""

    def device(self, name: str) -> Device | None:
        """Return the device of that name; GPU means GPU.0 and the other way round, as in OpenVINO."""
        aliases = {name, f"{name}.0", name.removesuffix(".0")}
        return next((device for device in self.devices if device.name in aliases), None)
