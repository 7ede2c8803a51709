"""Play orch's own search on the table: answer every step that it asks for as the machine would have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil, inf
from random import Random
from statistics import mean
from time import process_time
from typing import Final

from benchmarks.planner.bench import START_S, Choice, Cost
from benchmarks.planner.oracle import Cell
from benchmarks.planner.table import Entry, Row
from benchmarks.planner.truth import FRONT_END_S, Candidate, Slo, latencies, levels, patience_s, rested
from orchestrator.errors import OrchError
from orchestrator.inventory.device import Cores, Device, Host, Inventory
from orchestrator.inventory.model import Dim, ModelInfo, TensorInfo
from orchestrator.manifest.spec import ModelSpec
from orchestrator.planner import arms, capacity
from orchestrator.planner.decision import Decision
from orchestrator.planner.search import Search
from orchestrator.planner.steps import BLOCK_LEAST_S, Failed, Finish, Measure, Measured, Question, Result, Verify
from orchestrator.planner.verdict import Outcome, State, close, step, verdict
from orchestrator.profiling.measurement import SAMPLES_MAX, Arm, Block, Proof
from orchestrator.profiling.measurement import Host as Ambient
from orchestrator.scheduling.arrivals import arrivals

BUDGET_S: Final = 60.0
STEPS_MAX: Final = 500  # a search asks for some dozens
WORKER_S: Final = 3.0  # starting the served path for a verification, and its generator; compiling comes on top
# As `resources: {cpus: 2}` in the manifest: OpenVINO's hints, as users write them, take the machine for theirs too.
OWN_CORES: Final = True
PROPERTIES: Final = (
    "NUM_STREAMS INFERENCE_NUM_THREADS PERFORMANCE_HINT PERFORMANCE_HINT_NUM_REQUESTS ENABLE_CPU_PINNING "
    "SCHEDULING_CORE_TYPE ENABLE_HYPER_THREADING ENABLE_CPU_RESERVATION INFERENCE_PRECISION_HINT EXECUTION_MODE_HINT"
)


class Machine:
    """The table in the place of the machine: executes steps, and keeps the clock that they would have taken."""

    def __init__(self, entry: Entry, seed: int) -> None:
        self._entry = entry
        self._dice = Random(seed)
        self._turns: dict[tuple[str, int, bool], int] = {}
        self._compiled: set[str] = set()
        self._proved: set[str] = set()
        self.cost = Cost()

    def row(self, arm: Arm) -> Row | None:
        """Return the row that the arm would read back as: a hint with the streams it takes, pinned if there is such."""
        hint = arm.properties.get("PERFORMANCE_HINT")
        streams = self._entry.named(hint).streams if hint else int(arm.properties.get("NUM_STREAMS", "0"))
        pinned = arm.properties.get("ENABLE_CPU_PINNING") == "YES"
        return self._entry.find(streams, int(arm.properties["INFERENCE_NUM_THREADS"]), arm.batch, pinned=pinned)

    def candidate(self, arm: Arm) -> Candidate:
        """Return what the planner has chosen."""
        row = self.row(arm)
        assert row is not None, arm
        return Candidate(row, min(arm.requests or row.streams, row.streams + 1))

    def do(self, asked: Measure | Verify) -> Result:
        """Execute a step."""
        row = self.row(asked.arm)
        if row is None:
            return Failed("not in the table")
        if asked.arm.compiled_key not in self._compiled:
            self._compiled.add(asked.arm.compiled_key)
            self._take(START_S + row.compile_s, compiles=1)
        return self._measure(asked, row) if isinstance(asked, Measure) else self._verify(asked, row)

    def _take(self, seconds: float, *, compiles: int = 0, verified: int = 0, inferences: int = 0) -> None:
        cost = self.cost
        self.cost = Cost(
            cost.seconds + seconds, cost.compiles + compiles, cost.verified + verified, cost.inferences + inferences
        )

    def _measure(self, asked: Measure, row: Row) -> Result:
        wanted = asked.concurrency or asked.arm.requests or row.streams
        counts = sorted({block.concurrency for block in row.blocks if not block.paced})
        nearest = min(counts, key=lambda n: (abs(n - wanted), n))
        blocks = (row.at(1, paced=True) if asked.paced else []) or row.at(nearest)
        block = self._block((row.arm.key, nearest, asked.paced), blocks, asked.seconds)
        changes = {"arm": asked.arm.key, "round": asked.round, "concurrency": wanted, "paced": asked.paced}
        block = block.model_copy(update=changes)
        self._take(block.seconds, inferences=block.completed)
        return Measured(block, row.actual, row.compile_s, row.memory_bytes)

    def _block(self, level: tuple[str, int, bool], blocks: Sequence[Block], seconds: float) -> Block:
        """Return the next of these blocks that together are about as long as asked, as one."""
        turn = self._turns.get(level, self._dice.randrange(len(blocks)))
        parts: list[Block] = []
        while not parts or sum(part.seconds for part in parts) + parts[0].seconds / 2 <= seconds:
            parts.append(blocks[(turn + len(parts)) % len(blocks)])
        self._turns[level] = turn + len(parts)
        shares = {name: mean(getattr(part.host, name) for part in parts) for name in ("foreign", "steal", "throttled")}
        return parts[0].model_copy(
            update={
                "seconds": sum(part.seconds for part in parts),
                "completed": sum(part.completed for part in parts),
                "service_s": tuple(second for part in parts for second in part.service_s),
                "host": Ambient(**shares),
            }
        )

    def _verify(self, asked: Verify, row: Row) -> Proof:
        """Send block after block, each in the mood that one round of the table was measured in."""
        candidate = self.candidate(asked.arm)
        rounds = sorted({block.round for block in row.blocks})
        state, answers, began, number = State(), [], 0.0, 0
        found, hosts = None, []
        while found is None and began < asked.seconds:
            mood = self._entry.only([self._dice.choice(rounds)])
            same = next(other for other in mood.rows if other.arm.key == row.arm.key)
            hosts += [block.host for block in same.at(candidate.requests)] or [Ambient()]
            sent, taken = self._send(asked, replace(candidate, row=same), number)
            for at, latency in zip(sent, taken, strict=True):
                if began + at > asked.seconds or found is not None:
                    break
                answers.append(latency)
                state = step(asked.test, state, Outcome(began + at, number, latency > asked.need.latency_s))
                found = verdict(asked.test, state)
                last = at
            began += last + asked.gap_s
            number += 1
        result, reason = close(asked.test, state, "the time is over")
        served = [latency for latency in answers if latency < inf]
        self._take(
            WORKER_S + min(began, asked.seconds), verified=asked.arm.key not in self._proved, inferences=len(answers)
        )
        self._proved.add(asked.arm.key)
        return Proof(
            arm=asked.arm.key,
            rate_per_s=asked.rate_per_s,
            arrivals=asked.need.arrivals,
            seed=asked.seed,
            sent=len(answers),
            answered=len(served),
            refused=len(answers) - len(served),
            misses=state.misses,
            latency_s=tuple(served[:SAMPLES_MAX]),
            blocks=number,
            host=max(hosts, key=lambda host: host.foreign),
            verdict=result,
            reason=reason,
        )

    def _send(self, asked: Verify, candidate: Candidate, number: int) -> tuple[list[float], list[float]]:
        count = max(asked.test.block, ceil(asked.rate_per_s * BLOCK_LEAST_S))
        times = arrivals(asked.need.arrivals, asked.rate_per_s, count, asked.seed * 1000 + number)
        places = [self._dice.random() for _ in times]
        slo = Slo(asked.need.latency_s, asked.need.percentile)
        patience = patience_s(candidate, slo)
        taken = latencies(times, levels(candidate), places, candidate.row.arm.batch, patience, rested(candidate))
        lost = 1 - 1 / (FRONT_END_S * asked.rate_per_s)  # what the event loop cannot take in
        if lost > 0:
            taken = [inf if self._dice.random() < lost else latency for latency in taken]
        return times, taken


def plan(cell: Cell, seen: Entry, seed: int) -> Choice:
    """Return what orch's search chooses for a cell when it measures what is `seen`."""
    began = process_time()
    try:
        decision, machine = search(cell, seen, seed)
    except OrchError:  # orch shows the reasons and plans nothing: the user is left with what OpenVINO does by itself
        row = seen.named("no properties")
        return Choice(Candidate(row, row.streams), False, Cost(thinking_s=process_time() - began))
    said = {"verified": True, "rejected": False, "infeasible": False, "unverified": None}[decision.verdict]
    return Choice(machine.candidate(decision.arm), said, replace(machine.cost, thinking_s=process_time() - began))


def search(cell: Cell, seen: Entry, seed: int) -> tuple[Decision, Machine]:
    """Drive the search to its end."""
    machine = Machine(seen, seed)
    need = capacity.Need(
        latency_s=cell.slo.latency_s,
        percentile=cell.slo.percentile,
        arrivals=cell.slo.arrivals,
        timeout_s=cell.slo.latency_s,
    )
    question = Question(
        model=seen.name,
        model_sha256=seen.sha256,
        need=need,
        rate_per_s=cell.rate_per_s,
        cpus=_cpus(seen),
        budget_s=BUDGET_S,
        seed=seed + 1,
        front_end_s=0.0,  # the table is of the pool
    )
    going = Search(question, list(found(seen, machine)))
    for _ in range(STEPS_MAX):
        asked = going.next()
        if isinstance(asked, Finish):
            return asked.decision, machine
        going.feed(machine.do(asked), seconds=machine.cost.seconds)
    raise RuntimeError(f"{cell.name}: the search does not end")


def found(seen: Entry, machine: Machine) -> Iterable[arms.Candidate]:
    """Yield the arms that orch would try on that machine, batches as far as the table has them."""
    for candidate in arms.candidates(_spec(), _info(seen), _inventory(seen), cpus=_cpus(seen), own_cores=OWN_CORES):
        yield replace(candidate, batched=tuple(arm for arm in candidate.batched if machine.row(arm) is not None))


def predicted_p99_s(candidate: Candidate, rate_per_s: float) -> float:
    """Return the p99 that orch's simulation predicts from the candidate's samples."""
    row = candidate.row
    service = capacity.Service(
        alone_s=tuple(row.rested),
        busy_s=tuple(block.service_s for block in row.at(candidate.requests)),
        slots=candidate.requests,
        rows=row.arm.batch,
    )
    return capacity.latency_at(service, capacity.Need(1e6, 99.0), rate_per_s)


def _cpus(seen: Entry) -> int:
    return max(row.actual.threads or 1 for row in seen.rows)


def _spec() -> ModelSpec:
    fields = {"name": "scored", "source": "model.xml", "device": "CPU"}
    return ModelSpec.model_validate({**fields, "slo": {"latency": "10ms", "percentile": 99, "rate": "1/s"}})


def _info(seen: Entry) -> ModelInfo:
    rows = Dim(low=1, high=1)
    tensor = TensorInfo(name="data", datatype="FP32", shape=(rows,))
    return ModelInfo(
        path="model.xml",
        sha256=seen.sha256,
        weights_bytes=0,
        inputs=(tensor,),
        outputs=(tensor,),
        batchable=seen.batchable,
        unbatchable_reason=None if seen.batchable else "as measured",
    )


def _inventory(seen: Entry) -> Inventory:
    cpus = _cpus(seen)
    host = Host(name="table", cpu="as measured", cores=Cores(allowed=tuple(range(cpus))), memory_bytes=2**34)
    device = Device(
        name="CPU",
        full_name="as measured",
        type="integrated",
        capabilities=("FP32", "INT8"),
        range_for_streams=(1, cpus),
        properties={**dict.fromkeys(PROPERTIES.split(), "RW"), "SUPPORTED_PROPERTIES": "RO"},
    )
    return Inventory(host=host, devices=(device,), openvino=seen.rows[0].actual.properties.get("VERSION", "2026.4"))
