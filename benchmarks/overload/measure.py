"""One contender in one round: its closed-loop capacity, open-loop load in steps of it, and the fall after the last."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.overload.order import Order, Phase, Told
from benchmarks.overload.score import Score, recovery_s, score
from benchmarks.peers.closed import Rate, closed_loop
from benchmarks.peers.process import HOST, Server
from orchestrator.profiling.host_counters import Snapshot, between, snapshot
from orchestrator.profiling.measurement import Host
from orchestrator.serving import admin

FOREIGN_MAX: Final = 0.08  # share of the cores' time that others may have taken of a step
STEAL_MAX: Final = 0.04
TRIES: Final = 2  # of a step that was disturbed
BEGIN_S: Final = 0.5  # of a step, that is not counted: queues fill
QUIET_LOOK_S: Final = 0.4
QUIET_WAIT_S: Final = 15.0  # that a step waits for neighbours to be quiet before it begins, at most
LOOK_S: Final = 0.1
CALM_S: Final = 2.5  # that a server may take to answer a single request in time again, before it is started anew
CALM_CALLS: Final = 3
MEMORY_LEFT: Final = 3 * 2**30  # below it the server is ended: the machine is shared
REPOSITORY: Final = Path(__file__).parents[2]
CONNECTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Course:
    """What every contender goes through."""

    slo_s: float
    multiples: Sequence[float] = (0.5, 0.8, 1.0, 1.5, 2.0, 5.0)
    """Of its own capacity; the last is followed by the fall."""
    closed_s: int = 2
    """Whole seconds: wrk and h2load take no others."""
    step_s: float = 3.0
    fall: float = 0.5
    fall_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """One load and what came of it."""

    multiple: float
    score: Score
    host: Host
    tainted: bool
    memory_mb: int
    server_cpu: float
    """Cores that the server's processes used."""
    client_cpu: float
    client_late: float
    """Share of the sends that came more than 2 ms late."""
    bottleneck: str | None
    recovery_s: float | None = None
    """Of the last step: from the fall of the load until well; None: not seen, see `fall_seen_s`."""
    fall_seen_s: float | None = None
    orch: dict[str, Any] | None = None
    """What orch said of its pool right after."""


class Watch:
    """Looks at a server's memory, CPU and the neighbours while the `with` lasts; ends it before the machine is full."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.memory_bytes = 0
        self.ended = False
        self.host = Host()
        self.server_cpu = 0.0

    def __enter__(self) -> Watch:
        self._cores = sorted(os.sched_getaffinity(0))
        self._before = self._snapshot()
        self._cpu_s = self._server.cpu_s()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        after = self._snapshot()
        seconds = after.at_s - self._before.at_s
        self.host = between(self._before, after)
        self.server_cpu = round((self._server.cpu_s() - self._cpu_s) / seconds, 3)

    def _snapshot(self) -> Snapshot:
        return snapshot(self._cores, [os.getpid(), *self._server.pids()])  # the client is our child, and reaped

    def _look(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.memory_bytes = max(self.memory_bytes, self._server.memory_bytes())
            if psutil.virtual_memory().available < MEMORY_LEFT and not self.ended:
                self.ended = True
                self._server.stop()


def load(order: Order) -> Told:
    """Have the client do as ordered, in a process of its own."""
    limit_s = 60 + sum(phase.seconds for phase in order.phases) + 2 * order.give_up_s
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overload.client"],
        input=order.to_json(), capture_output=True, text=True, timeout=limit_s, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the client: {done.stderr[-2000:]}")
    return Told.from_json(done.stdout)


def step(server: Server, course: Course, capacity_per_s: float, multiple: float, seed: int) -> Step:
    """Offer `multiple` times the capacity; after the last multiple also the fall."""
    last = multiple == course.multiples[-1]
    phases = [Phase(multiple * capacity_per_s, course.step_s)]
    if last:
        phases.append(Phase(course.fall * capacity_per_s, course.fall_s))
    order = Order(HOST, server.port, server.request, phases, seed)
    with Watch(server) as watch:
        told = load(order)
    end_s = course.step_s + course.fall_s
    well = recovery_s(told.outcomes, course.step_s, end_s, course.slo_s) if last else None
    return Step(
        multiple=multiple,
        score=score(told.outcomes, BEGIN_S, course.step_s, course.slo_s),
        host=watch.host,
        tainted=watch.host.tainted(FOREIGN_MAX, STEAL_MAX),
        memory_mb=round(watch.memory_bytes / 2**20),
        server_cpu=watch.server_cpu,
        client_cpu=told.cpu,
        client_late=round(told.late_sends / max(1, len(told.outcomes)), 4),
        bottleneck="the server was ended before it filled the machine's memory" if watch.ended else told.bottleneck,
        recovery_s=well,
        fall_seen_s=course.fall_s if last else None,
        orch=of_orch(server),
    )


def undisturbed(run: Callable[[int], Step]) -> Step:
    """Run a step again, some times, while neighbours disturb it; the least disturbed counts."""
    tries: list[Step] = []
    for number in range(TRIES):
        tries.append(run(number))
        if not tries[-1].tainted:
            break
    return min(tries, key=lambda one: one.host.foreign + one.host.steal)


def quiet(wait_s: float = QUIET_WAIT_S) -> None:
    """Wait until nobody uses the cores, the server being idle; go on all the same after `wait_s`."""
    cores = sorted(os.sched_getaffinity(0))
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        before = snapshot(cores, [os.getpid()])
        time.sleep(QUIET_LOOK_S)
        if not between(before, snapshot(cores, [os.getpid()])).tainted(FOREIGN_MAX, STEAL_MAX):
            return


def calm(server: Server, slo_s: float) -> None:
    """Wait until the server answers single requests in time; start it anew when it does not."""
    deadline = time.monotonic() + CALM_S
    in_time = 0
    while in_time < CALM_CALLS:
        began = time.monotonic()
        status = server.ask(timeout_s=1.0) if server.alive else None
        in_time = in_time + 1 if status == 200 and time.monotonic() - began <= slo_s else 0
        if time.monotonic() > deadline or not server.alive:
            server.stop()
            server.start()
            return
        if not in_time:
            time.sleep(LOOK_S)


def measure(server: Server, course: Course, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return everything of one contender in one round, as JSON."""
    quiet()
    rate = closed_loop(server, CONNECTIONS, course.closed_s)
    tell(f"capacity {rate.per_s:.0f}/s, {rate.cpu_ms:.2f} ms CPU")
    steps = []
    for number, multiple in enumerate(course.multiples):

        def run(again: int, multiple: float = multiple, number: int = number) -> Step:
            calm(server, course.slo_s)
            quiet()
            return step(server, course, rate.per_s, multiple, 100 * seed + 10 * number + again)

        steps.append(undisturbed(run))
        tell(line(steps[-1], rate))
    return {"capacity": asdict(rate), "steps": [asdict_step(one) for one in steps]}


def asdict_step(one: Step) -> dict[str, Any]:
    """Return a step as JSON."""
    said = {name: getattr(one, name) for name in one.__slots__}
    return {**said, "score": asdict(one.score), "host": one.host.model_dump()}


def line(one: Step, rate: Rate) -> str:
    """Return a step in one line."""
    got = one.score
    notes = [f"foreign {one.host.foreign:.2f}"] if one.tainted else []
    notes += [one.bottleneck] if one.bottleneck else []
    notes += [f"well after {one.recovery_s} s"] if one.fall_seen_s else []
    return (
        f"{one.multiple:g}x: {got.in_time_per_s:.0f}/s in time ({got.in_time_per_s / rate.per_s:.2f}), "
        f"p99 {got.answered_ms_p99} ms, refused p99 {got.refused_ms_p99} ms, {got.statuses}, {one.memory_mb} MB, "
        f"client {one.client_cpu:.2f} {one.client_late:.1%} late{', ' if notes else ''}{', '.join(notes)}"
    )


def of_orch(server: Server) -> dict[str, Any] | None:
    """Return what orch says of its pool; nothing of the others."""
    control = server.place.folder / "state" / "control.sock"
    if not control.exists():
        return None
    with contextlib.suppress(Exception):
        (model,) = admin.call(control, "status", timeout_s=5.0)["models"]
        observed = model["observed"]
        told = ("service_ms", "wait_ms", "latency_ms", "busy", "rate_per_s", "goodput_per_s")
        counted = {name: value for name, value in observed.items() if name.endswith("_total")}
        plan = {name: model["plan"].get(name) for name in ("streams", "batch", "requests", "queue_limit")}
        saturation = {name: model["saturation"][name] for name in ("value", "state", "cause")}
        return {**plan, **{name: observed[name] for name in told}, **counted, **saturation}
    return None
