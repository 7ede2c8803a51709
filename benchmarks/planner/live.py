"""Check the table's verdicts on the machine: what the planner chose, what the oracle knows, and both hints, served.

Every contender is a worker process of its own behind HTTP, all of them idle but one. A round gives each contender a
ladder of rates, open loop, and reads its capacity off where the misses cross what the SLO allows. Rounds run in ABBA
order, so that drift of the machine hits all alike; the oracle takes part twice, and the spread of its ratio to itself
is the resolution. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

from benchmarks.inprocess import made_up
from benchmarks.planner import replay
from benchmarks.planner import table as tables
from benchmarks.planner.grid import SUBJECTS, save
from benchmarks.planner.oracle import Cell, quality_cells
from benchmarks.planner.truth import Candidate
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.manifest.load import load_text
from orchestrator.planner.resolve import resolve
from orchestrator.profiling.children import LoadChild
from orchestrator.profiling.wire import LoadOrder, LoadReport, Outcome
from orchestrator.serving import admin

# Of milliseconds: below, what is served is the front end more than the model.
CELLS: Final = ("mobilenet_v2 10x 60% poisson", "detector 10x 60% poisson", "bert_small_128 10x 60% poisson")
PORT: Final = 18_260
START_TIMEOUT_S: Final = 60.0
STEP_S: Final = 2.5
SETTLE_S: Final = 0.2
LADDER: Final = (0.5, 0.7, 0.85, 1.0, 1.2)  # times what the contender is expected to carry
LOWER: Final = 1.5
LOWER_MAX: Final = 4
ROUNDS: Final = 4
AGAIN: Final = "oracle again"


@dataclass(frozen=True)
class Target:
    """A worker that serves one contender."""

    name: str
    port: int
    path: str
    headers: Mapping[str, str]
    body: Path


class Worker:
    """A worker process that serves one arm; use it in a `with`."""

    def __init__(self, folder: Path, model: Path, compile_line: str, cell: Cell, port: int) -> None:
        folder.mkdir(parents=True)
        plan = folder / "plan.json"
        plan.write_text(_plan(model, compile_line, cell, port))
        command = [sys.executable, "-m", "orchestrator.serving", "--state", str(folder), "--generation", "1"]
        environment = {**os.environ, "CI": "true"}
        with (folder / "worker.log").open("ab") as log:
            self._process = subprocess.Popen([*command, "--plan", str(plan)], stderr=log, env=environment)
        self._control = folder / "control.sock"

    def __enter__(self) -> Worker:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if admin.call(self._control, "status", timeout_s=5.0)["ready"]:
                    return self
            except Exception:  # noqa: BLE001 - not there yet
                time.sleep(0.1)
        self.__exit__()
        raise SystemExit(f"the worker did not become ready; see {self._control.with_name('worker.log')}")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _plan(model: Path, compile_line: str, cell: Cell, port: int) -> str:
    arrivals = cell.slo.arrivals if cell.slo.arrivals == "constant" else "poisson"
    manifest = f"""
apiVersion: orch/v1
kind: Deployment
metadata: {{name: live}}
spec:
  endpoint: {{http: "127.0.0.1:{port}"}}
  models:
    - name: model
      source: {model}
      slo: {{latency: {cell.slo.latency_s * 1e6:.0f}us, percentile: 99, rate: {cell.rate_per_s:.3f}/s}}
      traffic: {{arrivals: {arrivals}}}
      compile: {compile_line}
"""
    (document,) = load_text(manifest, name="live.yaml", base=model.parent)
    backend = OpenVinoBackend(())
    info = backend.inspect(str(model), {}, ())
    return resolve(document.deployment, backend.inventory(), {"model": info}).model_dump_json()


def compile_line(candidate: Candidate) -> str:
    """Return the manifest's `compile` of a candidate."""
    arm = candidate.row.arm
    if arm.expression == "hint":
        return f"{{hint: {arm.properties.get('PERFORMANCE_HINT', 'LATENCY')}}}"
    streams, threads = arm.properties["NUM_STREAMS"], arm.properties["INFERENCE_NUM_THREADS"]
    batch = f", batch: {arm.batch}" if arm.batch > 1 else ""
    return f"{{streams: {streams}, threads: {threads}{batch}, requests: {candidate.requests}}}"


def write_body(model: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Write the body of a request, and return it with its headers."""
    info = OpenVinoBackend(()).inspect(str(model), {}, ())
    arrays = made_up(model)
    inputs = [
        {"name": t.name, "shape": list(a.shape), "datatype": t.datatype, "parameters": {"binary_data_size": a.nbytes}}
        for t, a in zip(info.inputs, arrays, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    path = folder / "body"
    path.write_bytes(head + b"".join(array.tobytes() for array in arrays))
    return path, {"Inference-Header-Content-Length": str(len(head))}


def misses(target: Target, rate_per_s: float, cell: Cell, seed: int, seconds: float = STEP_S) -> float:
    """Return the share of requests that were not answered within the SLO, by one open-loop run."""
    order = LoadOrder(
        host="127.0.0.1",
        port=target.port,
        path=target.path,
        headers=dict(target.headers),
        body=str(target.body),
        arrivals=cell.slo.arrivals,
        rate_per_s=rate_per_s,
        seed=seed,
        seconds=seconds,
        timeout_s=max(1.0, 10 * cell.slo.latency_s),
    )
    outcomes: list[Outcome] = []
    with LoadChild(order) as load:
        for part in load.outcomes():
            if isinstance(part, LoadReport):
                if part.bottleneck:
                    print(f"warning: {target.name}: {part.bottleneck}", file=sys.stderr)
            else:
                outcomes += part
    late = sum(outcome.status != 200 or outcome.latency_s > cell.slo.latency_s for outcome in outcomes)
    return late / max(1, len(outcomes))


def crossing(rates: Sequence[float], missed: Sequence[float], allowed: float) -> float:
    """Return the rate at which the misses cross `allowed`, between steps by the logarithms, beyond them the end.

    Misses are made monotone first: a step that did better than a slower one says no more than that one.
    """
    worst = 0.0
    below: tuple[float, float] | None = None
    for rate, share in zip(rates, missed, strict=True):
        worst = max(worst, share)
        if worst > allowed:
            if below is None:
                return rate
            low = math.log(max(below[1], allowed / 10))
            part: float = (math.log(allowed) - low) / (math.log(worst) - low)
            return below[0] * math.exp(part * math.log(rate / below[0]))
        below = (rate, worst)
    return rates[-1]


def capacity(target: Target, cell: Cell, expected_per_s: float, seed: int) -> float:
    """Return what the contender carries, by one ladder of rates.

    Steps above the first overload are not sent; where the lowest step is too high, lower ones are put before it.
    """
    rates, missed = [], []
    for step, share in enumerate(LADDER):
        rates.append(share * expected_per_s)
        missed.append(misses(target, rates[-1], cell, seed * 10 + step))
        time.sleep(SETTLE_S)
        if missed[-1] > 10 * cell.slo.miss_max:
            break
    for step in range(LOWER_MAX):
        if missed[0] <= cell.slo.miss_max:
            break
        rates.insert(0, rates[0] / LOWER)
        missed.insert(0, misses(target, rates[0], cell, seed * 10 + 5 + step))
    return crossing(rates, missed, cell.slo.miss_max)


def find_expected(target: Target, cell: Cell, start_per_s: float) -> float:
    """Return about what the contender carries: from the table's figure down until it holds."""
    rate = start_per_s
    while rate > start_per_s / 32:
        if misses(target, rate, cell, 1, 1.5) <= 5 * cell.slo.miss_max:
            return rate
        rate /= 1.5
    return rate


def bootstrap(ratios: Sequence[float], seed: int = 1, draws: int = 2000) -> tuple[float, float, float]:
    """Return the median ratio with its 95 % interval, whole rounds drawn again."""
    dice = Random(seed)
    medians = sorted(median(dice.choices(ratios, k=len(ratios))) for _ in range(draws))
    return median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def check_cell(cell: Cell, folder: Path, rounds: int, until: float) -> dict[str, list[float]]:
    """Return the capacities of every contender, round by round."""
    subject = next(subject for subject in SUBJECTS if subject.name == cell.entry.name)
    model = save(subject, folder.parent / "models")
    chosen = replay.plan(cell, cell.entry, 0).candidate
    lines = {
        "oracle": compile_line(cell.oracle),
        "orch": compile_line(chosen),
        AGAIN: compile_line(cell.oracle),
        "LATENCY": "{hint: LATENCY}",
        "THROUGHPUT": "{hint: THROUGHPUT}",
    }
    print(f"\n{cell.name}: oracle {cell.oracle.name}; orch {chosen.name}", file=sys.stderr)
    measured: dict[str, list[float]] = {name: [] for name in lines}
    with ExitStack() as stack:
        targets = []
        for number, (name, line) in enumerate(lines.items()):
            stack.enter_context(Worker(folder / f"worker-{number}", model, line, cell, PORT + number))
            body, headers = write_body(model, folder / f"worker-{number}")
            targets.append(Target(name, PORT + number, "/v2/models/model/infer", headers, body))
        expected = {target.name: find_expected(target, cell, cell.oracle_per_s) for target in targets}
        for number in range(rounds):
            if number and time.monotonic() > until:
                print(f"the time is over after {number} rounds", file=sys.stderr)
                break
            order = targets if number % 4 in {0, 3} else targets[::-1]
            for target in order:
                per_s = capacity(target, cell, expected[target.name], seed=number + 1)
                measured[target.name].append(per_s)
                print(f"  round {number + 1}: {target.name} {per_s:.1f}/s", file=sys.stderr)
    return measured


def report(cell: Cell, measured: Mapping[str, Sequence[float]]) -> str:
    """Return Markdown: each contender's ratio to the oracle within rounds, and the oracle's to itself."""
    lines = [
        f"\n### {cell.name}, SLO {cell.slo.latency_s * 1000:.2f} ms, table's capacity {cell.oracle_per_s:.1f}/s\n",
        "| contender | capacity/s | ratio to the oracle's | 95 % |",
        "|---|---|---|---|",
    ]
    base = measured["oracle"]
    for name, values in measured.items():
        middle, low, high = bootstrap([value / one for value, one in zip(values, base, strict=True)])
        note = f"{name} (A/A)" if name == AGAIN else name
        lines.append(f"| {note} | {median(values):.1f} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Check some cells, and print Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner.live", description=__doc__)
    parser.add_argument("cells", nargs="*", default=list(CELLS), help="names of cells, as the score prints them")
    parser.add_argument("--table", type=Path, default=tables.TABLE)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--minutes", type=float, default=12.0, help="no round begins after so many")
    options = parser.parse_args(arguments)
    known = {cell.name: cell for cell in quality_cells(tables.load(options.table))}
    unknown = sorted(set(options.cells) - set(known))
    if unknown:
        parser.error(f"no such cell: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="orch-live-") as folder:
        for number, name in enumerate(options.cells):
            share = (number + 1) / len(options.cells)
            until = began + 60 * options.minutes * share
            measured = check_cell(known[name], Path(folder) / f"cell-{number}", options.rounds, until)
            print(report(known[name], measured), flush=True)


if __name__ == "__main__":
    main()
