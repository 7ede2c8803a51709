"""Makes good and bad changes in turn under load: each bad one must go back by itself, and no request may fail.

The good plans are MobileNetV2 on all cores with two or three requests; the bad one puts ResNet-50 in its place, which
compiles, answers, and is within the SLO as long as one caller asks. Refusals (503) are counted by themselves: they are
what a pool that cannot keep up says, while it is tried.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("CI", "true")  # before openvino is imported: its telemetry stays off

from benchmarks.reload_under_load import Load, WorkerProcess, a_plan
from orchestrator.errors import OrchError
from orchestrator.planner.plan import DeploymentPlan

CORES = {"streams": 2, "threads": 2}
SLO = {"latency": "80ms", "percentile": 95}
# The last is REFUSED_STREAM of HTTP/2: gRPC itself takes no call while those who come back at once fill the machine.
REFUSED = ("503", "RESOURCE_EXHAUSTED", "RST_STREAM with error code 7")


@dataclass
class Tally:
    """What became of the changes."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"good": [], "bad": []})
    wrong: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def change(worker: WorkerProcess, plan: DeploymentPlan, number: int, *, bad: bool, tally: Tally) -> None:
    """Apply a plan, and note how long it took and whether it ended as it has to."""
    before = worker.call("status")["plan_digest"]
    began = time.monotonic()
    try:
        worker.call("apply", plan=plan.model_dump(mode="json"), generation=number)
        reason = None
    except OrchError as error:
        reason = str(error)
    tally.seconds["bad" if bad else "good"].append(time.monotonic() - began)
    runs = worker.call("status")["plan_digest"]
    if bad and (reason is None or runs != before):
        tally.wrong.append(f"change {number} is bad and stayed")
    elif bad and reason is not None:
        tally.reasons.append(reason)
    elif not bad and (reason is not None or runs != plan.digest()):
        tally.wrong.append(f"change {number} is good and was refused: {reason}")


def main(arguments: list[str] | None = None) -> int:
    """Print the counts; return 1 when a request failed or a change ended otherwise than it has to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.safe_changes", description=__doc__)
    parser.add_argument("--changes", type=int, default=100)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = [a_plan("mobilenet_v2", folder, {**CORES, "requests": count}, slo=SLO) for count in (2, 3)]
        bad = a_plan("resnet50", folder, {"streams": 1, "threads": 1}, slo=SLO)
        tally = Tally()
        with WorkerProcess(folder / "state", good[0]) as worker:
            endpoint = worker.until_state("Serving")["endpoint"]
            load = Load(endpoint["http"].removeprefix("http://"), endpoint["grpc"], plans=3)
            load.start()
            try:
                for number in range(options.changes):
                    plan = bad if number % 2 else good[(number // 2 + 1) % 2]
                    change(worker, plan, number + 2, bad=bool(number % 2), tally=tally)
            finally:
                load.end()
            bugs = worker.log.read_text().count("Traceback")
    return report(options.changes, tally, load, bugs)


def report(changes: int, tally: Tally, load: Load, bugs: int) -> int:
    """Print what was seen and return the exit code."""
    refused = [failure for failure in load.failures if any(word in failure for word in REFUSED)]
    failed = [failure for failure in load.failures if failure not in refused]
    print(f"{changes} changes, half of them bad, under {len(load.threads)} callers, SLO {SLO['latency']} at p95:")
    for kind, seconds in tally.seconds.items():
        if seconds:
            print(f"{kind}: {len(seconds)}, median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s")
    print(f"answered {sum(load.answered.values())}, refused {len(refused)}, failed {len(failed)}, tracebacks {bugs}")
    print(f"ended otherwise than they had to: {len(tally.wrong)}")
    for line in (*tally.wrong[:10], *failed[:10], *sorted(set(tally.reasons))[:3]):
        print(f"  {line}")
    return 1 if tally.wrong or failed or bugs else 0


if __name__ == "__main__":
    sys.exit(main())
