"""The CPU side of a plan: the worker's cores, and a model's threads, pinning and core type on them."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.inventory.device import Cores, Host
from orchestrator.planner.plan import Reason
from orchestrator.planner.rules import because


@dataclass(frozen=True, slots=True)
class Worker:
    """The process that will serve the deployment: its host, cores, and how many of its models use the CPU."""

    host: Host
    cpus: int
    own_cores: bool
    cpu_models: int

    @property
    def hybrid(self) -> bool:
        """Tell whether the processor has both performance and efficient cores."""
        return bool(self.host.cores.performance and self.host.cores.efficient)

    @property
    def physical(self) -> int:
        """Return the cores worth a thread each: the physical ones where there are several sockets (rule 25)."""
        return min(self.cpus, self.host.cores.physical) if self.host.cores.sockets > 1 else self.cpus


def usable_threads(worker: Worker, share: int, *, latency: bool, int8: bool) -> tuple[int, Reason]:
    """Return the threads that serve the model best within its share of the worker's cores (rules 21, 23, 25, 27)."""
    cores = worker.host.cores
    text, rule = _share_text(worker, share)
    if latency and worker.hybrid:
        most, why = _latency_hybrid(cores, int8=int8), "one inference at a time on a hybrid processor"
    elif latency:
        most, why = max(1, cores.physical // cores.sockets), "one inference at a time: physical cores of one socket"
    elif worker.physical < share:
        most, why = worker.physical, "several sockets: physical cores only"
    else:
        most, why = share, ""
    if most < share:
        return most, because("threads", f"{most} of {share}: {why}", 27 if worker.hybrid else 25)
    return share, because("threads", text, rule)


def _share_text(worker: Worker, share: int) -> tuple[str, int]:
    host = worker.host
    cores = "core" if worker.cpus == 1 else "cores"
    if worker.cpu_models > 1:
        return f"{share} of the worker's {worker.cpus} {cores}, shared by {worker.cpu_models} models", 21
    if host.quota_cpus is not None and host.effective_cpus < len(host.cores.allowed):
        quota = f"{host.quota_cpus:g}"
        return f"{share}: the cgroup grants {quota} of {len(host.cores.allowed)} processors, which OpenVINO ignores", 23
    return f"{share} of the worker's {worker.cpus} {cores}, stated because OpenVINO would take the whole machine", 21


def _latency_hybrid(cores: Cores, *, int8: bool) -> int:
    """Return the cores that OpenVINO's latency mode takes on a hybrid processor (CPUTH, its table of E/P ratios)."""
    fast = max(1, len(cores.performance) // cores.threads_per_core)
    slow = len(cores.efficient)
    with_slow = slow >= 4 * fast or (slow >= 2 * fast and not int8)
    return fast + slow if with_slow else fast


def pinning(worker: Worker) -> tuple[bool, Reason]:
    """Tell whether OpenVINO may pin its threads: only where the cores are the worker's own, for one model."""
    if worker.host.quota_cpus is not None:
        return False, because("pinning", "off: under a quota the kernel must be free to move threads", 23)
    if worker.cpu_models > 1:
        text = f"off: OpenVINO would pin each of the {worker.cpu_models} models from core 0 on"
        return False, because("pinning", text, 21)
    if not worker.own_cores:
        return False, because("pinning", "off: the cores are shared with other processes", 22)
    return True, because("pinning", f"on: the worker has {worker.cpus} cores of its own and one model on them", 22)


def core_type(worker: Worker, *, latency: bool, tight: bool) -> tuple[str | None, Reason | None]:
    """Return SCHEDULING_CORE_TYPE for a hybrid processor, None where OpenVINO shall decide (rule 27)."""
    if not worker.hybrid:
        return None, None
    if latency and tight:
        return "PCORE_ONLY", because("core type", "performance cores only: a tight SLO, one inference at a time", 27)
    return None, because("core type", "left to OpenVINO on this hybrid processor", 27)
