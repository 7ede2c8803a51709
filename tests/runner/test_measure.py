"""Measuring a real, tiny model end to end: what is decided, what is kept, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks import topologies
from orchestrator.backend.probe import ModelQuery, probe
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import ModelSpec
from orchestrator.planner.capacity import Need
from orchestrator.planner.steps import Verify
from orchestrator.planner.verdict import the_test
from orchestrator.profiling.children import environment
from orchestrator.profiling.measurement import Arm, ArmProfile, Profile, Proof, ReadBack
from orchestrator.profiling.store import ProfileStore
from orchestrator.runner.measure import Around, Subject, measure, plan_by_rule
from orchestrator.runner.proof import Stage, prove, with_arm

ARM = Arm(
    name="2 streams x 1 thread",
    device="CPU",
    expression="explicit",
    properties={"NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "2", "ENABLE_CPU_PINNING": "NO"},
    threads=2,
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inventory, ModelInfo]:
    path = topologies.save("tiny_mlp", tmp_path_factory.mktemp("models"))
    inventory, (info,) = probe([ModelQuery(path=str(path))])
    assert isinstance(info, ModelInfo)
    return inventory, info


def a_subject(found: tuple[Inventory, ModelInfo], **over: object) -> Subject:
    inventory, info = found
    slo = {"latency": "500ms", "rate": "100/s"}
    spec = ModelSpec.model_validate({"name": "tiny", "source": info.path, "slo": slo, **over.pop("spec", {})})
    fields = {"spec": spec, "info": info, "inventory": inventory, "cpus": 2, "budget_s": 15.0}
    return Subject(**{**fields, **over})


def processes() -> list[str]:
    """Return the command lines of the measuring processes that we have started and that still run."""
    children = psutil.Process().children(recursive=True)
    lines = [" ".join(child.cmdline()) for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [line for line in lines if "orchestrator." in line]


class Telling:
    """Hears the progress, and acts at the first line that holds a word."""

    def __init__(self, word: str = "", act: Callable[[], None] = lambda: None) -> None:
        self.lines: list[str] = []
        self.seen = False
        self._word = word
        self._act = act

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self._word and self._word in line and not self.seen:
            self.seen = True
            self._act()


def test_a_model_is_measured_decided_stored_and_not_measured_again(
    found: tuple[Inventory, ModelInfo], tmp_path: Path
) -> None:
    store, telling = ProfileStore(tmp_path / "profiles"), Telling()
    decision = measure(a_subject(found), Around(store, telling, lock=tmp_path / "lock"))
    assert decision.model_sha256 == found[1].sha256
    assert decision.capacity is not None
    assert decision.capacity.per_s > 0
    assert decision.verdict in {"verified", "unverified", "rejected"}, "what it is depends on the neighbours"
    assert 1 <= decision.compiled <= 5
    assert any("compiling" in line for line in telling.lines)
    assert processes() == []

    again = Telling()
    predicted = measure(a_subject(found, predict=True), Around(store, again, lock=tmp_path / "lock"))
    assert not any("compiling" in line for line in again.lines)
    assert predicted.verdict == "unverified"


@pytest.mark.parametrize("word", ["compiling", "in flight", "proving"])
def test_a_cancelled_measurement_leaves_no_process(
    found: tuple[Inventory, ModelInfo], tmp_path: Path, word: str
) -> None:
    telling = Telling(word)
    around = Around(None, telling, lambda: telling.seen, lock=tmp_path / "lock")
    with pytest.raises(OrchError) as raised:
        measure(a_subject(found, budget_s=15.0), around)
    assert raised.value.kind is Kind.CANCELLED
    assert processes() == []


def test_an_interrupt_leaves_no_process_and_keeps_what_was_measured(
    found: tuple[Inventory, ModelInfo], tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    store, subject = ProfileStore(tmp_path / "profiles"), a_subject(found)
    with pytest.raises(KeyboardInterrupt):
        measure(subject, Around(store, Telling("2 in flight", interrupt), lock=tmp_path / "lock"))
    assert processes() == []
    assert store.load(subject.key) is not None


def test_an_interrupt_leaves_a_whole_profile_as_it_was(found: tuple[Inventory, ModelInfo], tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    store, subject = ProfileStore(tmp_path / "profiles"), a_subject(found)
    whole = Profile(
        model_sha256=subject.key.model_sha256,
        fingerprint=subject.key.fingerprint,
        openvino=subject.key.openvino,
        cpus=subject.key.cpus,
        arms=(
            ArmProfile(
                arm=Arm(name="as it was", device="CPU", expression="hint", properties={}),
                actual=ReadBack(properties={}, streams=1, threads=1, requests=1, execution_devices=("CPU",)),
                compile_s=1.0,
            ),
        ),
    )
    store.save(whole)
    with pytest.raises(KeyboardInterrupt):
        measure(subject, Around(store, Telling("2 in flight", interrupt), lock=tmp_path / "lock", fresh=True))
    assert processes() == []
    assert store.load(subject.key) == whole


def test_a_bench_that_crashes_costs_its_arm_only(found: tuple[Inventory, ModelInfo], tmp_path: Path) -> None:
    def crash() -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # one that ended before has no command line any more
                if "orchestrator.profiling.bench" in child.cmdline():
                    os.kill(child.pid, signal.SIGSEGV)

    telling = Telling("in flight", crash)
    decision = measure(a_subject(found, budget_s=10.0, predict=True), Around(None, telling, lock=tmp_path / "lock"))
    assert any("signal 11" in line for line in telling.lines)
    assert "signal 11" in " ".join(each.reason for each in decision.rejected)
    assert processes() == []


# The proof.


def a_step(rate_per_s: float = 100.0, latency_s: float = 1.0, percentile: float = 50.0, **over: object) -> Verify:
    need = Need(latency_s=latency_s, percentile=percentile, timeout_s=latency_s)
    fields = {"arm": ARM, "rate_per_s": rate_per_s, "need": need, "test": the_test(percentile, 0.001)}
    return Verify(**{**fields, "seed": 3, "seconds": 20.0, "gap_s": 0.05, **over})


def a_stage(found: tuple[Inventory, ModelInfo], cancelled: Callable[[], bool] = lambda: False) -> Stage:
    subject = a_subject(found)
    return Stage(plan_by_rule(subject), found[1], None, subject.allowed, Telling(), cancelled)


def proven(found: tuple[Inventory, ModelInfo], step: Verify) -> Proof:
    proof = prove(step, a_stage(found))
    assert processes() == []
    return proof


def test_an_easy_slo_is_verified_in_three_blocks_at_least(found: tuple[Inventory, ModelInfo]) -> None:
    proof = proven(found, a_step())
    assert proof.verdict == "verified", proof.reason
    assert proof.blocks >= 3
    assert proof.sent == proof.answered + proof.refused
    assert len(proof.latency_s) == proof.answered
    assert proof.generator_cpu < 0.8


def test_an_impossible_slo_is_rejected(found: tuple[Inventory, ModelInfo]) -> None:
    proof = proven(found, a_step(latency_s=0.00001))
    assert proof.verdict == "rejected", proof.reason
    assert proof.misses > 0


def test_closed_callers_are_proved_as_well(found: tuple[Inventory, ModelInfo]) -> None:
    need = Need(latency_s=1.0, percentile=50.0, arrivals="closed", callers=3, timeout_s=1.0)
    proof = proven(found, a_step(need=need))
    assert (proof.verdict, proof.arrivals) == ("verified", "closed"), proof.reason


def test_a_spent_budget_proves_nothing(found: tuple[Inventory, ModelInfo]) -> None:
    proof = proven(found, a_step(rate_per_s=1.0, seconds=0.5))
    # On a loaded machine the reason may also be the generator, whose start is half of so short a run.
    assert proof.verdict == "unverified"


def test_an_arm_that_cannot_be_served_says_why(found: tuple[Inventory, ModelInfo]) -> None:
    step = a_step(arm=ARM.model_copy(update={"properties": {"NO_SUCH_PROPERTY": "1"}}))
    with pytest.raises(OrchError, match="NO_SUCH_PROPERTY") as raised:
        prove(step, a_stage(found))
    assert raised.value.kind is Kind.FAILED
    assert processes() == []


def test_the_arm_takes_the_place_of_what_rules_chose(found: tuple[Inventory, ModelInfo]) -> None:
    plan = with_arm(plan_by_rule(a_subject(found)), ARM.model_copy(update={"batch": 4, "requests": 3}))
    (model,) = plan.models
    assert (model.properties, model.batch, model.requests) == (ARM.properties, 4, 3)
    assert model.slo is not None
    assert (plan.endpoint.http, plan.endpoint.grpc) == ("127.0.0.1:0", None)


def test_a_worker_that_is_proved_dies_with_a_planner_that_is_killed(found: tuple[Inventory, ModelInfo]) -> None:
    code = f"""
import os, tempfile
from pathlib import Path
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.runner.proof import Stage, served
plan = DeploymentPlan.model_validate_json({plan_by_rule(a_subject(found)).model_dump_json()!r})
stage = Stage(plan, None, None, (0,), print, lambda: False)
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, served(plan, Path(folder), stage) as server:
    print(server.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environment(), timeout=60, check=False, text=True
    )
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(int(ran.stdout))
        assert select.select([descriptor], [], [], 10.0)[0], "it still runs"
        os.close(descriptor)
