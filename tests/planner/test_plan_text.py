"""Plans and changes as text; whole plans are in the golden files."""

from __future__ import annotations

import pytest

from orchestrator.planner.diff import diff
from orchestrator.planner.resolve import resolve
from orchestrator.planner.text import changes_to_text, plan_to_text, summary
from tests.builders import a_deployment, a_model, a_plan, an_inventory, model_infos
from tests.builders_decision import a_capacity, a_decision


def test_changes_are_a_line_each_with_the_details_of_more_than_one() -> None:
    old = a_plan(a_model("bert"), a_model("resnet50"))
    new = a_plan(a_model("bert", queue={"limit": 128, "timeout": "5s"}), a_model("yolo"))
    assert changes_to_text(diff(old, new)) == (
        "~  bert      update     queue limit derived -> 128 and 1 other change\n"
        "      queue limit derived -> 128\n"
        "      queue timeout 30s -> 5s\n"
        "-  resnet50  delete     the manifest no longer names it\n"
        "+  yolo      create     no pool is running\n"
    )


def test_unchanged_ones_can_be_left_out() -> None:
    assert changes_to_text(diff(a_plan(), a_plan()), unchanged=False) == ""


def test_the_summary_counts_what_happens() -> None:
    old, new = a_plan(a_model("a"), a_model("b")), a_plan(a_model("b"), a_model("c"), endpoint={"http": None})
    assert summary(diff(old, new)) == "1 create, 1 delete, 1 unchanged, a new worker"
    assert summary(()) == "nothing changes"


def test_without_changes_only_the_plan_is_named() -> None:
    plan = a_plan()
    assert plan_to_text(plan).splitlines()[-1] == f"Plan {plan.digest()}."


def test_what_is_as_planned_is_not_to_be_applied() -> None:
    plan = a_plan()
    assert plan_to_text(plan, diff(plan, plan)).splitlines()[-1] == f"Plan {plan.digest()}: 1 unchanged."


def test_what_was_read_back_stands_beside_what_was_planned() -> None:
    plan = a_plan()
    same = {"INFERENCE_NUM_THREADS": "2", "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "2"}
    assert "planned       all 2 properties that can be read back are as planned" in plan_to_text(
        plan, actual={"detector": same}
    )
    other = {**same, "INFERENCE_NUM_THREADS": "1"}
    assert "planned       INFERENCE_NUM_THREADS 2, actual 1" in plan_to_text(plan, actual={"detector": other})


def test_a_long_name_is_never_cut() -> None:
    path = "/" + "x" * 100
    assert f"CACHE_DIR={path}" in plan_to_text(a_plan(a_model(properties={"CACHE_DIR": path})))


def test_a_measured_plan_says_verdict_capacity_why_and_the_proof() -> None:
    deployment = a_deployment(a_model(slo={"latency": "200ms", "rate": "25/s"}))
    decision = a_decision(
        model="detector",
        capacity=a_capacity(41.5),
        service_s=0.0395,
        service_p99_s=0.0432,
        sentences=("Two streams carry 41.5/s.", "Batches do not pay.", "Would change: the SLO."),
        verdict="rejected",
    )
    plan = resolve(deployment, an_inventory(), model_infos(deployment), decisions={"detector": decision})
    text = plan_to_text(plan)
    for line in (
        "  measured      rejected, capacity 41.5/s (39.4/s to 43.6/s), inference 39.5 ms,",
        "  because       measured: Two streams carry 41.5/s.",
        "                measured: Would change: the SLO.",
        "                proof: verified: accepted after 299 requests",
        "  warning       the SLO does not hold at its rate: the open-loop run missed it;",
    ):
        assert line in text.splitlines(), text
    assert "Batches" not in text


@pytest.mark.parametrize(
    ("verdict", "capacity_per_s", "reason", "warning"),
    [
        ("verified", 41.5, "", None),
        ("unverified", 41.5, "", "the SLO was predicted and not proven by an open-loop run"),
        ("unverified", 12.0, "", "the SLO is predicted not to hold at its rate: 12/s are carried, 25/s asked for"),
        ("infeasible", 12.0, "none serves 25/s", "the SLO cannot be held on this machine: none serves 25/s"),
    ],
)
def test_a_plan_warns_of_what_was_not_proven_and_why(
    verdict: str, capacity_per_s: float, reason: str, warning: str | None
) -> None:
    deployment = a_deployment(a_model(slo={"latency": "200ms", "rate": "25/s"}))
    decision = a_decision(model="detector", capacity=a_capacity(capacity_per_s), verdict=verdict, reason=reason)
    plan = resolve(deployment, an_inventory(), model_infos(deployment), decisions={"detector": decision})
    assert [each for each in plan.models[0].warnings if "SLO" in each] == [warning] * (warning is not None)
