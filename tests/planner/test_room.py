"""What each of several models is said to carry: found by growing its own rate, never a bound taken for a capacity."""

from __future__ import annotations

import pytest

from orchestrator.planner import joint as joint_planning
from orchestrator.planner.joint import plan_together, would_change
from orchestrator.planner.room import capacity_of, ceiling_per_s, room
from tests.builders_decision import a_capacity, a_decision, a_proof
from tests.planner.test_joint import a_closed_member, a_member


@pytest.fixture(autouse=True)
def few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find layouts by a quarter of the requests: here it is only asked what each model carries in them."""
    monkeypatch.setattr(joint_planning, "REQUESTS_LEAST", 250)
    monkeypatch.setattr(joint_planning, "REQUESTS_MOST", 2000)


def test_a_model_far_below_what_it_carries_is_said_to_carry_more_than_the_ladder_tries() -> None:
    """Seen to be 15/s, three times the rate, of a model that carries 700/s: 100/s were then `SATURATED`."""
    joint = plan_together([a_member("quick", 0.0012, 5, 0.05), a_member("slow", 0.02, 10, 0.2)], 2)
    best = joint.layouts[0]
    assert room(joint, best)["quick"] > 500


def test_nobody_is_said_to_miss_first_where_none_was_seen_to_miss() -> None:
    """Seen to name the first model by name at three times the rates, where all still held."""
    joint = plan_together([a_member("quick", 0.0012, 5, 0.05), a_member("slow", 0.02, 10, 0.2)], 2)
    best = joint.layouts[0]
    assert best.slack == 3.0
    assert "misses first" not in would_change(joint, best)
    tight = plan_together([a_member("fast", 0.004, 60, 0.015), a_member("slow", 0.08, 5, 0.8)], 2)
    assert "misses first" in would_change(tight, tight.layouts[0])


def test_no_model_is_planned_nearer_to_its_throughput_than_alone() -> None:
    joint = plan_together([a_member("a", 0.01, 20, 10.0), a_member("b", 0.02, 10, 10.0)], 2)
    best = joint.layouts[0]
    for model, most in room(joint, best).items():
        assert most <= ceiling_per_s(best.options[model])


def test_a_model_carries_less_the_more_its_neighbour_asks() -> None:
    def most(neighbours: float) -> float:
        members = [a_member(name, 0.01, rate, 0.05) for name, rate in (("a", 20.0), ("b", neighbours))]
        joint = plan_together(members, 2)
        layout = next(each for each in joint.layouts if each.kind == "shared")
        return room(joint, layout)["a"]

    assert most(90.0) < most(5.0)


def test_callers_that_wait_carry_what_they_reach() -> None:
    joint = plan_together([a_closed_member("batch", 0.005, 8, 0.5), a_member("live", 0.01, 20, 0.2)], 2)
    best = joint.layouts[0]
    assert room(joint, best)["batch"] == pytest.approx(best.forecasts["batch"].per_s, rel=0.1)


def test_of_callers_too_many_to_be_answered_in_time_those_count_that_are() -> None:
    joint = plan_together(
        [a_closed_member("batch", 0.002, 12, 0.01), a_member("live", 0.004, 50, 0.04)], 2, disturbed=True
    )
    most = room(joint, joint.layouts[0])["batch"]
    assert 0 < most < 1000


@pytest.mark.parametrize("held", [0.0, 20.0, 60.0])
@pytest.mark.parametrize("per_s", [10.0, 40.0, 90.0])
def test_the_capacity_lies_in_its_interval_which_ends_at_what_was_proved(per_s: float, held: float) -> None:
    """Seen to be 50/s (60 to 60) where a proof held more than was predicted."""
    alone = a_decision(capacity=a_capacity(50.0))
    found = capacity_of(per_s, alone, a_proof(rate_per_s=held, verdict="verified") if held else None)
    assert max(held, 0.0) <= found.low_per_s <= found.per_s <= found.high_per_s
    assert found.per_s == max(held, min(per_s, 50.0)), "no more than alone, no less than proved"
