"""What the spec takes, what it fills in, and which values cannot stand side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.errors import OrchError, render
from orchestrator.manifest.load import load_text
from orchestrator.manifest.spec import Deployment, ModelSpec, is_loopback

HEAD = "apiVersion: orch/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n"


def load_spec(spec: str) -> Deployment:
    (document,) = load_text(HEAD + spec, name="f", base=Path())
    return document.deployment


def model(keys: str) -> ModelSpec:
    return load_spec(f"  models: [{{name: m, source: s{keys and ', '}{keys}}}]\n").spec.models[0]


def refusal(spec: str) -> str:
    """Return the error text with each place replaced by the word that stands there."""
    with pytest.raises(OrchError) as caught:
        load_spec(spec)
    lines = (HEAD + spec).splitlines()

    def word(place: re.Match[str]) -> str:
        rest = lines[int(place[1]) - 1][int(place[2]) - 1 :]
        return re.split(r"[,}\]]", rest)[0] + " <- "

    return re.sub(r"error: f:([0-9]+):([0-9]+): ", word, render(caught.value))


def test_what_a_model_leaves_out_has_defaults() -> None:
    found = model("")
    assert (str(found.device), found.version, found.priority, found.compile) == ("CPU", "1", "default", None)
    assert (found.traffic.arrivals, found.queue.memory, found.slo) == ("poisson", 256 * 2**20, None)


def test_quantities_are_read_with_their_units() -> None:
    found = model("slo: {latency: 40ms, percentile: 99, rate: 90/min}, queue: {timeout: 1.5s, memory: 64MB}")
    assert found.slo is not None
    assert (found.slo.latency, found.slo.percentile, found.slo.rate) == (0.04, 99.0, 1.5)
    assert (found.queue.timeout, found.queue.memory) == (1.5, 64_000_000)


def test_shapes_take_sizes_ranges_and_any() -> None:
    found = model('shapes: {x: [1, -1, "?", 1..512, "..9", "3.."]}')
    assert found.shapes == {"x": [1, -1, "?", "1..512", "..9", "3.."]}


def test_properties_keep_their_types() -> None:
    found = model("properties: {A: true, B: 1, C: 1.5, D: text}")
    assert [(value, type(value)) for value in found.properties.values()] == [
        (True, bool),
        (1, int),
        (1.5, float),
        ("text", str),
    ]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "compile: {hint: LATENCY, streams: 2}",
            "2 <- spec.models[0].compile.streams: stands beside hint: LATENCY, which lets OpenVINO decide it\n"
            "hint: drop hint, or drop streams",
        ),
        (
            "device: BATCH:GPU(4), compile: {batch: 2}",
            "2 <- spec.models[0].compile.batch: stands beside device BATCH:GPU(4), which batches by itself\n"
            "hint: drop batch, or write device: GPU",
        ),
        (
            "compile: {hint: CUMULATIVE_THROUGHPUT}",
            "CUMULATIVE_THROUGHPUT <- spec.models[0].compile.hint: CUMULATIVE_THROUGHPUT spreads "
            "work over several devices, got device CPU\n"
            "hint: write hint: THROUGHPUT, or a list such as device: AUTO:GPU,CPU",
        ),
        (
            "traffic: {arrivals: closed}",
            "closed <- spec.models[0].traffic.arrivals: "
            "closed arrivals need the number of callers that wait for their answers\n"
            "hint: add concurrency: 16, or drop arrivals: closed",
        ),
        (
            "properties: {NUM_STREAMS: 4}",
            "4 <- spec.models[0].properties.NUM_STREAMS: orch sets NUM_STREAMS itself\n"
            "hint: drop it and write compile: {streams: ...}",
        ),
        (
            "properties: {num: 4}",
            "num: 4 <- spec.models[0].properties.num: the key must be an OpenVINO property in capital letters, "
            "such as ENABLE_CPU_PINNING, got 'num'",
        ),
        (
            "device: GPU, fallback: [CPU, GPU, CPU]",
            "GPU <- spec.models[0].fallback[1]: GPU cannot stand in for itself\nhint: drop it; each "
            "device is tried once\n"
            "CPU <- spec.models[0].fallback[2]: CPU cannot stand in for itself\nhint: drop it; each "
            "device is tried once",
        ),
        (
            "shapes: {x: [1, 0, true, 9..1]}",
            "0 <- spec.models[0].shapes.x[1]: must be a size from 1, -1 or '?' for any, or a range such as 1..512, "
            "got '0'\n"
            "true <- spec.models[0].shapes.x[2]: must be a size from 1, -1 or '?' for any, or a range such as 1..512, "
            "got 'True'\n"
            "9..1 <- spec.models[0].shapes.x[3]: must be a range that begins at 1 or above and does "
            "not fall, got '9..1'",
        ),
        (
            "compile: {streams: true, batch: 0}",
            "true <- spec.models[0].compile.streams: must be a whole number or 'AUTO', got true\n"
            "0 <- spec.models[0].compile.batch: must be at least 1, got 0",
        ),
        (
            "slo: {latency: 40, percentile: true}",
            "40 <- spec.models[0].slo.latency: must be a duration with its unit, such as 40ms, got 40\n"
            "true <- spec.models[0].slo.percentile: must be a number, got true",
        ),
        (
            "slo: {latency: 0ms}",
            "0ms <- spec.models[0].slo.latency: must be greater than zero and at most 8760h, got '0ms'",
        ),
    ],
)
def test_what_cannot_stand_is_refused_at_its_own_place(keys: str, expected: str) -> None:
    assert refusal(f"  models: [{{name: m, source: s, {keys}}}]\n") == expected


def test_cumulative_throughput_is_for_lists_of_devices() -> None:
    assert model("device: 'MULTI:GPU,CPU', compile: {hint: CUMULATIVE_THROUGHPUT}").compile is not None


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "http: null, grpc: null",
            "null <- spec.endpoint.http: http and grpc are both null, so nobody could reach the models\n"
            "hint: drop one null",
        ),
        (
            "http: 127.0.0.1:9, grpc: 127.0.0.1:9",
            "127.0.0.1:9 <- spec.endpoint.grpc: http and grpc cannot share one address, got 127.0.0.1:9 for both\n"
            "hint: change one port",
        ),
        (
            "http: 127.0.0.1:8001",
            "127.0.0.1:8001 <- spec.endpoint.http: http and grpc cannot share one address, got "
            "127.0.0.1:8001 for both\n"
            "hint: change one port",
        ),
        (
            "http: 0.0.0.0:80",
            "0.0.0.0:80 <- spec.endpoint.http: 0.0.0.0:80 can be reached from other machines, without a token\n"
            "hint: name a file with token_file: FILE, or state insecure: true",
        ),
    ],
)
def test_an_endpoint_that_is_unreachable_or_unsafe_is_refused(keys: str, expected: str) -> None:
    assert refusal(f"  endpoint: {{{keys}}}\n  models: [{{name: m, source: s}}]\n") == expected


@pytest.mark.parametrize("keys", ["http: 0.0.0.0:80, token_file: t", "http: 0.0.0.0:80, insecure: true", "grpc: null"])
def test_an_endpoint_that_says_how_it_is_safe_is_taken(keys: str) -> None:
    assert load_spec(f"  endpoint: {{{keys}}}\n  models: [{{name: m, source: s}}]\n")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("LOCALHOST:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("127.0.0.1.evil.com:1", False),
        ("128.0.0.1:1", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_two_models_of_one_name_are_refused_with_both_places() -> None:
    with pytest.raises(OrchError) as caught:
        load_spec("  models:\n    - {name: m, source: s}\n    - {name: n, source: s}\n    - {name: m, source: s}\n")
    assert str(caught.value) == "f:8:14: spec.models[2].name: the model name 'm' is taken, first at 6:14"


def test_the_python_name_of_a_key_is_not_a_manifest_key() -> None:
    with pytest.raises(OrchError, match="unknown key 'api_version'"):
        load_text(HEAD.replace("apiVersion", "api_version") + "  models: []\n", name="f", base=Path())
    assert Deployment(
        api_version="orch/v1",
        kind="Deployment",
        metadata={"name": "d"},
        spec={"models": [{"name": "m", "source": "s"}]},
    )


def test_a_deployment_written_out_is_read_back_the_same() -> None:
    deployment = load_spec(
        "  resources: {cpus: 2, memory: 3GiB}\n  planning: {mode: measure, budget: 90s}\n"
        "  models: [{name: m, source: s, device: 'BATCH:GPU(16)', slo: {latency: 40ms, rate: 60/s}}]\n"
    )
    assert Deployment.model_validate(deployment.model_dump(by_alias=True, mode="json")) == deployment
