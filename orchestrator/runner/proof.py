"""Prove an arm: serve it by a real worker process, load it on a schedule, and test whether the SLO holds."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import ModelInfo
from orchestrator.planner import verdict as verdicts
from orchestrator.planner.explain import rate
from orchestrator.planner.plan import DeploymentPlan, ModelPlan
from orchestrator.planner.steps import BLOCK_LEAST_S, Verify
from orchestrator.planner.verdict import State, Test
from orchestrator.profiling.children import LoadChild, environment
from orchestrator.profiling.host_counters import between, snapshot
from orchestrator.profiling.measurement import SAMPLES_MAX, Arm, Host, Proof, Verdict
from orchestrator.profiling.wire import LoadOrder, LoadReport, Outcome

START_TIMEOUT_S = 180.0  # until the worker serves: it compiles
STOP_TIMEOUT_S = 3.0
CONTROL_TIMEOUT_S = 5.0
POLL_S = 0.05
WARM_UP_S, WARM_UP_LEAST = 0.2, 5
REQUEST_TIMEOUT_S = 120.0  # of the first request: a large model with open shapes generates code
TAINTED_AGAIN_MAX = 2  # blocks that are run again because somebody else used the machine
BLOCK_TIME_FACTOR = 3.0  # of what a block should take: a schedule of few requests varies
LOAD_START_S = 1.0  # of the generator's process
RATE_LEAST = 1e-3
GENERATOR = "the load generator could not keep up"
Progress = Callable[[str], None]
Cancelled = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a proof is made with."""

    plan: DeploymentPlan
    """Of one model, planned by rule; the arm is put into it."""
    info: ModelInfo
    cores: tuple[int, ...] | None
    """Logical processors of its own."""
    allowed: tuple[int, ...]
    """Processors over which other work counts as foreign."""
    progress: Progress
    cancelled: Cancelled


@dataclass(slots=True)
class Seen:
    """What was seen so far."""

    state: State = field(default_factory=State)
    excused: State = field(default_factory=State)
    """The same requests without what the generator itself was late."""
    answered: int = 0
    refused: int = 0
    latency_s: list[float] = field(default_factory=list)
    reports: list[LoadReport] = field(default_factory=list)
    hosts: list[Host] = field(default_factory=list)
    again: int = 0


def prove(step: Verify, stage: Stage) -> Proof:
    """Return the proof; raise OrchError FAILED where the arm cannot be served, CANCELLED when asked to stop."""
    plan = with_arm(stage.plan, step.arm)
    with tempfile.TemporaryDirectory(prefix="orch-measure-") as folder, served(plan, Path(folder), stage) as server:
        body = Path(folder) / "body"
        headers = first_request(server, plan.models[0], stage.info, body)
        seen = Seen()
        stopped = _load(step, stage, server, LoadOrderBase(plan.models[0].name, headers, body), seen)
    return the_proof(step, seen, stopped)


def with_arm(plan: DeploymentPlan, arm: Arm) -> DeploymentPlan:
    """Return the plan of one model with the arm in place of what rules chose."""
    (model,) = plan.models
    update = {
        "device": arm.device,
        "expression": arm.expression,
        "properties": arm.properties,
        "device_properties": arm.device_properties,
        "threads": arm.threads,
        "batch": arm.batch,
        "requests": arm.requests,
    }
    return plan.model_copy(update={"models": (model.model_copy(update=update),)})


# The worker.


@dataclass(frozen=True, slots=True)
class Server:
    """A worker that serves."""

    pid: int
    host: str
    port: int


@contextlib.contextmanager
def served(plan: DeploymentPlan, folder: Path, stage: Stage) -> Iterator[Server]:
    """Run a worker process, which dies with us, until the block is left."""
    (folder / "plan.json").write_text(plan.model_dump_json())
    command = [sys.executable, "-m", "orchestrator.profiling.tied", str(os.getpid())]
    command += [sys.executable, "-m", "orchestrator.serving", "--state", str(folder)]
    command += ["--plan", str(folder / "plan.json"), "--generation", "1"]
    if stage.cores is not None:
        command += ["--cores", ",".join(map(str, stage.cores))]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
            start_new_session=True,  # Ctrl-C comes to us alone; we end it
        )
    try:
        yield _await_ready(process, folder, stage.cancelled)
    except BaseException:
        process.kill()
        raise
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_ready(process: subprocess.Popen[bytes], folder: Path, cancelled: Cancelled) -> Server:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if cancelled():
            raise OrchError(Kind.CANCELLED, "the measurement was cancelled")
        if process.poll() is not None:
            raise OrchError(Kind.FAILED, f"the worker ended with status {process.returncode}: {_last_words(folder)}")
        status = _status(folder / "control.sock")
        if status is not None and status["ready"] and status["endpoint"]["http"]:
            host, _, port = status["endpoint"]["http"].removeprefix("http://").rpartition(":")
            return Server(process.pid, host.strip("[]"), int(port))
        time.sleep(POLL_S)
    raise OrchError(Kind.DEADLINE, f"the worker did not serve within {START_TIMEOUT_S:g} s")


def _status(path: Path) -> Any:
    """Return what the worker says of itself (the control protocol's `status`), None while it does not."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(CONTROL_TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(b'{"method":"status","params":{}}\n')
            with connection.makefile("rb") as lines:
                return json.loads(lines.readline())["result"]
        except (OSError, ValueError, KeyError):
            return None


def _last_words(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads((folder / "failure.json").read_text())["problems"][0]["what"])
    lines = [line for line in (folder / "worker.log").read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])


# The requests.


@dataclass(frozen=True, slots=True)
class LoadOrderBase:
    """What is the same in all requests."""

    model: str
    headers: dict[str, str]
    body: Path


def first_request(server: Server, model: ModelPlan, info: ModelInfo, path: Path) -> dict[str, str]:
    """Find made-up inputs that the server answers, warm it up with them, write them to `path`; return the headers."""
    from orchestrator.backend.made_up import candidates  # with it comes numpy

    said = ""
    for arrays in candidates(info.inputs):
        inputs, parts = [], []
        for tensor, array in zip(info.inputs, arrays, strict=True):
            data = bytes(4 * array.size) if tensor.datatype == "BYTES" else array.tobytes()  # BYTES: empty ones
            parameters = {"binary_data_size": len(data)}
            inputs.append(
                {"name": tensor.name, "datatype": tensor.datatype, "shape": array.shape, "parameters": parameters}
            )
            parts.append(data)
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        body = head + b"".join(parts)
        status, said = _warm_up(server, model.name, body, headers)
        if status == 200:
            path.write_bytes(body)
            return headers
    raise OrchError(Kind.FAILED, f"the first request failed: {said[:300]}", where=model.name)


def _warm_up(server: Server, name: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """Send requests one after the other for a moment; return the status and text of the last that had to be good."""
    connection = HTTPConnection(server.host, server.port, timeout=REQUEST_TIMEOUT_S)
    stop, sent = time.monotonic() + WARM_UP_S, 0
    try:
        while True:
            connection.request("POST", f"/v2/models/{name}/infer", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            sent += 1
            # Once warm, an answer later than the SLO is for the proof to judge.
            if answer.status not in (200, 503, 504):
                return answer.status, text.decode(errors="replace")
            if sent >= WARM_UP_LEAST and time.monotonic() > stop:
                return 200, ""
    except (OSError, HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}"
    finally:
        connection.close()


# The load.


def _load(step: Verify, stage: Stage, server: Server, base: LoadOrderBase, seen: Seen) -> str:
    """Run blocks until the test decides, and return why it stopped."""
    began, block = time.monotonic(), 0
    while True:
        left = step.seconds - (time.monotonic() - began)
        if left <= 0:
            return "the budget is spent"
        before = seen.state, seen.excused
        kept = (seen.answered, seen.refused, len(seen.latency_s))
        order = load_order(step, server, base, block, left)
        host, report = _block(step, stage, server, order, Clock(block, time.monotonic() - began), seen)
        if report.full is not None:
            seen.reports.append(report)
            return f"{GENERATOR} ({report.full})"
        enough = step.seconds - (time.monotonic() - began) > 2 * step.test.blocks * report.seconds
        if host.tainted() and enough and seen.again < TAINTED_AGAIN_MAX:
            # Run again whatever it showed, so that which blocks count does not depend on how they went.
            seen.again += 1
            (seen.state, seen.excused), seen.answered, seen.refused = before, kept[0], kept[1]
            del seen.latency_s[kept[2] :]
        else:
            seen.reports.append(report)
            seen.hosts.append(host)
            stage.progress(_told(step, seen))
        if verdict(step.test, seen) is not None:
            return "decided"
        block += 1
        pause(step.gap_s, stage.cancelled)


def _told(step: Verify, seen: Seen) -> str:
    misses = "1 miss" if seen.state.misses == 1 else f"{seen.state.misses} misses"
    return f"{step.arm.name} at {rate(step.rate_per_s)}: {misses} in {seen.state.answered}"


def pause(seconds: float, cancelled: Cancelled) -> None:
    """Wait, unless asked to stop."""
    stop = time.monotonic() + seconds
    while (left := stop - time.monotonic()) > 0 and not cancelled():
        time.sleep(min(POLL_S, left))


def load_order(step: Verify, server: Server, base: LoadOrderBase, block: int, left_s: float) -> LoadOrder:
    """Return the order for one block: so many requests by a schedule, or so long by callers that wait."""
    closed = step.need.arrivals == "closed"
    requests = max(step.test.block, math.ceil(step.rate_per_s * BLOCK_LEAST_S))
    usual_s = requests / step.rate_per_s
    longest_s = usual_s if closed else BLOCK_TIME_FACTOR * usual_s + LOAD_START_S
    return LoadOrder(
        host=server.host,
        port=server.port,
        path=f"/v2/models/{base.model}/infer",
        headers=base.headers,
        body=str(base.body),
        arrivals=step.need.arrivals,
        rate_per_s=None if closed else step.rate_per_s,
        callers=step.need.callers if closed else None,
        seed=1000 * step.seed + block,
        seconds=max(0.1, min(left_s, longest_s)),
        requests_max=None if closed else requests,
        timeout_s=max(1.0, 2 * step.need.latency_s),
    )


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a block stands in the proof."""

    number: int
    since_s: float


def _block(
    step: Verify, stage: Stage, server: Server, order: LoadOrder, clock: Clock, seen: Seen
) -> tuple[Host, LoadReport]:
    """Run one block and note its outcomes; stop it as soon as the test has decided."""
    with LoadChild(order, stage.cancelled) as child:
        own = (server.pid, child.pid, os.getpid())
        before = snapshot(stage.allowed, own)  # with the generator's start: the counters tick in hundredths of a second
        stopped = False
        for said in child.outcomes():
            if isinstance(said, LoadReport):
                return between(before, snapshot(stage.allowed, own)), said
            for outcome in said:
                note(step.test, step.need.latency_s, outcome, clock, seen)
            if not stopped and verdict(step.test, seen) is not None:
                child.stop()
                stopped = True
    raise AssertionError("the report comes last")


def note(test: Test, latency_s: float, outcome: Outcome, clock: Clock, seen: Seen) -> None:
    """Note what became of one request."""
    at_s = clock.since_s + outcome.due_s
    missed = outcome.status != 200 or outcome.latency_s > latency_s
    seen.state = verdicts.step(test, seen.state, verdicts.Outcome(at_s, clock.number, missed=missed))
    missed = outcome.status != 200 or outcome.latency_s - outcome.late_s > latency_s
    seen.excused = verdicts.step(test, seen.excused, verdicts.Outcome(at_s, clock.number, missed=missed))
    if outcome.status == 200:
        seen.answered += 1
        seen.latency_s.append(outcome.latency_s)
    elif outcome.status in (503, 504):
        seen.refused += 1


def verdict(test: Test, seen: Seen, by: Callable[[Test, State], Verdict | None] = verdicts.verdict) -> Verdict | None:
    """Return the verdict, None while there is none; by `verdicts.final` that of a run that has ended.

    The generator shares the machine, so that it may be late itself. A yes that counts its lateness against the server
    is a yes; a no has to be one without.
    """
    found = by(test, seen.state)
    return None if found == "rejected" and by(test, seen.excused) != found else found


def the_proof(step: Verify, seen: Seen, stopped: str) -> Proof:
    """Return the proof of what was seen until the load was stopped for that reason."""
    found, reason = verdicts.close(step.test, seen.state, stopped)
    if stopped.startswith(GENERATOR):
        found, reason = "unverified", stopped
    elif found == "rejected" and found != verdict(step.test, seen, verdicts.final):
        late = sum(report.late_wakes for report in seen.reports)
        found, reason = "unverified", f"{GENERATOR} ({late} of {seen.state.answered} requests were sent late): {reason}"
    rate_per_s = step.rate_per_s
    if step.need.arrivals == "closed":
        rate_per_s = max(RATE_LEAST, seen.answered / max(RATE_LEAST, sum(report.seconds for report in seen.reports)))
        found, reason = verdicts.reaching((found, reason), rate_per_s, step.least_per_s)
    host = _mean(seen.hosts)
    if found != "verified" and host.tainted():
        reason += f"; {_disturbed(host)}"
    reports = seen.reports
    return Proof(
        arm=step.arm.key,
        rate_per_s=rate_per_s,
        arrivals=step.need.arrivals,
        seed=step.seed,
        sent=seen.state.answered,
        answered=seen.answered,
        refused=seen.refused,
        misses=seen.state.misses,
        latency_s=_thinned(seen.latency_s),
        late_sends=sum(report.late_sends for report in reports),
        generator_cpu=max((report.cpu for report in reports), default=0.0),
        blocks=len(seen.state.blocks),
        host=host,
        verdict=found,
        reason=reason,
        date=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _disturbed(host: Host) -> str:
    return f"meanwhile others took {100 * host.foreign:.0f} % of the cores, the hypervisor {100 * host.steal:.0f} %"


def _mean(hosts: list[Host]) -> Host:
    if not hosts:
        return Host()
    count = len(hosts)
    pressures = [host.pressure for host in hosts if host.pressure is not None]
    return Host(
        foreign=round(sum(host.foreign for host in hosts) / count, 4),
        steal=round(sum(host.steal for host in hosts) / count, 4),
        throttled=round(sum(host.throttled for host in hosts) / count, 4),
        pressure=round(sum(pressures) / len(pressures), 4) if pressures else None,
    )


def _thinned(samples: list[float]) -> tuple[float, ...]:
    step = max(1, -(-len(samples) // SAMPLES_MAX))
    return tuple(round(sample, 7) for sample in samples[::step])
