"""What a search asks to have done, and what it is told: the whole talk between deciding and measuring."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import ModelSpec
from orchestrator.planner.capacity import Need
from orchestrator.planner.decision import Decision
from orchestrator.planner.memory import request_bytes
from orchestrator.planner.verdict import Test
from orchestrator.profiling.measurement import Arm, Block, Proof, ReadBack

# CPU time of our server's event loop for a request, by wrk with 6 callers on two cores: 0.15 ms for 0.8 kB (BERT), 0.27
# for 0.6 MB (MobileNetV2), 0.61 for 2.0 MB with the answer (a detector). A proof may say otherwise.
FRONT_END_BASE_S = 0.00015
FRONT_END_S_PER_BYTE = 0.22e-9
BLOCK_LEAST_S = 1.0  # of a proof: a queue that grows must have the time to
FRONT_END_S = 0.0002  # where nothing is known of the model


@dataclass(frozen=True, slots=True)
class Measure:
    """Run one block: compile the arm if it is not yet, warm it up, keep `concurrency` inferences under way.

    Or, `paced`, run one at a time with a pause before each, as requests come to a pool that is idle.
    """

    arm: Arm
    concurrency: int
    """1, then as many as the compiled model has requests (`ReadBack.requests`)."""
    seconds: float
    round: int
    paced: bool = False

    @property
    def load(self) -> str:
        """Return what is under way, for people."""
        return "alone" if self.paced else f"{self.concurrency} in flight"


@dataclass(frozen=True, slots=True)
class Verify:
    """Serve the arm and send requests by a schedule, in blocks, until the test decides or `seconds` are over."""

    arm: Arm
    rate_per_s: float
    """Of the arrivals; for closed callers what they are expected to reach."""
    need: Need
    test: Test
    seed: int
    seconds: float
    """Longest time of sending, gaps included."""
    gap_s: float
    """Idle time between blocks of `test.block` requests, after the last answer."""
    least_per_s: float | None = None
    """What callers that wait for their answers must reach together; None where it is the schedule that says it."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do."""

    decision: Decision


Step = Measure | Verify | Finish


@dataclass(frozen=True, slots=True)
class Measured:
    """A block, and what is known of its arm since it was compiled."""

    block: Block
    actual: ReadBack
    compile_s: float
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The step could not be done: the arm is out, and `reason` says why in one line."""

    reason: str


Result = Measured | Proof | Failed


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be found out for one model."""

    model: str
    model_sha256: str
    need: Need | None
    """None where no SLO is given: then OpenVINO's hint is taken, and only measured for the record."""
    rate_per_s: float | None = None
    """At which the SLO must hold; None asks for the most."""
    cpus: int = 1
    budget_s: float = 60.0
    headroom: float = 1.25
    """By how much the capacity shall exceed the rate."""
    front_end_s: float = FRONT_END_S
    """CPU time of the server for each request."""
    strict: bool = False
    """Demand the exact binomial proof."""
    seed: int = 1
    concurrency: int | None = None
    """Requests that there are at the same time at most, where that is known."""
    predict: bool = False
    """Prove nothing; where a stored profile has arms, measure nothing either."""


def front_end_s(info: ModelInfo) -> float:
    """Return the CPU seconds that the server takes to receive a request of this model and to answer it."""
    return FRONT_END_BASE_S + FRONT_END_S_PER_BYTE * request_bytes(info)


def question_of(
    spec: ModelSpec,
    info: ModelInfo,
    *,
    cpus: int,
    budget_s: float = 60.0,
    predict: bool = False,
    strict: bool = False,
    seed: int = 1,
) -> Question:
    """Return the question that the manifest asks for one model on so many cores."""
    slo, traffic = spec.slo, spec.traffic
    need = None
    if slo is not None:
        need = Need(
            latency_s=slo.latency,
            percentile=slo.percentile,
            arrivals=traffic.arrivals,
            callers=traffic.concurrency if traffic.arrivals == "closed" else None,
            timeout_s=spec.queue.timeout or slo.latency,
            queue_limit=spec.queue.limit,
        )
    return Question(
        model=spec.name,
        model_sha256=info.sha256,
        need=need,
        rate_per_s=slo.rate if slo else None,
        cpus=cpus,
        budget_s=budget_s,
        front_end_s=front_end_s(info),
        strict=strict,
        seed=seed,
        concurrency=traffic.concurrency,
        predict=predict,
    )
