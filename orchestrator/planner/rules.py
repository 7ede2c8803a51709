"""The rules a plan is made by, numbered, each with when, then, its source and where in the code it is applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.planner.plan import Reason


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. The number is its key in RULES; docs/planner-rules.md is generated from here."""

    when: str
    then: str
    source: str
    """OpenVINO documentation page, issue number, or `probe` for what was tried on OpenVINO 2026.4.1."""
    where: str | None
    """Module and function; None: not a decision of the planner."""


# Short names of the pages of docs.openvino.ai/2026/openvino-workflow/running-inference that the rules come from.
SOURCES: Mapping[str, str] = {
    "ADV": "optimize-inference/optimizing-throughput/advanced_throughput_options",
    "TPUT": "optimize-inference/optimizing-throughput",
    "HINT": "optimize-inference/high-level-performance-hints",
    "LAT": "optimize-inference/optimizing-latency",
    "MEM": "optimize-inference/optimizing-memory-usage",
    "CACHE": "optimize-inference/optimizing-latency/model-caching-overview",
    "PREC": "optimize-inference/precision-control",
    "LOW": "optimize-inference/optimizing-low-level-implementation",
    "AUTO": "inference-devices-and-modes/auto-device-selection",
    "BATCH": "inference-devices-and-modes/automatic-batching",
    "CPU": "inference-devices-and-modes/cpu-device",
    "CPUTH": "inference-devices-and-modes/cpu-device/performance-hint-and-thread-scheduling",
    "GPU": "inference-devices-and-modes/gpu-device",
    "NPU": "inference-devices-and-modes/npu-device",
    "NPUB": "inference-devices-and-modes/npu-device/batching-on-npu-plugin",
    "MULTI": "documentation/legacy-features/multi-device",
}

RULES: Mapping[int, Rule] = {
    1: Rule("any deployment", "a hint; explicit streams only where the manifest or a rule below asks for them",
            "HINT", "demand.choose_hint"),
    2: Rule("one caller; or an SLO without a rate of at most 50 ms; or an SLO whose requests hardly ever meet",
            "LATENCY", "LAT, HINT", "demand.HINT_TABLE"),
    3: Rule("several callers, or an SLO with a rate, or nothing stated",
            "THROUGHPUT with PERFORMANCE_HINT_NUM_REQUESTS = callers, or rate x latency (Little's law), where known",
            "HINT, BATCH", "demand.HINT_TABLE"),
    4: Rule("always", "infer requests from OPTIMAL_NUMBER_OF_INFER_REQUESTS of the compiled model, not guessed",
            "TPUT, HINT", "demand.choose"),
    5: Rule("explicit streams", "streams at most RANGE_FOR_STREAMS and, by rule, at most what the callers can fill",
            "ADV", "demand.check_streams"),
    6: Rule("dynamic input shapes, or a batch that is not axis 0 everywhere", "streams only, no batch",
            "ADV, BATCH, GPU", "batching.check_batch"),
    7: Rule("CPU", "streams first; batch 2 to 8 by rule only from 16 cores on and with callers for it",
            "ADV", "batching.cpu_batch"),
    8: Rule("GPU and 2 to 4 callers", "streams only: half the callers, rounded up; two requests for each stream",
            "ADV", "batching.gpu_by_callers"),
    9: Rule("GPU and more than 4 callers",
            "2 streams x 2 requests x batch callers / 4, down to a power of two, within OPTIMAL_ and MAX_BATCH_SIZE",
            "ADV, GPU", "batching.gpu_by_callers"),
    10: Rule("GPU", "ALLOW_AUTO_BATCHING=NO: orch gathers batches itself, without a timer",
             "BATCH, LOW", "settings.front_properties"),
    11: Rule("an SLO and time to measure", "raise streams and batch until the SLO is met best: by measurement only",
             "ADV", None),
    12: Rule("fluctuating concurrency with batching", "several compiled batch sizes: needs measurement, not by rule",
             "ADV", None),
    13: Rule("more parallelism on one device", "more streams, never a second compiled model of the same file",
             "ADV, GPU", "demand.choose"),
    14: Rule("several devices for throughput (MULTI, or AUTO with CUMULATIVE_THROUGHPUT)",
             "AUTO:<fastest first> with CUMULATIVE_THROUGHPUT; requests are the sum over the devices",
             "MULTI, AUTO, TPUT", "placement.place"),
    15: Rule("a bare AUTO", "the devices that are there, discrete GPU, integrated GPU, others, CPU; NPU only if named",
             "AUTO", "placement.expand_auto"),
    16: Rule("three or more GPUs used together", "the CPU is dropped from the list", "AUTO", "placement.drop_cpu"),
    17: Rule("GPU and CPU used together", "GPU_QUEUE_THROTTLE=LOW frees a CPU thread; THROUGHPUT for each device, "
             "because the GPU does not know CUMULATIVE_THROUGHPUT", "MULTI", "settings.device_settings"),
    18: Rule("AUTO, CPU listed behind another device, and an SLO", "ENABLE_STARTUP_FALLBACK=NO: no answers of a helper",
             "AUTO", "settings.front_properties"),
    19: Rule("the first answer matters", "CACHE_DIR through `properties`, compiled by path", "LAT, CACHE", None),
    20: Rule("model on a network drive", "ENABLE_MMAP=NO through `properties`", "LAT, MEM", None),
    21: Rule("several models share a worker's cores", "INFERENCE_NUM_THREADS = a share each, the sum within the cores; "
             "pinning off", "LAT, CPUTH, model_server #3136, probe", "layout.share_threads, processors.pinning"),
    22: Rule("cores shared with other processes", "pinning off; on only with cores of the worker's own",
             "openvino #14394, iVSR #43", "layout.allocate_cores, processors.pinning"),
    23: Rule("a cgroup quota", "threads within the quota, pinning off: OpenVINO does not see quotas",
             "openvino #37838", "processors.pinning"),
    24: Rule("a cpuset or affinity mask only", "nothing: OpenVINO honours it", "probe", None),
    25: Rule("SMT", "one socket and THROUGHPUT: hyper-threads stay in use; several sockets or LATENCY: physical cores",
             "CPUTH, openvino #15994", "processors.usable_threads"),
    26: Rule("several sockets, several callers and a tight SLO", "one stream for each NUMA node",
             "LAT, CPU", "demand.numa_streams"),
    27: Rule("hybrid processor", "core type left to OpenVINO; PCORE_ONLY for LATENCY with a tight SLO",
             "CPUTH", "processors.core_type"),
    28: Rule("drift of bf16 or f16 matters", "EXECUTION_MODE_HINT=ACCURACY or INFERENCE_PRECISION_HINT=f32 "
             "through `properties`, for every device of the group", "PREC, CPU", "properties.check"),
    29: Rule("NPU", "static shapes only, no streams; LATENCY one request, THROUGHPUT several, read back",
             "NPU, NPUB", "placement.check_npu"),
    30: Rule("a priority other than default on GPU or NPU",
             "MODEL_PRIORITY; the CPU has none: its threads are shared by it",
             "LAT", "settings.device_settings"),
    31: Rule("a memory limit", "weights for each compiled model and device, plus tensors of the requests, must fit",
             "ADV, probe", "memory.check_memory"),
    32: Rule("stateful model", "no batch; AUTO puts it on the CPU where that is listed", "AUTO, NPUB",
             "batching.check_batch"),
    33: Rule("always", "every property is read back from the compiled model and compared with the plan",
             "HINT, probe", None),
}  # fmt: skip


def because(subject: str, text: str, rule: int | None = None) -> Reason:
    """Return the reason for a decision about `subject`, by the rule of that number."""
    assert rule is None or rule in RULES, f"no rule {rule}"
    return Reason(subject=subject, text=text, rule=rule)
