"""The manifest as strict pydantic models: the one source of its schema, its checks and its reference page."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from orchestrator import units
from orchestrator.manifest.target import Target, parse_target

API_VERSION = "orch/v1"
MODELS_MAX = 256
NAME_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
MODEL_NAME_PATTERN = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?"


class Strict(BaseModel):
    """Base of every manifest object: unknown keys are errors, values are not coerced, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


def _quantity_schema(pattern_units: list[str], example: str) -> WithJsonSchema:
    names = "|".join(pattern_units)
    return WithJsonSchema(
        {"type": "string", "pattern": rf"^\s*[0-9]{{1,15}}(\.[0-9]{{1,9}})?\s*({names})\s*$", "examples": [example]}
    )


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be greater than zero")
    return value


Duration = Annotated[
    float,
    BeforeValidator(units.parse_duration_s),
    AfterValidator(_positive),
    PlainSerializer(units.format_duration),
    _quantity_schema(list(units.DURATIONS), "40ms"),
]
Size = Annotated[
    int,
    BeforeValidator(units.parse_size_bytes),
    AfterValidator(_positive),
    PlainSerializer(units.format_size),
    _quantity_schema(list(units.SIZES), "2GiB"),
]
Rate = Annotated[
    float,
    BeforeValidator(units.parse_rate_per_s),
    AfterValidator(_positive),
    PlainSerializer(units.format_rate),
    _quantity_schema(list(units.RATES), "60/s"),
]


def _target(text: object) -> Target:
    if isinstance(text, Target):
        return text
    if not isinstance(text, str):
        raise ValueError(f"must be a device such as CPU or AUTO:GPU,CPU, got {text!r}")
    return parse_target(text)


Device = Annotated[
    Target,
    BeforeValidator(_target),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["CPU", "GPU.1", "NPU", "AUTO:GPU,CPU", "MULTI:GPU,CPU", "BATCH:GPU(16)"]}),
]


def _address(text: object) -> str:
    """Return HOST:PORT; port 0 asks the system for a free one."""
    if not isinstance(text, str):
        raise ValueError(f"must be HOST:PORT, such as 127.0.0.1:8000, got {text!r}")
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"must be HOST:PORT, such as 127.0.0.1:8000, got {text!r}")
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]", host):
        raise ValueError(f"names no host: {text!r}; an IPv6 address is written as [::1]:8000")
    return text


Address = Annotated[
    str,
    BeforeValidator(_address),
    WithJsonSchema({"type": "string", "pattern": r"^.+:[0-9]{1,5}$", "examples": ["127.0.0.1:8000"]}),
]

Scalar = str | bool | int | float
LabelValue = Annotated[str, Field(max_length=256)]


class Metadata(Strict):
    """Who the deployment is."""

    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
    """Name of the deployment, unique on a machine: lower-case letters, digits and hyphens, 63 at most."""
    labels: dict[str, LabelValue] = {}
    """Free words to select and group deployments by."""


class Endpoint(Strict):
    """Where the deployment listens; nothing listens beyond loopback unless the manifest says how that is safe."""

    http: Address | None = "127.0.0.1:8000"
    """HOST:PORT of the REST endpoint and `/metrics`; null for none, port 0 for any free port."""
    grpc: Address | None = "127.0.0.1:8001"
    """HOST:PORT of the gRPC endpoint; null for none, port 0 for any free port."""
    token_file: str | None = None
    """File that holds the bearer token which clients must send; relative to the manifest."""
    insecure: bool = False
    """Allow an address beyond loopback without a token."""


class Resources(Strict):
    """At most this much of the machine; what is absent means what the machine has left."""

    cpus: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Cores that the deployment may use; with it the worker gets cores of its own."""
    memory: Size | None = None
    """Memory that the deployment may use."""


class Planning(Strict):
    """How a plan is found."""

    mode: Literal["measure", "predict", "hint"] = "hint"
    """`measure` tries arms on this machine, `predict` uses stored profiles only, `hint` plans by rule."""
    budget: Duration = 60.0
    """Longest time that planning one model may take."""


class Slo(Strict):
    """The service level: this share of the requests is answered within this latency at this arrival rate."""

    latency: Duration
    """Longest time from arrival to answer."""
    percentile: Annotated[float, Field(ge=50, lt=100)] = 99.0
    """Share of the requests, in percent, that must be answered within `latency`."""
    rate: Rate | None = None
    """Arrival rate at which it must hold."""

    @model_validator(mode="before")
    @classmethod
    def _whole_percentile(cls, data: Any) -> Any:
        if isinstance(data, dict) and type(data.get("percentile")) is int:
            return {**data, "percentile": float(data["percentile"])}
        return data


class Traffic(Strict):
    """How requests come."""

    arrivals: Literal["poisson", "constant", "closed"] = "poisson"
    """`poisson`, `constant`, or `closed`: callers that each wait for their answer."""
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Callers that wait at the same time, or cameras; bounds streams and requests."""


class Compile(Strict):
    """How OpenVINO compiles the model: a hint (portable) or explicit streams, threads and batch, never both."""

    hint: Literal["LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT"] | None = None
    """OpenVINO's PERFORMANCE_HINT; OpenVINO then decides streams and threads."""
    streams: Annotated[int, Field(ge=1, le=4096)] | Literal["AUTO"] | None = None
    """OpenVINO's NUM_STREAMS: inferences that run at the same time on the device."""
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """OpenVINO's INFERENCE_NUM_THREADS: CPU threads of all streams together."""
    batch: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Rows inferred together; requests that wait at the same time are gathered up to this many."""
    requests: Annotated[int, Field(ge=1, le=4096)] | None = None
    """With a hint: PERFORMANCE_HINT_NUM_REQUESTS. Explicit: infer requests in flight at the same time per stream."""


class Queue(Strict):
    """The bounded queue in front of the infer requests; changed in place, without compiling again."""

    limit: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests that may wait; more are refused at once. Default: derived from the requests and the SLO."""
    timeout: Duration | None = None
    """Longest time from arrival to answer; later it is dropped. Default: the SLO's latency, else 30 s."""
    memory: Size = 256 * 2**20
    """Bytes of tensors that may wait in the queue together."""


Dim = Annotated[int, Field(ge=-1)] | str


class ModelSpec(Strict):
    """One model of a deployment."""

    name: Annotated[str, Field(pattern=f"^{MODEL_NAME_PATTERN}$")]
    """Name under which clients ask for it, unique in the deployment."""
    source: Annotated[str, Field(min_length=1, max_length=4096)]
    """File of the model (IR, ONNX, TensorFlow, TFLite, Paddle), relative to the manifest."""
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "1"
    """Version that the protocol reports and accepts."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Pin: the file's digest; anything else is refused. For IR, the digest of the .xml file."""
    device: Device = parse_target("CPU")  # noqa: RUF009 - a frozen value
    """Device: CPU, GPU, GPU.1, NPU, AUTO, AUTO:GPU,CPU, MULTI:GPU,CPU, HETERO:GPU,CPU, BATCH:GPU(16)."""
    fallback: Annotated[list[Device], Field(max_length=8)] = []
    """Devices that may stand in, in this order, when `device` is absent; the deployment is then Degraded."""
    slo: Slo | None = None
    """What its callers need."""
    traffic: Traffic = Traffic()
    """How its requests come."""
    priority: Literal["critical", "default", "sheddable"] = "default"
    """Who goes first when not all can be served."""
    compile: Compile | None = None
    """A hint or explicit streams; absent: the planner decides."""
    properties: dict[str, Scalar] = {}
    """Other OpenVINO properties, keys as OpenVINO spells them, checked against what the device supports."""
    shapes: dict[str, Annotated[list[int | str], Field(max_length=16)]] = {}
    """New input shapes by input name: numbers, -1, or ranges such as `1..512`."""
    queue: Queue = Queue()
    """The queue in front of it."""


class Spec(Strict):
    """What is wanted."""

    endpoint: Endpoint = Endpoint()
    """Where it listens."""
    resources: Resources = Resources()
    """How much of the machine it may use."""
    planning: Planning = Planning()
    """How the plan is found."""
    models: Annotated[list[ModelSpec], Field(min_length=1, max_length=MODELS_MAX)]
    """The models, served together at one endpoint by one worker."""


class Deployment(Strict):
    """One manifest document: models that are served together at one endpoint by one worker."""

    model_config = ConfigDict(populate_by_name=True)

    api_version: Annotated[Literal["orch/v1"], Field(alias="apiVersion")]
    """Version of this format."""
    kind: Literal["Deployment"]
    """What the document is."""
    metadata: Metadata
    """Who it is."""
    spec: Spec
    """What is wanted."""
