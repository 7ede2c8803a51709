"""The manifest as strict pydantic models: the one source of its schema, its checks and its reference page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from orchestrator import units
from orchestrator.manifest.target import Mode, Target, parse_target

API_VERSION = "orch/v1"
MODELS_MAX = 256
NAME_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
MODEL_NAME_PATTERN = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?"
LABEL_KEY_PATTERN = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?"
VERSION_PATTERN = r"[A-Za-z0-9._-]{1,64}"
SHA256_PATTERN = r"[0-9a-f]{64}"
PROPERTY_PATTERN = r"[A-Z][A-Z0-9_]{0,127}"

PATTERN_WORDS = {
    f"^{NAME_PATTERN}$": "lower-case letters, digits and inner hyphens, 63 at most",
    f"^{MODEL_NAME_PATTERN}$": "letters, digits and inner dots, underscores and hyphens, 128 at most",
    f"^{LABEL_KEY_PATTERN}$": "letters, digits and inner dots, slashes, underscores and hyphens, 128 at most",
    f"^{VERSION_PATTERN}$": "letters, digits, dots, underscores and hyphens, 64 at most",
    f"^{SHA256_PATTERN}$": "64 lower-case hexadecimal digits",
    f"^{PROPERTY_PATTERN}$": "an OpenVINO property in capital letters, such as ENABLE_CPU_PINNING",
}
"""Each pattern of the manifest in words, for the errors that name it."""

MANAGED_PROPERTIES = {
    "PERFORMANCE_HINT": "compile: {hint: ...}",
    "PERFORMANCE_HINT_NUM_REQUESTS": "compile: {requests: ...}",
    "NUM_STREAMS": "compile: {streams: ...}",
    "INFERENCE_NUM_THREADS": "compile: {threads: ...}",
    "DEVICE_ID": "device: GPU.1",
    "MULTI_DEVICE_PRIORITIES": "device: AUTO:GPU,CPU",
}
"""OpenVINO properties that orch sets itself, and the manifest key that asks for each."""

CONTRADICTION = "contradiction"
"""Type of the errors that `refuse` raises."""


class Strict(BaseModel):
    """Base of every manifest object: unknown keys are errors, values are not coerced, nothing changes afterwards."""

    # schema.py makes descriptions of the docstrings below fields; pydantic's own way reads the source at each import.

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Contradiction(NamedTuple):
    """A value that cannot stand beside another; `loc` leads to it from the object that found it."""

    loc: tuple[str | int, ...]
    what: str
    hint: str | None = None
    first: int | None = None
    """Index of the entry that it repeats, for entries of one list."""


def refuse(title: str, found: Iterable[Contradiction]) -> None:
    """Raise all contradictions, each at its own place; pydantic keeps the places of a ValidationError from within."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(
                CONTRADICTION, "{what}", {k: v for k, v in each._asdict().items() if v is not None}
            ),
            loc=each.loc,
            input=None,
        )
        for each in found
    ]
    if details:
        raise ValidationError.from_exception_data(title, details)


def _quantity_schema(pattern_units: list[str], example: str) -> WithJsonSchema:
    names = "|".join(pattern_units)
    return WithJsonSchema(
        {"type": "string", "pattern": rf"^\s*[0-9]{{1,15}}(\.[0-9]{{1,9}})?\s*({names})\s*$", "examples": [example]}
    )


# Beyond these no clock, counter or database holds the number.
DURATION_MAX = "8760h"
SIZE_MAX = "1024TiB"
RATE_MAX = "1000000000/s"


def _positive_up_to(most: str, parse: Callable[[object], float]) -> AfterValidator:
    limit = parse(most)

    def check(value: float) -> float:
        if not 0 < value <= limit:
            raise ValueError(f"must be greater than zero and at most {most}")
        return value

    return AfterValidator(check)


Duration = Annotated[
    float,
    BeforeValidator(units.parse_duration_s),
    _positive_up_to(DURATION_MAX, units.parse_duration_s),
    PlainSerializer(units.format_duration),
    _quantity_schema(list(units.DURATIONS), "40ms"),
]
Size = Annotated[
    int,
    BeforeValidator(units.parse_size_bytes),
    _positive_up_to(SIZE_MAX, units.parse_size_bytes),
    PlainSerializer(units.format_size),
    _quantity_schema(list(units.SIZES), "2GiB"),
]
Rate = Annotated[
    float,
    BeforeValidator(units.parse_rate_per_s),
    _positive_up_to(RATE_MAX, units.parse_rate_per_s),
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
    WithJsonSchema(
        {"type": "string", "examples": ["CPU", "GPU.1", "NPU", "AUTO:GPU,CPU", "MULTI:GPU,CPU", "BATCH:GPU(16)"]}
    ),
]


HOST_MAX = 253
PORT_MAX = 65535
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# What ends in digits is an IPv4 address and never a name (RFC 1123 section 2.1).
_HOST = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}|(?:{_LABEL}\.)*(?![0-9]+$){_LABEL}|\[[0-9A-Fa-f:.]{{2,45}}\]")


def _address(text: object) -> str:
    """Return HOST:PORT; port 0 asks the system for a free one."""
    if not isinstance(text, str):
        raise ValueError(f"must be HOST:PORT, such as 127.0.0.1:8000, got {str(text)[:60]!r}")
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,9}", port):
        raise ValueError(f"must be HOST:PORT, such as 127.0.0.1:8000, got {str(text)[:60]!r}")
    if int(port) > PORT_MAX or len(port) > len(str(PORT_MAX)):
        raise ValueError(f"the port must be 0 to {PORT_MAX}, got {port}")
    if len(host) > HOST_MAX or _HOST.fullmatch(host) is None:
        raise ValueError(f"names no host: {text[:60]!r}; an IPv6 address is written as [::1]:8000")
    return text


Address = Annotated[
    str,
    BeforeValidator(_address),
    WithJsonSchema({"type": "string", "pattern": r"^.+:[0-9]{1,5}$", "examples": ["127.0.0.1:8000"]}),
]

Scalar = str | bool | int | float
LabelKey = Annotated[str, Field(pattern=f"^{LABEL_KEY_PATTERN}$")]
LabelValue = Annotated[str, Field(max_length=256)]
PropertyKey = Annotated[str, Field(pattern=f"^{PROPERTY_PATTERN}$")]


class FileName:
    """Mark of a type whose values name files, by which `gitops.bounds` finds every one of them."""


FilePath = Annotated[str, Field(min_length=1, max_length=4096), FileName()]


class Metadata(Strict):
    """Who it is."""

    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
    """Name, unique among those of its kind on a machine: lower-case letters, digits and hyphens, 63 at most."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=64)] = {}
    """Free words to select and group deployments by."""


class Quota(Strict):
    """What each client may ask for, counted by its address; more is refused at once, with the time to come back."""

    rate: Rate
    """Inferences that a client may ask for, on average, over HTTP and gRPC together."""
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Inferences that it may ask for at once after a pause. Default: those of one second, at least 1."""


class Tls(Strict):
    """Encryption of both endpoints. The files are read again when they change, without a restart."""

    certificate_file: FilePath
    """PEM file with the certificate and, behind it, the intermediate ones; relative to the manifest."""
    key_file: FilePath
    """PEM file with its private key, without a pass phrase and closed to other users; relative to the manifest."""
    client_ca_file: FilePath | None = None
    """PEM file with authorities: only clients with a certificate of theirs are let in (mutual TLS)."""
    min_version: Literal["TLSv1.2", "TLSv1.3"] = "TLSv1.2"
    """Oldest version that is spoken. gRPC cannot be held to `TLSv1.3`, which needs `grpc: null`."""


class Endpoint(Strict):
    """Where the deployment listens; nothing listens beyond loopback unless the manifest says how that is safe."""

    http: Address | None = "127.0.0.1:8000"
    """HOST:PORT of the REST endpoint and `/metrics`; null for none, port 0 for any free port."""
    grpc: Address | None = "127.0.0.1:8001"
    """HOST:PORT of the gRPC endpoint; null for none, port 0 for any free port."""
    token_file: FilePath | None = None
    """File with the bearer token that clients must send; of several lines any is taken. Relative to the manifest."""
    tls: Tls | None = None
    """Encryption of both endpoints; absent: clear text."""
    insecure: bool = False
    """Allow an address beyond loopback to clients without a token and without a certificate."""
    quota: Quota | None = None
    """What each client may ask for; absent: as much as the pools can serve."""
    shared_memory: bool | None = None
    """Whether clients may name system shared memory for tensors. Default: where all addresses are loopback ones."""

    @model_validator(mode="after")
    def _reachable_and_safe(self) -> Self:
        refuse("Endpoint", _endpoint_contradictions(self))
        return self


def is_loopback(address: str) -> bool:
    """Return whether a HOST:PORT can be reached from this machine only."""
    host = address.rpartition(":")[0].lower()
    return host in {"localhost", "[::1]"} or re.fullmatch(r"127(?:\.[0-9]{1,3}){3}", host) is not None


def _endpoint_contradictions(endpoint: Endpoint) -> Iterable[Contradiction]:
    http, grpc = endpoint.http, endpoint.grpc
    if http is None and grpc is None:
        yield Contradiction(("http",), "http and grpc are both null, so nobody could reach the models", "drop one null")
    if http is not None and http == grpc and not http.endswith(":0"):
        what = f"http and grpc cannot share one address, got {http} for both"
        yield Contradiction(("grpc",) if "grpc" in endpoint.model_fields_set else ("http",), what, "change one port")
    if endpoint.tls is not None and endpoint.tls.min_version != "TLSv1.2" and grpc is not None:
        what, hint = "the gRPC endpoint cannot be held to TLSv1.3", "state grpc: null, or drop min_version"
        yield Contradiction(("tls", "min_version"), what, hint)
    knows_clients = endpoint.token_file is not None or (endpoint.tls is not None and endpoint.tls.client_ca_file)
    if not knows_clients and not endpoint.insecure:
        for key, address in (("http", http), ("grpc", grpc)):
            if address is not None and not is_loopback(address):
                hint = "name a file with token_file: FILE, or state insecure: true"
                yield Contradiction((key,), f"{address} can be reached from other machines, without a token", hint)


class Resources(Strict):
    """At most this much of the machine; what is absent means what the machine has left."""

    cpus: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Cores that the deployment may use; with it the worker gets cores of its own, while there are any: who comes too
    late shares those of others, as its plan warns, and who claims all shares the machine. A deployment without it is
    planned for the cores that are left, and not kept off the others."""
    memory: Size | None = None
    """Memory that the deployment may use."""


class Planning(Strict):
    """How a plan is found."""

    mode: Literal["measure", "predict", "hint"] | None = None
    """`measure` tries arms on this machine, `predict` uses stored profiles only, `hint` plans by rule. Default:
    `measure` for models with an SLO that states a rate and without `compile`; `hint` for others, and always without an
    SLO."""
    budget: Duration = 60.0
    """Longest time that measuring one model may take."""


class Slo(Strict):
    """The service level: this share of the requests is answered within this latency at this arrival rate."""

    latency: Duration
    """Longest time from arrival to answer."""
    percentile: Annotated[float, Field(ge=50, lt=100)] = 99.0
    """Share of the requests, in percent, that must be answered within `latency`."""
    rate: Rate | None = None
    """Arrival rate at which it must hold."""


class Traffic(Strict):
    """How requests come."""

    arrivals: Literal["poisson", "constant", "bursty", "closed"] = "poisson"
    """`poisson`, `constant`, `bursty` (gaps twice as uneven), or `closed`: callers that each wait for their answer."""
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Callers that wait at the same time, or cameras; bounds streams and requests."""

    @model_validator(mode="after")
    def _closed_needs_callers(self) -> Self:
        if self.arrivals == "closed" and self.concurrency is None:
            what = "closed arrivals need the number of callers that wait for their answers"
            refuse("Traffic", [Contradiction(("arrivals",), what, "add concurrency: 16, or drop arrivals: closed")])
        return self


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
    """With a hint: PERFORMANCE_HINT_NUM_REQUESTS. Explicit: infer requests in flight, all streams together."""

    @model_validator(mode="after")
    def _hint_or_explicit(self) -> Self:
        if self.hint is not None:
            explicit = [key for key in ("streams", "threads", "batch") if getattr(self, key) is not None]
            hint = f"drop hint, or drop {', '.join(explicit)}"
            what = "stands beside hint: {}, which lets OpenVINO decide it"
            refuse("Compile", [Contradiction((key,), what.format(self.hint), hint) for key in explicit])
        return self


class Queue(Strict):
    """The bounded queue in front of the infer requests; changed in place, without compiling again."""

    limit: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests that may wait; more are refused at once. Default: derived from the requests and the SLO."""
    timeout: Duration | None = None
    """Longest time from arrival to answer; later it is dropped. Default: the SLO's latency, else 30 s."""
    memory: Size = 256 * 2**20
    """Bytes of tensors that may wait in the queue together."""


DIM_MAX = 2**31 - 1
_DIM_RANGE = re.compile(r"([0-9]{1,10})?\.\.([0-9]{1,10})?")


def _dim(value: object) -> object:
    """Return the dimension unchanged; raise ValueError with what is allowed when it is none."""
    if type(value) is int and (value == -1 or 1 <= value <= DIM_MAX):
        return value
    if isinstance(value, str):
        if value == "?":
            return value
        match = _DIM_RANGE.fullmatch(value)
        if match is not None and (match[1] or match[2]):
            low, high = int(match[1] or 1), int(match[2] or DIM_MAX)
            if not 1 <= low <= high <= DIM_MAX:
                raise ValueError(f"must be a range that begins at 1 or above and does not fall, got {value!r}")
            return value
    raise ValueError(f"must be a size from 1, -1 or '?' for any, or a range such as 1..512, got {str(value)[:60]!r}")


Dim = Annotated[
    int | str,
    BeforeValidator(_dim),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": -1, "maximum": DIM_MAX, "not": {"const": 0}},
                {"type": "string", "pattern": r"^(\?|[0-9]{1,10}\.\.[0-9]{0,10}|\.\.[0-9]{1,10})$"},
            ],
            "examples": [1, -1, "1..512"],
        }
    ),
]


class ModelSpec(Strict):
    """One model of a deployment."""

    name: Annotated[str, Field(pattern=f"^{MODEL_NAME_PATTERN}$")]
    """Name under which clients ask for it, unique in the deployment."""
    source: FilePath
    """File of the model (IR, ONNX, TensorFlow, TFLite, Paddle), relative to the manifest."""
    version: Annotated[str, Field(pattern=f"^{VERSION_PATTERN}$")] = "1"
    """Version that the protocol reports and accepts."""
    sha256: Annotated[str, Field(pattern=f"^{SHA256_PATTERN}$")] | None = None
    """Pin: the file's digest; anything else is refused. For IR, the digest of the .xml file."""
    device: Device = parse_target("CPU")
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
    properties: Annotated[dict[PropertyKey, Scalar], Field(max_length=128)] = {}
    """Other OpenVINO properties, keys as OpenVINO spells them, checked against what the device supports."""
    shapes: Annotated[dict[str, Annotated[list[Dim], Field(min_length=1, max_length=16)]], Field(max_length=256)] = {}
    """New input shapes by input name: sizes, -1 or `"?"` for any, or ranges such as `1..512`."""
    queue: Queue = Queue()
    """The queue in front of it."""

    @field_validator("properties")
    @classmethod
    def _only_unmanaged(cls, properties: dict[str, Scalar]) -> dict[str, Scalar]:
        found = [
            Contradiction((key,), f"orch sets {key} itself", f"drop it and write {MANAGED_PROPERTIES[key]}")
            for key in properties
            if key in MANAGED_PROPERTIES
        ]
        refuse("properties", found)
        return properties

    @model_validator(mode="after")
    def _device_fits(self) -> Self:
        refuse("ModelSpec", _device_contradictions(self))
        return self


def _device_contradictions(model: ModelSpec) -> Iterable[Contradiction]:
    wanted = model.compile or Compile()
    mode = model.device.mode
    if wanted.batch is not None and mode is Mode.BATCH:
        hint = f"drop batch, or write device: {model.device.devices[0]}"
        yield Contradiction(("compile", "batch"), f"stands beside device {model.device}, which batches by itself", hint)
    if wanted.hint == "CUMULATIVE_THROUGHPUT" and mode not in {Mode.AUTO, Mode.MULTI}:
        what = f"CUMULATIVE_THROUGHPUT spreads work over several devices, got device {model.device}"
        yield Contradiction(("compile", "hint"), what, "write hint: THROUGHPUT, or a list such as device: AUTO:GPU,CPU")
    for index, device in enumerate(model.fallback):
        if device == model.device or device in model.fallback[:index]:
            what = f"{device} cannot stand in for itself"
            yield Contradiction(("fallback", index), what, "drop it; each device is tried once")


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

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        first: dict[str, int] = {}
        found = []
        for index, model in enumerate(self.models):
            if model.name in first:
                what, hint = f"the model name {model.name!r} is taken", "give each model of a deployment its own name"
                found.append(Contradiction(("models", index, "name"), what, hint, first[model.name]))
            first.setdefault(model.name, index)
        refuse("Spec", found)
        return self


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
