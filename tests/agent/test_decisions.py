"""What the agent decides, as values: steps, prunings, restarts, and how a deployment is called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent import status
from orchestrator.agent.decisions import Step, decide, overlap, to_prune
from orchestrator.agent.planning import Wanted, read, together
from orchestrator.agent.restart import DELAY_MAX_S, HEALTHY_S, Deaths, Patience, Silence, Stage, UnitState, pause_s
from orchestrator.agent.status import WorkerView
from orchestrator.agent.store import DeploymentRecord, Origin, Revision
from orchestrator.planner.diff import diff
from orchestrator.planner.plan import DeploymentPlan, EndpointPlan, ModelPlan, QueuePlan
from orchestrator.telemetry import snapshot

NOW = 1_800_000_000.0


def a_plan(*, http: str = "127.0.0.1:1", limit: int = 1, streams: str = "1") -> DeploymentPlan:
    model = ModelPlan(
        name="m",
        version="1",
        source="/m.onnx",
        sha256="",
        requested="CPU",
        device="CPU",
        expression="explicit",
        properties={"NUM_STREAMS": streams},
        queue=QueuePlan(limit=limit, timeout_s=1.0, memory_bytes=1),
    )
    return DeploymentPlan(name="shop", endpoint=EndpointPlan(http=http, grpc=None), cpus=1, models=(model,))


def a_record(
    name: str = "shop",
    *,
    desired: DeploymentPlan | None = None,
    applied: DeploymentPlan | None = None,
    path: str = "/d/shop.yaml",
) -> DeploymentRecord:
    origin = Origin("", path, str(Path(path).parent), {})
    return DeploymentRecord(name, origin, 1, desired or a_plan(), applied, 1, (), NOW)


def a_view(**more: Any) -> WorkerView:
    answer = {"ready": True, "state": "Serving", "message": "", "models": [], "plan_digest": a_plan().digest()}
    values = {"pid": 7, "restarts": 0, "started": NOW, "state": UnitState.RUNNING, "message": "", "answer": answer}
    return WorkerView(**{**values, **more})


@pytest.mark.parametrize(
    ("desired", "step"),
    [
        (a_plan(), Step.NOTHING),
        (a_plan(limit=2), Step.UPDATE),
        (a_plan(streams="2"), Step.UPDATE),
        (a_plan(http="127.0.0.1:2"), Step.REPLACE),
        (a_plan().model_copy(update={"cores": (0,)}), Step.REPLACE),
    ],
)
def test_a_serving_worker_is_changed_in_place_unless_its_process_must_differ(
    desired: DeploymentPlan, step: Step
) -> None:
    record = a_record(applied=a_plan())
    assert decide(record, True, diff(record.applied, desired)) is step


def test_what_does_not_serve_is_created() -> None:
    assert decide(None, False, diff(None, a_plan())) is Step.CREATE
    assert decide(a_record(applied=a_plan()), False, diff(None, a_plan())) is Step.CREATE


def test_going_back_to_the_plan_that_runs_after_a_failed_one_is_recorded() -> None:
    record = a_record(desired=a_plan(limit=9), applied=a_plan())
    assert decide(record, True, diff(record.applied, a_plan())) is Step.UPDATE


def test_prune_spares_files_that_are_still_there_and_other_folders(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"m")
    text = """
apiVersion: orch/v1
kind: Deployment
metadata: {name: kept}
spec: {models: [{name: m, source: m.onnx, device: CPU}]}
"""
    wanted: tuple[Wanted, ...] = read([{"name": "a.yaml", "base": str(tmp_path), "text": text}])
    records = [
        a_record("kept", path=f"{tmp_path}/a.yaml"),
        a_record("dropped", path=f"{tmp_path}/a.yaml"),
        a_record("gone", path=f"{tmp_path}/gone.yaml"),
        a_record("there", path=f"{tmp_path}/there.yaml"),
        a_record("elsewhere", path="/elsewhere/gone.yaml"),
        a_record("typed", path="-"),
    ]
    assert to_prune(records, wanted, lambda path: path.endswith("there.yaml")) == ["dropped", "gone"]


@pytest.mark.parametrize(
    ("wanted", "taken", "fields"),
    [
        (("127.0.0.1:1", "127.0.0.1:2"), ("127.0.0.1:3", "127.0.0.1:4"), []),
        (("127.0.0.1:1", "127.0.0.1:2"), ("127.0.0.1:2", "127.0.0.1:1"), ["http", "grpc"]),
        (("localhost:1", None), ("127.0.0.1:1", None), ["http"]),
        (("127.0.0.1:1", None), ("127.0.0.2:1", None), []),
        (("127.0.0.1:1", None), (None, "0.0.0.0:1"), ["http"]),
        (("127.0.0.1:0", None), ("127.0.0.1:0", None), []),
    ],
)
def test_addresses_clash_by_port_and_host(
    wanted: tuple[str | None, str | None], taken: tuple[str | None, str | None], fields: list[str]
) -> None:
    one, other = (EndpointPlan(http=http, grpc=grpc) for http, grpc in (wanted, taken))
    assert overlap(one, other) == fields


def test_one_plan_is_named_by_its_own_digest_and_several_by_one_in_any_order() -> None:
    one, two = a_plan(), a_plan(limit=2)
    assert together([one]) == one.digest()
    assert together([one, two]) == together([two, one]) != together([one])


def test_restarts_come_at_once_then_after_twice_the_time_each() -> None:
    deaths, delays = Deaths(), []
    for _ in range(9):
        deaths = deaths.after(None)
        delays.append(deaths.delay_s)
    assert delays == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_who_had_come_up_is_started_again_soon_though_it_be_a_crash_loop() -> None:
    deaths = Deaths()
    for _ in range(20):
        deaths = deaths.after(0.5)
        assert deaths.delay_s <= 0.5
    assert deaths.looping


@given(st.lists(st.none() | st.floats(0, 1e6), max_size=200))
def test_delays_are_bounded_and_health_forgives(lives: list[float | None]) -> None:
    # Seen to fail with `min` dropped from the delay, and with the reset dropped from `after`.
    deaths = Deaths()
    for life in lives:
        deaths = deaths.after(life)
        assert 0.0 <= deaths.delay_s <= DELAY_MAX_S
        if life is not None and life >= HEALTHY_S:
            assert (deaths.delay_s, deaths.looping) == (0.0, False)


@pytest.mark.parametrize(
    ("silence_s", "polls", "stage", "age_s", "hung"),
    [
        (15.0, 5, Stage.SERVING, 99.0, True),
        (14.9, 9, Stage.SERVING, 99.0, False),
        (99.0, 4, Stage.SERVING, 99.0, False),  # the agent itself slept
        (99.0, 9, Stage.CHANGING, 999.0, False),
        (120.0, 9, Stage.CHANGING, 999.0, True),
        (599.0, 99, Stage.STARTING, 599.0, False),
        (15.0, 5, Stage.STARTING, 600.0, True),
        (1.0, 1, Stage.STARTING, 999.0, False),
    ],
)
def test_a_worker_hangs_that_was_asked_often_and_long_enough_for_what_it_does(
    silence_s: float, polls: int, stage: Stage, age_s: float, hung: bool
) -> None:
    assert Patience().is_over(Silence(silence_s, polls), stage, age_s) is hung


@pytest.mark.parametrize(("workers", "seconds"), [(0, 2.0), (1, 2.0), (30, 2.0), (60, 4.0), (300, 20.0)])
def test_many_workers_are_looked_at_more_seldom(workers: int, seconds: float) -> None:
    assert pause_s(workers) == seconds


FAILED = Revision("shop", 2, NOW, 2, "", "", "", "failed", "no")


@pytest.mark.parametrize(
    ("revision", "view", "health", "reason"),
    [
        (None, a_view(), "Healthy", "Serving"),
        (FAILED, a_view(), "Degraded", "RevisionFailed"),
        (None, a_view(state=UnitState.FAILED, pid=None, answer=None), "Degraded", "CannotRun"),
        (None, a_view(state=UnitState.CRASH_LOOP), "Degraded", "CrashLoop"),
        (None, a_view(state=UnitState.BACKOFF, pid=None, answer=None), "Progressing", "WorkerDied"),
        (FAILED, a_view(state=UnitState.MISSING, pid=None, answer=None), "Missing", "NoWorker"),
        (None, a_view(answer=None), "Progressing", "Starting"),
        (None, a_view(answer=None, silence="no answer"), "Degraded", "NoAnswer"),
    ],
)
def test_health_names_the_worst_with_its_reason(
    revision: Revision | None, view: WorkerView, health: str, reason: str
) -> None:
    verdict = status.judge(revision, view)
    assert (verdict.health, verdict.reason) == (health, reason)


@pytest.mark.parametrize(
    "model",
    [
        {"name": "m", "state": "Failing", "message": "inferences fail or hang"},
        {"name": "m", "state": "Serving", "degraded": "GPU is absent: CPU stands in"},
    ],
)
def test_a_model_that_fails_or_runs_on_its_fallback_makes_the_deployment_degraded(model: dict[str, Any]) -> None:
    answer = {"ready": True, "state": "Serving", "message": "", "models": [model], "plan_digest": a_plan().digest()}
    verdict = status.judge(None, a_view(answer=answer))
    said = model.get("message") or model["degraded"]
    assert verdict == status.Verdict("Degraded", "ModelDegraded", f"m: {said}")


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    record = a_record(applied=a_plan())
    first = status.item(record, None, a_view(), NOW)["conditions"]
    later = replace(record, conditions=tuple(first))
    second = status.item(later, None, a_view(state=UnitState.CRASH_LOOP), NOW + 60)["conditions"]
    times = {one["type"]: (one["status"], one["lastTransitionTime"]) for one in second}
    assert times["Ready"] == ("True", status.rfc3339(NOW))
    assert times["Degraded"] == ("True", status.rfc3339(NOW + 60))


@pytest.mark.parametrize(
    ("drift", "condition"),
    [
        ({"drifted": True, "origin": "host"}, ("True", "m is slowed down by other processes of the host")),
        ({"drifted": True, "origin": "steal"}, ("True", "m is slowed down by the hypervisor")),
        ({"drifted": False, "origin": "none"}, ("False", "no model is known to be slower than it should be")),
        (None, ("False", "no model is known to be slower than it should be")),
    ],
)
def test_a_model_that_is_slowed_down_is_a_condition_and_leaves_the_health_alone(
    drift: dict[str, Any] | None, condition: tuple[str, str]
) -> None:
    model = {"name": "m", "state": "Serving", "drift": drift}
    answer = {"ready": True, "state": "Serving", "message": "", "models": [model], "plan_digest": a_plan().digest()}
    seen = status.item(a_record(applied=a_plan()), None, a_view(answer=answer), NOW)
    drifted = next(each for each in seen["conditions"] if each["type"] == "Drifted")
    assert (drifted["status"], drifted["message"]) == condition
    assert seen["health"] == "Healthy"


def test_every_cause_of_a_drift_has_words() -> None:
    assert set(get_args(snapshot.Origin)) - set(status.SLOWED_BY) == {"none", "demand", "bursts", "slo"}


def test_sync_says_whether_the_wanted_plan_runs() -> None:
    assert status.sync(a_record(), a_view()) == "Synced"
    assert status.sync(a_record(desired=a_plan(limit=2)), a_view()) == "OutOfSync"
    assert status.sync(a_record(), a_view(answer=None)) == "Unknown"
    assert status.sync(a_record(), a_view(answer=None, pid=None)) == "OutOfSync"


def test_models_of_a_silent_worker_are_shown_as_planned() -> None:
    (model,) = status.item(a_record(), None, a_view(answer=None, silence="no answer"), NOW)["models"]
    assert (model["name"], model["state"], model["plan"]["properties"]) == ("m", "Unknown", {"NUM_STREAMS": "1"})
