"""Which models the table holds, and the exhaustive grid of arms that are measured for each."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orchestrator.profiling.measurement import Arm

BATCHES: Final = (1, 2, 4, 8)
# What users write without a planner; OpenVINO decides the rest, pinning included.
HINTS: Final[Mapping[str, dict[str, str]]] = {
    "no properties": {},
    "LATENCY": {"PERFORMANCE_HINT": "LATENCY"},
    "THROUGHPUT": {"PERFORMANCE_HINT": "THROUGHPUT"},
}


@dataclass(frozen=True)
class Subject:
    """A model of the table: a topology with its options."""

    name: str
    topology: str
    options: dict[str, int] = field(default_factory=dict)


SUBJECTS: Final = (
    Subject("tiny_mlp", "tiny_mlp"),
    Subject("int8_cnn", "int8_cnn"),
    Subject("mobilenet_v2", "mobilenet_v2"),
    Subject("detector", "detector"),
    Subject("bert_small_32", "bert_small", {"sequence_length": 32}),
    Subject("bert_small_128", "bert_small", {"sequence_length": 128}),
    Subject("dynamic_mlp", "dynamic_mlp"),
)


def save(subject: Subject, folder: Path) -> Path:
    """Write the subject's IR into `folder` unless it is there, and return the path of its .xml."""
    import openvino as ov

    from benchmarks import topologies

    target = folder / f"{subject.name}.xml"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            staged = Path(staging) / target.name
            ov.save_model(topologies.build(subject.topology, **subject.options), staged, compress_to_fp16=False)
            staged.with_suffix(".bin").replace(target.with_suffix(".bin"))
            staged.replace(target)
    return target


def explicit(streams: int, threads: int, batch: int = 1) -> Arm:
    """Return the arm of `streams` with `threads` in all, unpinned as orch runs it on cores that it shares."""
    each = threads // streams
    name = f"{streams} stream{'s' * (streams > 1)} x {each} thread{'s' * (each > 1)}"
    properties = {"NUM_STREAMS": str(streams), "INFERENCE_NUM_THREADS": str(threads), "ENABLE_CPU_PINNING": "NO"}
    return Arm(
        name=name if batch == 1 else f"{name}, batch {batch}",
        device="CPU",
        expression="explicit",
        properties=properties,
        batch=batch,
        threads=threads,
    )


def layouts(cpus: int) -> list[tuple[int, int]]:
    """Return (streams, threads): the divisors of the cores, and one thread alone, which leaves a core to the rest."""
    divisors = [(streams, cpus) for streams in range(1, cpus + 1) if cpus % streams == 0]
    return divisors if cpus == 1 else [*divisors, (1, 1)]


def compiled_arms(cpus: int, *, batchable: bool) -> list[Arm]:
    """Return the arms to compile, hints first; requests are not among what a compilation decides."""
    hints = [Arm(name=name, device="CPU", expression="hint", properties=HINTS[name]) for name in HINTS]
    batches = BATCHES if batchable else (1,)
    return hints + [explicit(*layout, batch) for batch in batches for layout in layouts(cpus)]
