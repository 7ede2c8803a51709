"""Compare servers under callers that wait (wrk and h2load): `python -m benchmarks.peers --peers DIR`.

The same model file, in rounds of a new random order, one server at a time; every figure also as a share of an
AsyncInferQueue loop in one process in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

os.environ.setdefault("CI", "true")  # before openvino is imported: its telemetry stays off

from benchmarks import serving
from benchmarks.overload.__main__ import kept, machine, without_places
from benchmarks.overload.measure import FOREIGN_MAX, STEAL_MAX, Watch
from benchmarks.overload.plans import Planned, plan
from benchmarks.peers import install, subject
from benchmarks.peers.closed import check_programs, closed_loop
from benchmarks.peers.contenders import AS_INSTALLED, ORCH, ORCH_GRPC, PEERS_GRPC, Contender, Place
from benchmarks.peers.process import Server, end_in_order

CALLERS: Final[Mapping[str, Sequence[int]]] = {"mobilenet_v2": (8,), "tiny_mlp": (1, 64)}
SLO_MS: Final = 60.0
PORT: Final = 19_400
FIRST_PLAN: Final = 40  # its ports, away from those of the overload runs
IN_PROCESS, APP = "AsyncInferQueue, in process", "benchmark_app"
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What is compared, and where its files are."""

    work: Path
    peers: Path
    seconds: int
    subjects: Mapping[str, subject.Subject]
    plans: Mapping[str, Planned]


def contend(run: Run, contender: Contender, model: str, number: int) -> Figures:
    """Return a server's figures by number of callers."""
    folder = Path(tempfile.mkdtemp(prefix="server-", dir=run.work))
    planned = run.plans[model] if contender.name.startswith("orch") else None
    http, grpc = (planned.http, planned.grpc) if planned else (PORT + 2 * number, PORT + 2 * number + 1)
    place = Place(run.subjects[model], run.peers, folder, http, grpc, planned.manifest if planned else None)
    figures: Figures = {}
    try:
        with Server(contender, place) as server:
            for callers in CALLERS[model]:
                with Watch(server) as watch:
                    rate = closed_loop(server, callers, run.seconds)
                # wrk and h2load are the harness's children, reaped when the watch looks, so what is foreign is others'
                tainted = watch.host.tainted(FOREIGN_MAX, STEAL_MAX)
                figures[str(callers)] = {**asdict(rate), "foreign": watch.host.foreign, "tainted": tainted}
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)[-1000:]}
    return figures


def bars(run: Run, model: str) -> Figures:
    """Return what one process does with the model."""
    setup = serving.Setup(model, run.subjects[model].path, run.work, _properties(), run.seconds, 8)
    return {
        IN_PROCESS: serving.in_process(setup, "queue", {"PERFORMANCE_HINT": "THROUGHPUT"}),
        APP: {"per_s": serving.benchmark_app(setup)["per_s"]},
    }


def _properties() -> dict[str, str]:
    cpus = str(len(os.sched_getaffinity(0)))
    return {"NUM_STREAMS": cpus, "INFERENCE_NUM_THREADS": cpus, "ENABLE_CPU_PINNING": "NO"}


def compare(run: Run, rounds: int, seed: int) -> dict[str, dict[str, list[Figures]]]:
    """Return by model and contender the figures of every round."""
    there = [one for one in (ORCH, ORCH_GRPC, *AS_INSTALLED, *PEERS_GRPC) if one.there(run.peers)]
    results: dict[str, dict[str, list[Figures]]] = {model: {} for model in CALLERS}
    dice = random.Random(seed)
    for number in range(rounds):
        for model, mine in results.items():
            order: list[Contender | None] = [None, *there]
            dice.shuffle(order)
            for place, one in enumerate(order):
                key = one.key if one else "bars"
                path = run.work / "closed" / f"{number}-{model}-{key.replace(', ', '-')}.json"
                got = kept(path, partial(contend, run, one, model, place) if one else partial(bars, run, model))
                mine.setdefault(key, []).append(got)
                print(f"round {number + 1}: {model}: {key}: {got}", file=sys.stderr, flush=True)
    return results


def markdown(results: Mapping[str, Any]) -> str:
    """Return a table for each model and number of callers."""
    tables = [
        _table(model, str(callers), mine) for model, mine in results["figures"].items() for callers in CALLERS[model]
    ]
    return "\n\n".join(tables)


def _table(model: str, callers: str, mine: Mapping[str, Sequence[Figures]]) -> str:
    base = [bar[IN_PROCESS] for bar in mine["bars"]]
    rows = [(IN_PROCESS, base), (APP, [bar[APP] for bar in mine["bars"]])]
    rows += [(key, [one.get(callers) for one in figures]) for key, figures in mine.items() if key != "bars"]
    lines = [
        f"| {model}, callers: {callers} | per second | share of in-process | CPU ms a request |",
        "|---|---|---|---|",
    ]
    for key, figures in sorted(rows, key=lambda row: -_middle(row[1], "per_s")):
        shares = [one["per_s"] / bar["per_s"] for one, bar in zip(figures, base, strict=True) if one]
        if shares:
            spread = f"{median(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})"
            cpu = _middle(figures, "cpu_ms")
            lines.append(f"| {key} | {_middle(figures, 'per_s'):,.0f} | {spread} | {f'{cpu:.2f}' if cpu else ''} |")
    return "\n".join(lines)


def _middle(figures: Sequence[Figures | None], name: str) -> float:
    there = [one[name] for one in figures if one and name in one]
    return median(there) if there else 0.0


def main() -> None:
    """Compare, write the results, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--peers", type=Path, default=install.default_folder(), help="see benchmarks.peers.install")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps what is measured; a second start goes on there")
    parser.add_argument("--out", type=Path, help="results as JSON")
    options = parser.parse_args()
    check_programs()
    end_in_order()
    work = options.work or Path(tempfile.mkdtemp(prefix="orch-peers-"))
    subjects, plans = {}, {}
    for number, model in enumerate(CALLERS):
        subjects[model] = subject.save(model, work / "models")
        setup = serving.Setup(model, subjects[model].path, work, {}, 2.0, 8)
        path = work / "rates" / f"{model}.json"
        rate = kept(path, partial(serving.in_process, setup, "queue", {"PERFORMANCE_HINT": "THROUGHPUT"}))["per_s"]
        plans[model] = plan(subjects[model], SLO_MS, rate, work / "orch-closed", FIRST_PLAN + number)
    run = Run(work, options.peers, 1 if options.quick else options.seconds, subjects, plans)
    results = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "peers": install.installed(options.peers),
        "figures": compare(run, 1 if options.quick else options.rounds, options.seed),
    }
    if options.out:
        options.out.write_text(without_places(json.dumps(results, separators=(",", ":")), work, options.peers) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()
