"""What is measured of a model on a machine, as plain data: arms, blocks of inferences, profiles, proofs."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field

from orchestrator.inventory.device import Facts

SAMPLES_MAX = 2000  # of one arm at one concurrency: enough for a p99 with its interval, small enough for a lock file
GIVEN_UP = 1
"""In the place of an HTTP status: whoever sent the request waited no longer for its answer."""


class Arm(Facts):
    """One candidate way to compile and run a model."""

    name: str
    """For people: `2 streams x 1 thread`, `LATENCY`, `1 stream x 2 threads, batch 4`."""
    device: str
    expression: Literal["hint", "explicit"]
    properties: dict[str, str]
    device_properties: dict[str, dict[str, str]] = Field(default_factory=dict)
    batch: int = 1
    requests: int | None = None
    """Infer requests in flight; None takes OPTIMAL_NUMBER_OF_INFER_REQUESTS."""
    threads: int | None = None
    """CPU threads of all streams together, where the device is a CPU."""

    @property
    def key(self) -> str:
        """Return what tells this arm from others: equal for equal device, properties, batch and requests."""
        text = self.model_dump_json(exclude={"name", "expression", "threads"})
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def compiled_key(self) -> str:
        """Return what tells compiled models apart: the key without the requests, which OpenVINO is told later."""
        return self.model_copy(update={"requests": None}).key


class Host(Facts):
    """What else the machine did during a block, as shares of the block's CPU time."""

    foreign: float = 0.0
    """CPU time of other processes over all cores that the arm may use."""
    steal: float = 0.0
    """Time that the hypervisor took."""
    throttled: float = 0.0
    """Time that the cgroup's quota held us back."""
    pressure: float | None = None
    """PSI: share of the time that something runnable waited for a CPU; None where it cannot be read."""

    def tainted(self, foreign_max: float = 0.05, steal_max: float = 0.02) -> bool:
        """Tell whether the block says more of the neighbours than of the arm."""
        return self.foreign > foreign_max or self.steal > steal_max or self.throttled > steal_max


class Block(Facts):
    """A short closed loop of one arm with `concurrency` inferences always under way, or single ones with pauses."""

    arm: str
    """Key of the arm."""
    round: int
    concurrency: int
    seconds: float
    completed: int
    """Inferences (each of up to `batch` rows)."""
    service_s: tuple[float, ...]
    """Seconds of each inference from its start to its end, in order."""
    host: Host = Host()
    paced: bool = False
    """Each inference came after a pause, to an idle machine: so does a request that finds the pool idle."""
    rate_per_s: float | None = None
    """Of an open block: requests that arrived a second (poisson), with at most `concurrency` inferences under way."""
    latency_s: tuple[float, ...] = ()
    """Of an open block: seconds of each answered request from its scheduled arrival, in order of the answers."""
    refused: int = 0
    """Of an open block: requests that found the queue full."""

    @property
    def per_s(self) -> float:
        """Return inferences a second."""
        return self.completed / self.seconds


class ReadBack(Facts):
    """What OpenVINO made of an arm; equal read-backs are the same arm."""

    properties: dict[str, str]
    streams: int | None
    threads: int | None
    requests: int
    execution_devices: tuple[str, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """Return what decides the speed."""
        pinning = self.properties.get("ENABLE_CPU_PINNING")
        precision = self.properties.get("INFERENCE_PRECISION_HINT")
        return (self.execution_devices, self.streams, self.threads, self.requests, pinning, precision)


class ArmProfile(Facts):
    """All that was measured of one arm."""

    arm: Arm
    actual: ReadBack
    compile_s: float
    memory_bytes: int | None = None
    """What the process grew by while it compiled and ran."""
    blocks: tuple[Block, ...] = ()


class Profile(Facts):
    """All that was measured of one model on one machine with one OpenVINO; the unit of storage."""

    api_version: Literal["orch/v1"] = "orch/v1"
    kind: Literal["Profile"] = "Profile"
    model_sha256: str
    fingerprint: str
    openvino: str
    cpus: int
    """Cores that the arms were given."""
    shapes: dict[str, tuple[int | str, ...]] = Field(default_factory=dict)
    """Input shapes that the manifest gave, by name: with others it is another model."""
    resolution: float | None = None
    """Half-width of the ratio of the anchor arm to itself over rounds: differences below it are ties."""
    stretch: float | None = None
    """Observed over predicted latency, from the last proof that taught it; None where none did."""
    arms: tuple[ArmProfile, ...] = ()
    measured: str = ""
    """When, RFC 3339."""


Verdict = Literal["verified", "rejected", "infeasible", "unverified"]


class Proof(Facts):
    """A run through the served path, open loop where callers do not wait; latency counts from the scheduled arrival."""

    arm: str
    rate_per_s: float
    """Of the arrivals by schedule; of closed callers what they reached together."""
    arrivals: Literal["poisson", "constant", "bursty", "closed"] = "poisson"
    seed: int
    sent: int
    answered: int
    refused: int
    misses: int
    """Answers later than the SLO, refusals and failures."""
    latency_s: tuple[float, ...]
    """Of the answered, sampled down to SAMPLES_MAX, in order of arrival."""
    percentiles_s: dict[str, float] = Field(default_factory=dict)
    """Of `latency_s`, by p50, p95 and so on, where the samples themselves are not kept."""
    late_sends: int = 0
    """Requests that the generator itself sent more than 2 ms late."""
    generator_cpu: float = 0.0
    """Cores that the generator used."""
    blocks: int = 1
    host: Host = Host()
    verdict: Verdict
    reason: str
    date: str = ""
