"""The worker process as the agent starts it: control socket, changes, signals, and what it leaves behind."""

from __future__ import annotations

import json
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from benchmarks.reload_under_load import WorkerProcess, a_plan, alternate
from orchestrator.errors import Kind, OrchError
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.serving import admin
from orchestrator.serving.http_server import listen
from tests.serving.http_serving import Wire, binary_input, get, infer_json, post

END_S = 20.0
ONE_STREAM, TWO_STREAMS = {"streams": 1, "threads": 2}, {"streams": 2, "threads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def plan(folder: Path) -> DeploymentPlan:
    return a_plan("tiny_mlp", folder, ONE_STREAM)


@pytest.fixture
def worker(tmp_path: Path, plan: DeploymentPlan) -> Iterator[WorkerProcess]:
    with WorkerProcess(tmp_path / "state", plan) as worker:
        yield worker
        assert "Traceback" not in worker.log.read_text()


def ended(worker: WorkerProcess, timeout_s: float = END_S) -> int:
    return worker.process.wait(timeout_s)


def port(status: dict[str, Any]) -> int:
    return int(status["endpoint"]["http"].rpartition(":")[2])


def changed(plan: DeploymentPlan, **fields: Any) -> dict[str, Any]:
    """Return the plan with other fields of its model, as JSON."""
    model = plan.models[0].model_copy(update=fields)
    return plan.model_copy(update={"models": (model,)}).model_dump(mode="json")


def infer_once(status: dict[str, Any]) -> np.ndarray[Any, Any]:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{port(status)}") as client:
        metadata = client.get_model_metadata("model")
        (info,) = metadata["inputs"]
        array = np.ones([max(1, size) for size in info["shape"]], np.float32)
        given = tritonclient.http.InferInput(info["name"], array.shape, "FP32")
        given.set_data_from_numpy(array)
        output: np.ndarray[Any, Any] = client.infer("model", [given]).as_numpy(metadata["outputs"][0]["name"])
        return output


# Status and changes


def test_status_tells_what_runs_and_its_sockets_are_the_owners_alone(
    worker: WorkerProcess, plan: DeploymentPlan
) -> None:
    status = worker.until_state("Serving")
    assert (status["deployment"], status["generation"], status["pid"]) == ("reload", 1, worker.process.pid)
    assert DeploymentPlan.model_validate(status["plan"]) == plan
    assert status["plan_digest"] == plan.digest()
    assert [model["name"] for model in status["models"]] == ["model"]
    for name in ("control.sock", "fds.sock"):
        assert stat.S_IMODE((worker.state / name).stat().st_mode) == 0o600
    assert infer_once(status).size
    with tritonclient.grpc.InferenceServerClient(status["endpoint"]["grpc"]) as client:
        assert client.is_model_ready("model")
    with Wire(port(status)) as wire:
        assert b"orch_" in wire.ask(get("/metrics")).body


def test_a_change_is_told_step_by_step_and_shows_in_status(worker: WorkerProcess, folder: Path) -> None:
    worker.until_state("Serving")
    plan = a_plan("tiny_mlp", folder, TWO_STREAMS)
    params = {"plan": plan.model_dump(mode="json"), "generation": 7}
    *told, (_, result) = admin.stream(worker.state / "control.sock", "apply", params, timeout_s=END_S)
    assert [step["phase"] for _, step in told] == ["compiling", "checking", "replaced", "draining"]
    assert (result["ok"], [model["action"] for model in result["models"]]) == (True, ["replace"])
    status = worker.until_state("Serving")
    assert (status["generation"], status["plan_digest"]) == (7, plan.digest())
    changes = [(event["reason"], event["message"]) for event in status["events"] if event["object"].endswith("model")]
    assert changes[0] == ("Created", "no pool ran before")
    assert changes[1][0] == "Replaced"
    again = worker.call("apply", **params)
    assert [model["action"] for model in again["models"]] in ([], ["unchanged"])


def test_a_change_that_fails_leaves_the_old_model_serving(worker: WorkerProcess, plan: DeploymentPlan) -> None:
    before = worker.until_state("Serving")
    expected = infer_once(before)
    with pytest.raises(OrchError, match=r"gone\.xml") as caught:
        worker.call("apply", plan=changed(plan, source="/nowhere/gone.xml"), generation=2)
    assert caught.value.kind is Kind.FAILED
    after = worker.until_state("Serving")
    assert (after["generation"], after["plan_digest"]) == (1, before["plan_digest"])
    assert after["events"][-1]["reason"] == "ChangeFailed"
    assert infer_once(after).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("method", "params", "told"),
    [
        ("apply", {}, "not a plan"),
        ("apply", {"plan": {"name": 3}, "generation": 1}, "not a plan"),
        ("drain", {"timeout_s": "soon"}, "timeout_s must be a number of at least 0, got 'soon'"),
        ("dance", {}, "not a call this process knows"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(
    worker: WorkerProcess, method: str, params: dict[str, Any], told: str
) -> None:
    worker.until_state("Serving")
    with pytest.raises(OrchError, match=told) as caught:
        worker.call(method, **params)
    assert caught.value.kind is Kind.INVALID


def test_what_belongs_to_the_process_cannot_be_changed_in_it(worker: WorkerProcess, plan: DeploymentPlan) -> None:
    worker.until_state("Serving")
    other = plan.model_copy(update={"cores": (0,)})
    with pytest.raises(OrchError, match="start a new worker"):
        worker.call("apply", plan=other.model_dump(mode="json"), generation=2)


def test_twenty_changes_under_load_fail_no_request(worker: WorkerProcess, plan: DeploymentPlan, folder: Path) -> None:
    load = alternate(worker, (plan, a_plan("tiny_mlp", folder, TWO_STREAMS)), 20)
    assert load.failures == []
    assert min(load.answered.values()) > 20


def test_the_log_of_requests_is_switched_while_the_worker_serves(worker: WorkerProcess) -> None:
    status = worker.until_state("Serving")
    given = {"name": "features", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}
    with Wire(port(status)) as wire:
        assert wire.ask(post("model", infer_json(given))).status == 200
        told = worker.call("requests", on=True)
        assert wire.ask(post("model", infer_json(given), "X-Request-Id: seen")).status == 200
        assert not worker.call("requests", on=False)["on"]
        assert wire.ask(post("model", infer_json(given))).status == 200
    (line,) = Path(told["path"]).read_text().splitlines()
    assert '"request_id":"seen"' in line
    with pytest.raises(OrchError, match="on must be true or false"):
        worker.call("requests", on="yes")


def test_status_and_metrics_are_told_while_a_slow_model_is_asked_for_far_more_than_it_carries(
    tmp_path: Path, folder: Path
) -> None:
    plan = a_plan("bert_small", folder, ONE_STREAM, slo={"latency": "500ms"}, queue={"limit": 1})
    ids = {"datatype": "INT64", "shape": [1, 128], "data": [1] * 128}
    request = post("model", infer_json({"name": "input_ids", **ids}, {"name": "attention_mask", **ids}))
    with WorkerProcess(tmp_path / "state", plan) as worker, ExitStack() as stack:
        at = port(worker.until_state("Serving"))
        wires = [stack.enter_context(Wire(at)) for _ in range(24)]
        asks = stack.enter_context(Wire(at))
        for _ in range(2):
            for wire in wires:
                wire.send(request)
            assert worker.call("status")["ready"]
            assert [asks.ask(get(path)).status for path in ("/v2/health/ready", "/metrics")] == [200, 200]
            assert {wire.reply().status for wire in wires} == {200, 503}


def test_each_client_has_the_quota_of_the_manifest(tmp_path: Path, folder: Path) -> None:
    endpoint = {"quota": {"rate": "0.001/s", "burst": 2}}
    given = {"name": "features", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}
    with (
        WorkerProcess(tmp_path / "state", a_plan("tiny_mlp", folder, ONE_STREAM, endpoint=endpoint)) as worker,
        Wire(port(worker.until_state("Serving"))) as wire,
    ):
        assert [wire.ask(post("model", infer_json(given))).status for _ in range(3)] == [200, 200, 429]


# The end


def test_stop_ends_it_with_exit_code_0_and_drain_before_it_closes_the_door(worker: WorkerProcess) -> None:
    status = worker.until_state("Serving")
    assert worker.call("drain", timeout_s=5.0) == {"drained": True}
    assert worker.call("status")["state"] == "Draining"
    with socket.socket() as late:
        assert late.connect_ex(("127.0.0.1", port(status))) != 0
    worker.call("stop")
    assert ended(worker) == 0


def test_sigterm_lets_what_is_in_flight_end(tmp_path: Path, folder: Path) -> None:
    plan = a_plan("resnet50", folder, ONE_STREAM)
    with WorkerProcess(tmp_path / "state", plan) as worker:
        status = worker.until_state("Serving")
        array = np.zeros((1, 3, 224, 224), np.float32)
        text = infer_json(binary_input("image", "FP32", array))
        with ExitStack() as stack:
            wires = [stack.enter_context(Wire(port(status))) for _ in range(12)]
            for wire in wires:
                wire.send(post("model", text + array.tobytes(), json_length=len(text)))
            until_busy(worker)
            worker.process.send_signal(signal.SIGTERM)
            replies = [wire.reply() for wire in wires]
            assert [reply.status for reply in replies] == [200] * 12
            assert replies[-1].closes
            assert wires[-1].is_closed()
        assert ended(worker) == 0
        assert "Traceback" not in worker.log.read_text()


def until_busy(worker: WorkerProcess) -> None:
    for _ in range(2000):
        observed = worker.call("status")["models"][0]["observed"]
        if observed["queued"] >= 3 and observed["accepted_total"] == 12:
            return
    raise AssertionError("the requests did not come")


def test_sigterm_while_it_compiles_ends_it_at_once(tmp_path: Path, folder: Path) -> None:
    plan = a_plan("resnet50", folder, ONE_STREAM)
    with WorkerProcess(tmp_path / "state", plan) as worker:
        worker.until_state("Starting")
        until_logged(worker, "compiling")
        worker.process.send_signal(signal.SIGTERM)
        assert ended(worker, 5.0) == 0
        assert "Traceback" not in worker.log.read_text()


def until_logged(worker: WorkerProcess, text: str) -> None:
    for _ in range(2000):
        worker.call("status")
        if text in worker.log.read_text():
            return
    raise AssertionError(worker.log.read_text())


# Plans that cannot be run


def test_a_plan_that_cannot_be_run_is_told_in_a_file_and_by_exit_code_1(tmp_path: Path, plan: DeploymentPlan) -> None:
    bad = DeploymentPlan.model_validate(changed(plan, source="/nowhere/gone.xml"))
    with WorkerProcess(tmp_path / "state", bad) as worker:
        assert ended(worker) == 1
        failure = json.loads((worker.state / "failure.json").read_text())
        assert failure["kind"] == "failed"
        assert "gone.xml" in failure["problems"][0]["what"] + str(failure["problems"][0]["where"])
        log = worker.log.read_text()
        assert any("gone.xml" in line for line in log.splitlines() if line.startswith("error: "))
        assert "Traceback" not in log


def test_a_port_that_is_taken_is_told(tmp_path: Path, plan: DeploymentPlan) -> None:
    with listen("127.0.0.1:0") as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        endpoint = plan.endpoint.model_copy(update={"http": address})
        with WorkerProcess(tmp_path / "state", plan.model_copy(update={"endpoint": endpoint})) as worker:
            assert ended(worker) == 1
            failure = json.loads((worker.state / "failure.json").read_text())
            *_, error, hint = worker.log.read_text().splitlines()
    assert error == f"error: {address}: cannot listen: Address already in use"
    assert hint.startswith("hint: ")
    assert failure["kind"] == "conflict"
    assert failure["problems"][0]["where"] == address
    assert "cannot listen: Address already in use" in failure["problems"][0]["what"]


# The listening socket


def test_the_listener_given_is_served_and_handed_on(tmp_path: Path, plan: DeploymentPlan) -> None:
    with listen("127.0.0.1:0") as listener:
        descriptor = str(listener.fileno())
        arguments = ("--listen-fd", descriptor)
        with WorkerProcess(tmp_path / "state", plan, *arguments, pass_fds=(listener.fileno(),)) as worker:
            status = worker.until_state("Serving")
            assert port(status) == listener.getsockname()[1]
            with socket.socket(socket.AF_UNIX) as channel:
                channel.settimeout(END_S)
                channel.connect(str(worker.state / "fds.sock"))
                message, descriptors, _, _ = socket.recv_fds(channel, 16, 1)
            with socket.socket(fileno=descriptors[0]) as again:
                assert (message, again.getsockname()) == (b"http", listener.getsockname())
            worker.process.send_signal(signal.SIGTERM)
            assert ended(worker) == 0
            with Wire(port(status)):  # nobody is refused while the next worker starts
                pass


def test_a_long_state_folder_has_its_sockets_too(tmp_path: Path, plan: DeploymentPlan) -> None:
    state = tmp_path / ("long" * 20) / ("longer" * 15) / "state"
    with WorkerProcess(state, plan) as worker:
        assert worker.until_state("Serving")["ready"]
        worker.call("stop")
        assert ended(worker) == 0
