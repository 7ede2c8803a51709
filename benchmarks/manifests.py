"""Times `orch validate`, `plan` and `diff` over 10 to 3,000 manifests, and prints whether the time grows linearly.

Each manifest is a deployment of one model, all of which share one small file; half of them are measured and locked,
half planned by rule, mode `predict`. Run with `python -m benchmarks.manifests`; each command runs in fresh processes.
What is said to be linear is their CPU time, which neighbours of a shared machine change least.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backend.probe import probe_inventory
from orchestrator.inventory.device import Inventory
from orchestrator.manifest.load import load
from orchestrator.planner.decision import Capacity, Decision
from orchestrator.planner.lock import locked
from orchestrator.profiling.measurement import Arm, ReadBack
from orchestrator.runner.locks import write_lock

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "deployments" / "models" / "digits.onnx"
TIMEOUT_S = 600.0
LINEAR = 1.15  # largest exponent that is called linear: a doubling of what is done takes 2.2 times as long
FIRST_PORT = 10_000
MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {{name: shop-{number:04d}, labels: {{site: berlin-{number:04d}}}}}
spec:
  endpoint: {{http: "127.0.0.1:{http}", grpc: "127.0.0.1:{grpc}"}}
  planning: {{mode: predict}}
  models:
    - name: detector
      source: models/digits.onnx
      device: CPU
      {how}
      priority: critical
      queue: {{limit: {limit}}}
"""
HOW = ("slo: {latency: 40ms, percentile: 99, rate: 60/s}", "compile: {streams: 2, threads: 2, requests: 4}")


@dataclass(frozen=True, slots=True)
class Command:
    """One command line, and the exit code that it must have."""

    name: str
    arguments: tuple[str, ...]
    code: int = 0


COMMANDS = (
    Command("validate", ("validate", "sites")),
    Command("plan --check --fleet", ("plan", "--check", "--fleet", "sites")),
    Command("plan", ("plan", "sites")),
    Command("diff against what runs", ("diff", "sites"), 1),
    Command("diff --base, 1 in 10 differ", ("diff", "--base", "base", "-o", "markdown", "sites"), 1),
    Command("diff --base, nothing differs", ("diff", "--base", "sites", "-o", "markdown", "sites")),
)


def write(folder: Path, count: int, inventory: Inventory, changed: int = 0) -> None:
    """Write so many manifests, locks and their model; the limit of every `changed`th queue is another."""
    (folder / "models").mkdir(parents=True)
    shutil.copy(MODEL, folder / "models")
    for number in range(count):
        limit = 8 if changed and number % changed == 0 else 16
        ports = {"http": FIRST_PORT + 2 * number, "grpc": FIRST_PORT + 2 * number + 1}
        text = MANIFEST.format(number=number, how=HOW[number % 2], limit=limit, **ports)
        (folder / f"shop-{number:04d}.yaml").write_text(text)
    for document in load([str(folder)]).documents:
        if document.deployment.spec.models[0].slo is not None and document.path is not None:
            lock = locked(None, document.deployment, inventory, inventory.host.effective_cpus, {"detector": decision()})
            write_lock(document.path.with_name(f"{document.path.stem}.lock.yaml"), lock)


def decision() -> Decision:
    """Return what measuring could have decided of the model on two cores."""
    import hashlib  # beside its use

    properties = {"ENABLE_CPU_PINNING": "NO", "INFERENCE_NUM_THREADS": "2", "NUM_STREAMS": "2"}
    arm = Arm(
        name="2 streams x 1 thread",
        device="CPU",
        expression="explicit",
        properties=properties,
        requests=2,
        threads=2,
    )
    actual = ReadBack(properties=properties, streams=2, threads=2, requests=2, execution_devices=("CPU",))
    return Decision(
        model="detector",
        model_sha256=hashlib.sha256(MODEL.read_bytes()).hexdigest(),
        arm=arm,
        actual=actual,
        capacity=Capacity(per_s=900.0, low_per_s=880.0, high_per_s=920.0),
        service_s=0.0011,
        service_p99_s=0.0014,
        alone_s=0.0009,
        per_s=1800.0,
        verdict="verified",
        sentences=("2 streams x 1 thread carry 900/s.", "Would change: a rate above 900/s."),
    )


def run(command: Command, folder: Path, home: str) -> tuple[float, float]:
    """Return the seconds that the command takes in a process of its own, by the clock and of CPU with its children.

    Raise RuntimeError where it does not do its work.
    """
    environ = {**os.environ, "ORCH_HOME": home, "PYTHONPATH": str(ROOT), "CI": "true"}
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *command.arguments],
        env=environ,
        cwd=folder,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    took, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode != command.code:
        raise RuntimeError(f"orch {command.name} exited {ran.returncode}: {ran.stderr.decode()[-500:]}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def exponent(times: Mapping[int, float]) -> float:
    """Return how the time grows between the two largest counts, without the smallest and its time: 1 is linear.

    Between smaller counts the difference is little more than the noise of a start.
    """
    least, *_, lower, upper = sorted(times)
    grown, more = times[upper] - times[least], (upper - least) / (lower - least)
    return math.log(grown / (times[lower] - times[least])) / math.log(more)


def table(times: Mapping[str, Mapping[int, Sequence[tuple[float, float]]]]) -> str:
    """Return for each command its seconds for each count, the CPU time of one manifest more, and the exponent."""
    lines: list[str] = []
    for name, by_count in times.items():
        clock = {count: statistics.median(one for one, _ in runs) for count, runs in by_count.items()}
        cpu = {count: min(one for _, one in runs) for count, runs in by_count.items()}  # neighbours only add to it
        if not lines:
            counts = "".join(f"{count:>9}" for count in clock)
            lines.append(f"{'seconds (of CPU) for so many':<30}{counts}{'CPU ms each':>13}{'exponent':>10}")
        least, most, power = min(cpu), max(cpu), exponent(cpu)
        each = (cpu[most] - cpu[least]) / (most - least)
        verdict = "linear" if power <= LINEAR else "SUPERLINEAR"
        lines.append(f"{name:<30}" + "".join(f"{taken:>9.2f}" for taken in clock.values()))
        lines.append(f"{'':<30}" + "".join(f"{taken:>9.2f}" for taken in cpu.values()))
        lines[-1] += f"{each * 1e3:>13.2f}{power:>10.2f}  {verdict}"
    return "\n".join(lines)


def measure(counts: Sequence[int], rounds: int, only: str) -> dict[str, dict[int, list[tuple[float, float]]]]:
    """Return the seconds by the clock and of CPU of each run, by command and count."""
    inventory = probe_inventory()
    chosen = [command for command in COMMANDS if only in command.name]
    times: dict[str, dict[int, list[tuple[float, float]]]] = {command.name: {} for command in chosen}
    for count in counts:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            write(folder / "sites", count, inventory)
            write(folder / "base", count, inventory, changed=10)
            for command in chosen:
                times[command.name][count] = [run(command, folder, str(folder / "home")) for _ in range(rounds)]
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 100, 300, 1000, 3000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="commands whose name contains this")
    asked = parser.parse_args()
    if len(set(asked.counts)) < 3:
        parser.error("the exponent needs three counts")
    print(table(measure(asked.counts, asked.rounds, asked.only)))
    print(
        f"first line: median of {asked.rounds} processes by the clock; second: least CPU time, on which the rest rests"
    )


if __name__ == "__main__":
    main()
