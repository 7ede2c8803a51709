"""Offer more than a server can do, to orch and to others in turns: `python -m benchmarks.overload --peers DIR`.

Each round takes all contenders in a new random order, one server at a time: closed-loop capacity (wrk, h2load), then
Poisson arrivals at multiples of that contender's own capacity from callers that give up after a second, then the fall
back to half of it. orch is given the SLO and nothing else; the others run as installed and with the best limit that
was found for them by hand (`python -m benchmarks.overload.by_hand`). What is measured is kept in the work folder, and
a second start goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("CI", "true")  # before openvino is imported: its telemetry stays off

import psutil

from benchmarks import serving
from benchmarks.overload import by_hand, plans, tables
from benchmarks.overload.measure import CONNECTIONS, Course, measure
from benchmarks.peers import install, subject
from benchmarks.peers.closed import check_programs
from benchmarks.peers.contenders import AS_INSTALLED, ORCH, ORCH_GRPC, Contender, Place
from benchmarks.peers.process import Server, end_in_order

MODEL, SLO_MS = "mobilenet_v2", 60.0
MODELS: Final = ("mobilenet_v2", "resnet50", "bert_small")
SLOS_MS: Final = (30.0, 60.0, 150.0)
PORT: Final = 18_400
IN_PROCESS, APP = "AsyncInferQueue, in process", "benchmark_app"
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """What is compared how, and where it is kept."""

    work: Path
    peers: Path
    course: Course
    rounds: int
    subjects: Mapping[str, subject.Subject]
    plans: Mapping[tuple[str, float], plans.Planned]
    until: float = math.inf
    """Of time.monotonic: no contender begins later."""


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """Return what an earlier start has kept, or make and keep it; what failed is tried again by the next start."""
    if path.exists():
        return json.loads(path.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    made = make()
    if "error" not in made:
        staging = path.with_suffix(".new")
        staging.write_text(json.dumps(made))
        staging.replace(path)
    return made


def contenders(peers: Path) -> list[Contender]:
    """Return orch, and of the peers those that are installed: as installed and by hand."""
    there = [peer for peer in AS_INSTALLED if peer.there(peers)]
    tuned = [replace(peer, by_hand=limits) for peer in there if (limits := by_hand.found(peer.name))]
    return [ORCH, ORCH_GRPC, *there, *tuned]


def contend(run: Run, contender: Contender | None, model: str, slo_ms: float, seed: int, course: Course) -> Record:
    """Return what one contender did in one round."""
    assert contender is not None, "the bars have no server"
    folder = Path(tempfile.mkdtemp(prefix="server-", dir=run.work))
    number = int(hashlib.sha256(folder.name.encode()).hexdigest(), 16) % 300
    planned = run.plans[model, slo_ms] if contender.name.startswith("orch") else None
    place = Place(
        subject=run.subjects[model],
        peers=run.peers,
        folder=folder,
        http=planned.http if planned else PORT + 2 * number,
        grpc=planned.grpc if planned else PORT + 2 * number + 1,
        manifest=planned.manifest if planned else None,
    )
    at = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with Server(contender, place) as server:
            return {"at": at, **measure(server, course, seed, tell)}
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        tell(f"error: {error}")
        return {"at": at, "error": str(error)[-1000:]}


def tell(text: str) -> None:
    """Say how it goes."""
    print(f"  {text}", file=sys.stderr, flush=True)


def bars(run: Run) -> Record:
    """Return what the model does in one process, without a server."""
    path = run.subjects[MODEL].path
    cpus = str(len(os.sched_getaffinity(0)))
    properties = {"NUM_STREAMS": cpus, "INFERENCE_NUM_THREADS": cpus, "ENABLE_CPU_PINNING": "NO"}
    setup = serving.Setup(MODEL, path, run.work, properties, run.course.closed_s, CONNECTIONS)
    return {
        IN_PROCESS: serving.in_process(setup, "queue", {"PERFORMANCE_HINT": "THROUGHPUT"}),
        APP: {"per_s": serving.benchmark_app(setup)["per_s"]},
    }


def compare(run: Run, seed: int) -> dict[str, list[Record]]:
    """Return every contender's records, round by round."""
    records: dict[str, list[Record]] = {}
    dice = random.Random(seed)
    for number in range(run.rounds):
        order: list[Contender | None] = [None, *contenders(run.peers)]
        dice.shuffle(order)
        for contender in order:
            key = contender.key if contender else "bars"
            path = run.work / "records" / f"{number}-{_slug(key)}.json"
            if late(run, path):
                continue
            print(f"round {number + 1} of {run.rounds}: {key}, {datetime.now(UTC):%H:%M:%S}", file=sys.stderr)
            one = partial(contend, run, contender, MODEL, SLO_MS, seed + number, run.course)
            records.setdefault(key, []).append(kept(path, one if contender else partial(bars, run)))
    return records


def anything(run: Run, seed: int) -> dict[str, Record]:
    """Return orch's records for every model and SLO, nothing set by hand."""
    course = replace(run.course, multiples=(1.0, 1.5, 2.0, 5.0), step_s=run.course.step_s - 0.5)
    records = {}
    for model, slo_ms in run.plans:
        key = f"{model}, {slo_ms:g} ms"
        path = run.work / "records" / f"any-{_slug(key)}.json"
        if late(run, path):
            continue
        print(f"orch: {key}, {datetime.now(UTC):%H:%M:%S}", file=sys.stderr)
        mine = replace(course, slo_s=slo_ms / 1000)
        records[key] = kept(path, partial(contend, run, ORCH, model, slo_ms, seed, mine))
    return records


def late(run: Run, path: Path) -> bool:
    """Tell whether the time is over for what is not there yet."""
    if path.exists() or time.monotonic() <= run.until:
        return False
    tell(f"the time is over: {path.stem} is left out")
    return True


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)


def prepare(work: Path, models: Sequence[str], slos_ms: Sequence[float]) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Save the models and plan them for orch; what was planned by an earlier start is used again."""
    subjects = {name: subject.save(name, work / "models") for name in dict.fromkeys([MODEL, *models])}
    planned = {}
    wanted = dict.fromkeys([(MODEL, SLO_MS), *((model, slo_ms) for model in models for slo_ms in slos_ms)])
    for number, (model, slo_ms) in enumerate(wanted):
        rate = kept(work / "rates" / f"{model}.json", partial(_in_process, subjects[model], work))["per_s"]
        planned[model, slo_ms] = plans.plan(subjects[model], slo_ms, rate, work / "orch", number)
    return subjects, planned


def _in_process(one: subject.Subject, work: Path) -> serving.Result:
    setup = serving.Setup(one.name, one.path, work, {}, 2.0, CONNECTIONS)
    return serving.in_process(setup, "queue", {"PERFORMANCE_HINT": "THROUGHPUT"})


def without_places(text: str, work: Path, peers: Path) -> str:
    """Return the results without the folders of the machine that they were measured on."""
    for place, name in ((work, "WORK"), (peers, "PEERS"), (Path(__file__).parents[2], "REPOSITORY")):
        text = text.replace(str(place), name)
    return text


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openvino": install.versions(Path(sys.executable), ["openvino"])["openvino"],
    }


def main() -> None:
    """Compare, write the results, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="that orch alone is repeated with")
    parser.add_argument("--slos", nargs="*", type=float, default=list(SLOS_MS), help="milliseconds, for each of them")
    parser.add_argument("--peers", type=Path, default=install.default_folder(), help="see benchmarks.peers.install")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of short steps; orch is repeated once only")
    parser.add_argument("--minutes", type=float, default=60.0, help="no contender begins after so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps what is measured; a second start goes on there")
    parser.add_argument("--out", type=Path, help="results as JSON")
    options = parser.parse_args()
    check_programs()
    end_in_order()
    work = options.work or Path(tempfile.mkdtemp(prefix="orch-overload-"))
    work.mkdir(parents=True, exist_ok=True)
    course = Course(SLO_MS / 1000)
    models, slos_ms, rounds = options.models, options.slos, options.rounds
    if options.quick:
        course = replace(course, closed_s=2, step_s=1.5, fall_s=1.5)
        models, slos_ms, rounds = models[:1], slos_ms[:1], 1
    began = time.monotonic()
    subjects, planned = prepare(work, models, slos_ms)
    run = Run(work, options.peers, course, rounds, subjects, planned, began + 60 * options.minutes)
    compare(replace(run, rounds=1), options.seed)
    repeated = anything(run, options.seed)  # between the rounds: what is measured first is there when time is short
    measured = {"records": compare(run, options.seed), "anything": repeated}
    results = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "peers": install.installed(options.peers),
        "by_hand": by_hand.all_found(),
        "model": MODEL,
        "slo_ms": SLO_MS,
        **measured,
    }
    print(f"{time.monotonic() - began:.0f} s in all", file=sys.stderr)
    if options.out:
        options.out.write_text(without_places(json.dumps(results, separators=(",", ":")), work, options.peers) + "\n")
    print(tables.markdown(results))


if __name__ == "__main__":
    main()
