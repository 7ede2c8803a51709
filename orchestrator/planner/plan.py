"""A plan as plain data: for every model what is compiled and why; same input, same bytes."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from orchestrator.profiling.measurement import Verdict


class Frozen(BaseModel):
    """Base of the plan's parts."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reason(Frozen):
    """Why something was decided: a phrase for people, never parsed."""

    subject: str
    """What was decided: device, streams, threads, pinning, batch, requests, queue, hint."""
    text: str
    rule: int | None = None
    """Number of the rule in docs/planner-rules.md."""


class QueuePlan(Frozen):
    """The queue in front of the infer requests."""

    limit: int | None
    """Requests that may wait; None lets the pool derive it from its requests and the measured service time."""
    timeout_s: float
    """Longest time from arrival to answer."""
    memory_bytes: int
    """Bytes of tensors that may wait."""


class SloPlan(Frozen):
    """The SLO in plain numbers."""

    latency_s: float
    percentile: float
    rate_per_s: float | None


class ModelPlan(Frozen):
    """How one model is compiled, run and queued."""

    name: str
    version: str
    source: str
    """Absolute path of the model file."""
    sha256: str
    weights_sha256: str | None = None
    """Of the .bin, where the model is IR."""
    requested: str
    """The device as the manifest names it."""
    device: str
    """What is handed to OpenVINO."""
    degraded: str | None = None
    """Why a fallback stands in; None when the device is the one asked for."""
    expression: Literal["hint", "explicit"]
    properties: dict[str, str]
    """OpenVINO properties, keys and values as strings, sorted by key."""
    device_properties: dict[str, dict[str, str]] = {}
    """Properties for each device under AUTO."""
    shapes: dict[str, list[int | str]] = {}
    streams: int | None = None
    """Streams planned; None leaves them to OpenVINO."""
    threads: int | None = None
    """CPU threads planned for all streams together."""
    batch: int = 1
    requests: int | None = None
    """Infer requests in flight; None takes OPTIMAL_NUMBER_OF_INFER_REQUESTS of the compiled model."""
    queue: QueuePlan
    slo: SloPlan | None = None
    concurrency: int | None = None
    priority: Literal["critical", "default", "sheddable"] = "default"
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()
    capacity_per_s: float | None = None
    """Largest arrival rate at which the SLO holds, as measured; this and the next five are None in a plan by rule."""
    capacity_low_per_s: float | None = None
    capacity_high_per_s: float | None = None
    verdict: Verdict | None = None
    """What the proof said of the SLO at its rate."""
    service_s: float | None = None
    """Median of one inference with all requests in flight."""
    service_p99_s: float | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_known(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the figures of a plan by rule, and IR's weights elsewhere: bytes and digest stay what they were."""
        fields: dict[str, Any] = dump(self)
        return {key: value for key, value in fields.items() if value is not None or key not in LATER}

    def compile_key(self) -> str:
        """Return a digest of all that needs a new compiled model when it changes."""
        keys = {"source", "sha256", "weights_sha256", "device", "properties", "device_properties", "shapes"}
        return digest(self.model_dump_json(include=keys | {"batch", "requests"}))


MEASURED = frozenset(
    {"capacity_per_s", "capacity_low_per_s", "capacity_high_per_s", "verdict", "service_s", "service_p99_s"}
)
LATER = MEASURED | {"weights_sha256"}


class QuotaPlan(Frozen):
    """What each client may ask for."""

    rate_per_s: float
    burst: int

    def __str__(self) -> str:
        return f"{self.rate_per_s:g}/s and {self.burst} at once"


class TlsPlan(Frozen):
    """Which files the endpoints are encrypted with, absolute; what is in them may change while they are used."""

    certificate_file: str
    key_file: str
    client_ca_file: str | None = None
    min_version: Literal["TLSv1.2", "TLSv1.3"] = "TLSv1.2"

    def __str__(self) -> str:
        clients = "" if self.client_ca_file is None else f", clients of {self.client_ca_file}"
        return f"{self.certificate_file} with {self.key_file}{clients}, {self.min_version} or later"


class EndpointPlan(Frozen):
    """Where the worker listens, and what one client may ask for; a change needs a new worker."""

    http: str | None
    grpc: str | None
    token_file: str | None = None
    tls: TlsPlan | None = None
    quota: QuotaPlan | None = None
    shared_memory: bool | None = None
    """Whether clients may name shared memory; None: where all addresses are loopback ones."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_stated(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what the manifest does not state: the plan's bytes are those of versions that did not know it."""
        fields: dict[str, Any] = dump(self)
        later = {"quota", "shared_memory", "tls"}
        return {key: value for key, value in fields.items() if key not in later or value is not None}


class DeploymentPlan(Frozen):
    """The plan of one deployment."""

    name: str
    endpoint: EndpointPlan
    cpus: int
    """Cores that all its models share."""
    cores: tuple[int, ...] | None = None
    """Logical processors of its own; None where it shares the machine's."""
    memory_bytes: int | None = None
    models: tuple[ModelPlan, ...]
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""
    """Of the machine it was made for."""

    def digest(self) -> str:
        """Return twelve hex digits that name this plan: same plan, same digest."""
        return digest(self.model_dump_json())[:12]


def digest(text: str) -> str:
    """Return the SHA-256 of the text as hex."""
    return hashlib.sha256(text.encode()).hexdigest()
