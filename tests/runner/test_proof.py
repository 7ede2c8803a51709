"""What a proof makes of answers when the generator that asked for them was itself late, or could do no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.planner.capacity import Need
from orchestrator.planner.steps import Verify
from orchestrator.planner.verdict import the_test
from orchestrator.profiling.measurement import Arm
from orchestrator.profiling.wire import LoadReport, Outcome
from orchestrator.runner.proof import GENERATOR, Clock, Seen, note, the_proof, verdict

SLO_S = 0.050
ARM = Arm(name="1 stream x 1 thread", device="CPU", expression="explicit", properties={})
STEP = Verify(ARM, 100.0, Need(SLO_S, 99.0), the_test(99.0, 0.010), seed=1, seconds=10.0, gap_s=0.2)


def heard(latency_s: float, late_s: float, *, status: int = 200, blocks: int = 3, each: int = 70) -> Seen:
    """Return what is seen of blocks of such answers, a second between two requests."""
    report = LoadReport(
        sent=each,
        answered=each,
        refused=0,
        expired=0,
        failed=0,
        seconds=1.0,
        cpu=0.1,
        late_sends=each if late_s else 0,
        latest_send_s=late_s,
        late_wakes=each if late_s else 0,
        connections=1,
    )
    seen = Seen()
    for block in range(blocks):
        for number in range(each):
            outcome = Outcome(float(number), latency_s, status, late_s)
            note(STEP.test, SLO_S, outcome, Clock(block, 100.0 * block), seen)
        seen.reports.append(report)
    return seen


def test_a_yes_in_spite_of_a_late_generator_is_a_yes() -> None:
    assert verdict(STEP.test, heard(0.040, 0.010)) == "verified"
    assert the_proof(STEP, heard(0.040, 0.010), "decided").verdict == "verified"


def test_a_no_that_only_the_generators_lateness_makes_is_none() -> None:
    seen = heard(0.055, 0.010)
    assert verdict(STEP.test, seen) is None
    proof = the_proof(STEP, seen, "the budget is spent")
    assert proof.verdict == "unverified"
    assert proof.reason.startswith(f"{GENERATOR} (210 of 210 requests were sent late)")


def test_a_no_that_stands_without_the_generators_lateness_is_a_no() -> None:
    seen = heard(0.065, 0.010)
    assert verdict(STEP.test, seen) == "rejected"
    assert the_proof(STEP, seen, "decided").verdict == "rejected"


@pytest.mark.parametrize("status", [503, 504, 0])
def test_a_refusal_is_a_miss_however_late_it_was_asked_for(status: int) -> None:
    assert verdict(STEP.test, heard(0.020, 0.015, status=status)) == "rejected"


def test_a_generator_that_could_do_no_more_proves_nothing() -> None:
    seen = heard(0.020, 0.0)
    assert the_proof(STEP, seen, f"{GENERATOR} (the generator used 0.95 of one core)").verdict == "unverified"


@pytest.mark.parametrize(
    ("asked_per_s", "verdict_then", "said"),
    [
        (60.0, "verified", "0 misses in 210 requests, 1 % may miss"),
        (72.0, "unverified", "the callers, who wait for their answers, reach 70/s of 72/s"),
        (200.0, "rejected", "the callers, who wait for their answers, reach 70/s of 200/s"),
    ],
)
def test_callers_that_wait_must_reach_the_rate(asked_per_s: float, verdict_then: str, said: str) -> None:
    """Seen to call 20000/s verified of one caller that reached 3100/s, as no answer was late."""
    step = replace(STEP, need=Need(SLO_S, 99.0, "closed", callers=1), rate_per_s=asked_per_s, least_per_s=asked_per_s)
    proof = the_proof(step, heard(0.010, 0.0), "decided")
    assert (proof.verdict, proof.reason, proof.rate_per_s) == (verdict_then, said, pytest.approx(70))
