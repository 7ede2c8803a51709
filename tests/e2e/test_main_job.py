"""The main job with real processes: apply, infer, look, change, break, kill, and find everything right again."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from conftest import ROOT, Caller, Home

SAMPLE = np.load(ROOT / "deployments/models/digits-sample.npy")
DIGIT = 8


def http_call(status: dict[str, dict[str, str]]) -> Callable[[], None]:
    """Return a call that infers over HTTP and checks the answer."""
    client = triton_http.InferenceServerClient(status["endpoint"]["http"].removeprefix("http://"))
    given = triton_http.InferInput("image", list(SAMPLE.shape), "FP32")
    given.set_data_from_numpy(SAMPLE)

    def call() -> None:
        answer = client.infer("digits", [given]).as_numpy("probabilities")
        assert answer is not None
        assert answer.argmax() == DIGIT

    return call


def grpc_call(status: dict[str, dict[str, str]]) -> Callable[[], None]:
    """Return a call that infers over gRPC and checks the answer."""
    client = triton_grpc.InferenceServerClient(status["endpoint"]["grpc"])
    given = triton_grpc.InferInput("image", list(SAMPLE.shape), "FP32")
    given.set_data_from_numpy(SAMPLE)

    def call() -> None:
        answer = client.infer("digits", [given]).as_numpy("probabilities")
        assert answer is not None
        assert answer.argmax() == DIGIT

    return call


def test_an_applied_manifest_serves_and_status_tells_the_truth(home: Home) -> None:
    applied = home.orch("apply", home.manifest(extra="slo: {latency: 500ms, rate: 20/s}"))
    assert "demo/digits created" in applied.stdout
    status = home.status()
    http_call(status)()
    grpc_call(status)()
    inferred = home.orch("infer", "demo", "--input", "@digits-sample.json")
    assert f"index {DIGIT}" in inferred.stdout
    status = home.eventually(lambda status: status["models"][0]["observed"]["completed_total"] == 3)
    assert (status["sync"], status["health"]) == ("Synced", "Healthy")
    assert status["models"][0]["state"] == "Serving"
    assert status["models"][0]["execution_devices"] == ["CPU"]
    assert status["worker"]["restarts"] == 0
    assert {"value", "state", "cause"} <= status["models"][0]["saturation"].keys()


def test_applying_twice_touches_nothing(home: Home) -> None:
    manifest = home.manifest()
    home.orch("apply", manifest)
    before = home.status()
    again = home.orch("apply", manifest)
    assert "demo/digits unchanged" in again.stdout
    after = home.status()
    assert after["worker"] == before["worker"]
    assert after["revision"] == before["revision"]
    assert home.orch("diff", manifest, check=False).returncode == 0


def test_queue_and_slo_change_in_place_and_streams_beside_what_runs(home: Home) -> None:
    home.orch("apply", home.manifest(extra="compile: {streams: 1, threads: 1}"))
    before = home.status()
    with Caller(http_call(before)) as http, Caller(grpc_call(before)) as grpc:
        http.past(20)
        updated = home.orch("apply", home.manifest(extra="compile: {streams: 1, threads: 1}\nqueue: {limit: 7}"))
        assert "demo/digits updated" in updated.stdout
        assert home.status()["models"][0]["plan"]["queue_limit"] == 7
        replaced = home.orch("apply", home.manifest(extra="compile: {streams: 2, threads: 2}"))
        assert "demo/digits replaced" in replaced.stdout
        http.past(20)
        grpc.past(20)
    assert http.errors + grpc.errors == []
    after = home.status()
    assert after["models"][0]["plan"]["streams"] == min(2, len(os.sched_getaffinity(0)))
    assert after["worker"]["pid"] == before["worker"]["pid"]


@pytest.mark.parametrize("breakage", ["truncated model", "refused property"])
def test_a_bad_change_leaves_the_good_one_serving(home: Home, breakage: str) -> None:
    home.orch("apply", home.manifest())
    with Caller(http_call(home.status())) as caller:
        caller.past(10)
        if breakage == "truncated model":
            whole = (home.folder / "digits.onnx").read_bytes()
            (home.folder / "broken.onnx").write_bytes(whole[: len(whole) // 2])
            bad = home.orch("apply", home.manifest(source="broken.onnx"), check=False)
        else:
            bad = home.orch("apply", home.manifest(extra="properties: {CACHE_MODE: OPTIMIZE_SIZE}"), check=False)
        assert bad.returncode == 1
        assert "error:" in bad.stderr
        assert "Traceback" not in bad.stderr
        caller.past(10)
    assert caller.errors == []
    status = home.status()
    assert status["models"][0]["state"] == "Serving"
    assert status["revision"]["number"] == 1


def test_killing_the_agent_fails_no_request_and_the_next_command_finds_everything(home: Home) -> None:
    home.orch("apply", home.manifest())
    before = home.status()
    with Caller(http_call(before)) as http, Caller(grpc_call(before)) as grpc:
        http.past(10)
        os.kill(home.agent_pid(), signal.SIGKILL)
        http.past(20)
        grpc.past(20)
        again = home.orch("apply", home.manifest())
        assert "demo/digits unchanged" in again.stdout
    assert http.errors + grpc.errors == []
    after = home.status()
    assert after["worker"] == before["worker"]
    assert (after["sync"], after["health"]) == ("Synced", "Healthy")


def test_a_killed_worker_is_started_again_and_counted(home: Home) -> None:
    home.orch("apply", home.manifest())
    before = home.status()
    os.kill(before["worker"]["pid"], signal.SIGKILL)
    after = home.eventually(lambda status: status["worker"]["restarts"] == 1 and status["health"] == "Healthy")
    assert after["worker"]["pid"] != before["worker"]["pid"]
    assert after["endpoint"]["http"] == before["endpoint"]["http"]
    http_call(after)()
    assert any(event["reason"] == "WorkerDied" for event in json.loads(home.orch("events", "-o", "json").stdout))


def test_after_a_reboot_the_next_start_makes_reality_match_the_manifests(home: Home) -> None:
    home.orch("apply", home.manifest())
    home.end()
    home.orch("agent", "start")
    status = home.eventually(lambda status: status["health"] == "Healthy")
    http_call(status)()


def test_two_applies_at_once_go_one_after_the_other(home: Home) -> None:
    home.orch("apply", home.manifest())
    manifests = [home.manifest(extra=f"queue: {{limit: {limit}}}") for limit in (5,)]
    other = Path(home.folder / "other.yaml")
    other.write_text((home.folder / "demo.yaml").read_text().replace("limit: 5", "limit: 9"))
    done: list[int] = []

    def apply(name: str) -> None:
        done.append(home.orch("apply", name, check=False).returncode)

    threads = [threading.Thread(target=apply, args=(name,)) for name in (*manifests, "other.yaml")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert done == [0, 0]
    status = home.status()
    assert status["sync"] == "Synced"
    assert status["models"][0]["plan"]["queue_limit"] in (5, 9)
    assert status["revision"]["number"] == 3


def test_a_deleted_deployment_is_gone_and_its_worker_too(home: Home) -> None:
    home.orch("apply", home.manifest())
    pid = home.status()["worker"]["pid"]
    home.orch("delete", "demo")
    assert json.loads(home.orch("status", "-o", "json").stdout)["items"] == []
    assert pid not in [process.pid for process in home.processes()]


def test_multi_runs_on_two_devices_and_both_get_work(home: Home) -> None:
    plugins = [
        {
            "name": "CPU2",
            "library": "intel_cpu",
            "device_properties": {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"},
        },
        {"name": "XPU", "library": "hetero", "properties": {"MULTI_DEVICE_PRIORITIES": "CPU2"}},
    ]
    home.environ["ORCH_OPENVINO_PLUGINS"] = json.dumps(plugins)
    home.orch("apply", home.manifest(extra="device: MULTI:XPU,CPU"))
    status = home.status()
    model = status["models"][0]
    assert sorted(model["execution_devices"]) == ["CPU", "XPU"]
    assert model["device"].startswith("AUTO:")
    assert model["plan"]["requests"] >= 2
    call = http_call(status)
    for _ in range(20):
        call()
