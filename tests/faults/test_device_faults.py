"""A device that fails, disappears and returns: what is answered meanwhile, and that the pool is built anew."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.at_fault import SimulatedWorker, eventually, port
from tests.serving.http_serving import Wire, double_request, get

SOON = 100  # inferences: beyond those of the check before serving


def reasons(status: dict[str, Any]) -> list[str]:
    return [event["reason"] for event in status["events"]]


def failed_to_rebuild(worker: SimulatedWorker, wire: Wire) -> dict[str, Any] | None:
    wire.ask(double_request())
    status: dict[str, Any] = worker.call("status")
    return status if "RebuildFailed" in reasons(status) else None


def asked_until(wire: Wire, status: int) -> set[int]:
    """Ask for inferences until one is answered so, and return all answers."""
    seen: set[int] = set()

    def ask() -> bool:
        seen.add(wire.ask(double_request()).status)
        return status in seen

    eventually(ask, f"an answer {status}")
    return seen


@pytest.mark.parametrize("fault", [{"device_lost_at": SOON}, {"fail": list(range(SOON, 2000))}])
def test_a_pool_that_answers_errors_is_built_anew_as_soon_as_the_device_is_back(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    gone = {"compile_error": "no such device"}
    with SimulatedWorker(tmp_path / "state", fault, gone, gone, {}) as worker:
        before = worker.until_state("Serving")
        with Wire(port(before)) as wire, Wire(port(before)) as health:
            assert asked_until(wire, 500) == {200, 500}
            told = eventually(lambda: failed_to_rebuild(worker, wire), "a try to rebuild fails")
            (model,) = told["models"]
            assert (model["state"], model["rebuilt"], told["ready"]) == ("Failing", 0, False)
            assert "no such device" in model["message"]
            assert health.ask(get("/v2/health/ready")).status == 503
            assert health.ask(get("/v2/health/live")).status == 200
            assert asked_until(wire, 200) <= {500, 200}
            assert health.ask(get("/v2/health/ready")).status == 200
        after = worker.until_state("Serving")
        assert after["pid"] == before["pid"]
        (model,) = after["models"]
        assert (model["state"], model["rebuilt"], model["message"]) == ("Serving", 1, None)
        counts = {event["reason"]: event["count"] for event in after["events"] if event["reason"].startswith("Rebu")}
        assert list(counts) == ["RebuildFailed", "Rebuilding", "Rebuilt"]  # in the order of their last occurrence
        assert counts == {"Rebuilding": 3, "RebuildFailed": 2, "Rebuilt": 1}
        assert "Traceback" not in worker.log.read_text()


def test_a_single_failed_inference_costs_its_caller_and_nobody_else(tmp_path: Path) -> None:
    with SimulatedWorker(tmp_path / "state", {"fail": [SOON, SOON + 20]}) as worker:
        status = worker.until_state("Serving")
        with Wire(port(status)) as wire:
            for _ in range(2):
                assert asked_until(wire, 500) == {200, 500}
                assert wire.ask(double_request()).status == 200
        assert "Rebuilding" not in reasons(worker.call("status"))


def test_a_stepped_clock_changes_no_answer_no_deadline_and_no_figure(tmp_path: Path) -> None:
    with SimulatedWorker(tmp_path / "state") as worker:
        status = worker.until_state("Serving")
        with Wire(port(status)) as wire:
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                assert wire.ask(double_request("X-Orch-Timeout-Ms: 5000")).status == 200
                worker.process.send_signal(number)
                answers = [wire.ask(double_request(timeout_us=5_000_000)).status for _ in range(50)]
                assert answers == [200] * 50
        after = worker.until_state("Serving")
        (model,) = after["models"]
        assert model["observed"]["expired_total"] == model["observed"]["failed_total"] == 0
        assert 0 < model["observed"]["latency_ms"]["p99"] < 5000
        assert model["observed"]["window_s"] <= 10
