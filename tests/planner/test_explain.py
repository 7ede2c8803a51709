"""The explanation says what was chosen, by how much, what was proven, and what would change it; nothing unmeasured."""

from __future__ import annotations

import pytest

from orchestrator.planner.decision import Capacity, Rejected
from orchestrator.planner.explain import UNTRIED, duration, explain, figure, rate
from orchestrator.planner.lock import settled
from orchestrator.planner.report import Planned
from orchestrator.profiling.measurement import Host
from tests.builders_decision import (
    a_capacity,
    a_decision,
    a_hint,
    a_hint_decision,
    a_proof,
    a_read_back,
    a_rejected,
    an_arm,
    an_infeasible_decision,
    an_slo,
    planned_examples,
)


def test_the_servers_own_share_of_the_cores_is_said_where_it_is_much() -> None:
    capacity = Capacity(per_s=700.0, low_per_s=650.0, high_per_s=750.0)
    said = explain(a_decision(capacity=capacity, front_end_s=0.00028), an_slo(), 25.0, 2)
    share = "10 % of the 2 cores at 700/s"
    assert f"The server itself needs 280 us of a core for each request, {share}; the prediction counts it." in said
    assert not any("server itself" in sentence for sentence in explain(a_decision(), an_slo(), 25.0, 2))


def test_a_verified_decision_is_explained_from_choice_to_what_would_change_it() -> None:
    assert explain(a_decision(), an_slo(), 25.0, 2) == (
        "2 streams x 1 thread on CPU, chosen of 5 arms measured in 38 s: predicted to carry 38.4/s (36.5 to 40.3)"
        " with 99 % of the answers within 200 ms.",
        "2 threads run one inference only 1.79 times as fast as one; about 1.96 times would be needed for"
        " 1 stream x 2 threads to carry as much.",
        "The next best, 1 stream x 2 threads, is predicted to carry 35.2/s (33.4 to 37), 8 % less.",
        "A batch of 4 gives 1.04 times the rows a second of single rows and was not taken.",
        "Verified: at 31.2/s (1.25 times the 25/s asked for), 0 of 299 requests missed 200 ms in an open loop (poisson)"
        " through the served path; median 56.4 ms, p99 102 ms.",
        "The floor here is 25.3 ms: the lowest p99 of any arm without load.",
        "Would change: a rate above 38.4/s (above 31.2/s unproven), an SLO below 25.3 ms, another number of cores than"
        " 2, or another load beside it.",
    )


def test_an_infeasible_latency_names_the_floor_and_what_would_help() -> None:
    assert explain(an_infeasible_decision(), an_slo(0.01), 25.0, 2) == (
        "1 stream x 2 threads on CPU comes nearest of 2 arms measured.",
        "2 threads run one inference 1.82 times as fast as one while all streams are busy.",
        "Infeasible: no arm answers within 10 ms at p99, even unloaded.",
        "The floor here is 25.3 ms: the lowest p99 of any arm without load.",
        "Would change: an SLO above 25.3 ms, another number of cores than 2, or another load beside it.",
    )


def test_an_infeasible_rate_names_the_most_that_is_carried() -> None:
    said = explain(a_decision(verdict="infeasible", proof=None), an_slo(rate_per_s=100.0), 100.0, 2)
    assert (
        "Infeasible: 100/s was asked for, and the most that any arm is predicted to carry within 200 ms is 38.4/s."
        in said
    )
    assert said[-1].startswith("Would change: a rate below 38.4/s, a longer latency,")


def test_a_hint_without_a_measurement_claims_nothing() -> None:
    assert explain(a_hint_decision(), None, None, 2) == (
        "THROUGHPUT on CPU, as OpenVINO's hint has it: nothing was measured.",
        "Not verified: its latency and capacity on this machine are unknown.",
        "Would change: a measurement (`planning: {mode: measure}` and an `slo`), or the arm by hand.",
    )


def test_a_rejected_run_is_told_with_its_misses_and_that_the_prediction_was_too_hopeful() -> None:
    proof = a_proof(verdict="rejected", misses=9, sent=120, reason="9 misses")
    said = explain(a_decision(verdict="rejected", proof=proof, inflation=1.2), an_slo(), 25.0, 2)
    (sentence,) = [each for each in said if each.startswith("Rejected")]
    assert "9 of 120 requests missed 200 ms" in sentence
    assert sentence.endswith("The prediction was too hopeful.")
    foreseen = explain(a_decision(verdict="rejected", proof=proof), an_slo(), 25.0, 2)
    assert not any("too hopeful" in each for each in foreseen)


@pytest.mark.parametrize(
    ("slo_rate", "proof", "reason"),
    [
        (None, None, "no rate was asked for, so none was proven; the capacity is a prediction."),
        (25.0, None, "no open-loop run was made; the capacity is a prediction."),
        (
            25.0,
            a_proof(verdict="unverified", reason="the budget was spent after 40 requests.", sent=40),
            "the budget was spent after 40 requests. The run was at 31.2/s",
        ),
    ],
)
def test_what_is_not_verified_says_why(slo_rate: float | None, proof: object, reason: str) -> None:
    said = explain(a_decision(verdict="unverified", proof=proof), an_slo(rate_per_s=slo_rate), slo_rate, 2)
    assert any(each.startswith(f"Not verified: {reason}") for each in said)


def test_without_an_slo_there_is_a_throughput_and_no_promise() -> None:
    said = explain(a_decision(capacity=None, proof=None, verdict="unverified", rejected=()), None, None, 2)
    assert said[0].endswith("50.1 rows/s with all its requests busy, 39.5 ms (p99 43.2 ms) each.")
    assert "Not verified: without an SLO there is nothing to prove." in said
    assert not any("predicted" in each for each in said)


def test_a_tie_is_called_too_small_to_tell() -> None:
    tie = a_rejected(
        an_arm(1, 2), 38.0, reason="holds 38/s, as good as 2 streams x 1 thread with 38/s, which is simpler"
    )
    said = explain(a_decision(rejected=(tie,)), an_slo(), 25.0, 2)
    assert any(each.endswith("too close for this measurement to tell apart, and is less simple.") for each in said)


def test_what_a_run_has_disproved_of_the_server_is_not_said() -> None:
    """Seen to say that the server needs 113 % of the cores at a rate that it had just carried."""
    held = a_decision(capacity=a_capacity(15_000.0), front_end_s=150e-6)
    assert not any("The server itself" in each for each in explain(held, an_slo(), 25.0, 2))
    predicted = a_decision(capacity=a_capacity(6600.0), front_end_s=150e-6)
    assert any("The server itself needs 150 us" in each for each in explain(predicted, an_slo(), 25.0, 2))


def test_latencies_of_a_run_with_refusals_are_those_of_the_answered() -> None:
    """Seen to say that 294 of 450 missed 60 ms, with a median of 30 ms."""
    said = explain(a_decision(proof=a_proof(sent=450, answered=156, misses=294)), an_slo(), 25.0, 2)
    assert any("; of the 156 that were answered median " in each for each in said)


def test_a_difference_that_the_samples_leave_open_is_said_to_be_open() -> None:
    """Seen to call 584/s (178 to 6660) 89 % less than 5420/s."""
    wide = a_rejected(an_arm(1, 2), 20.0, reason="holds 20/s").model_copy(
        update={"capacity": Capacity(per_s=20.0, low_per_s=5.0, high_per_s=60.0)}
    )
    said = explain(a_decision(rejected=(wide,)), an_slo(), 25.0, 2)
    assert any(each.endswith("% less, though its interval reaches as far.") for each in said)


def test_what_a_run_has_shown_is_not_called_a_prediction() -> None:
    """Seen with "predicted to carry 11100/s (11100 to 11100)", which was what the callers had reached."""
    shown = a_decision(capacity=a_capacity(31.25), proof=a_proof(rate_per_s=45.0))
    shown = shown.model_copy(update={"capacity": Capacity(per_s=45.0, low_per_s=45.0, high_per_s=45.0)})
    said = explain(shown, an_slo(), 25.0, 2)
    assert ": carried 45/s with 99 % of the answers within 200 ms." in said[0]
    assert any(each.endswith("and was not run.") for each in said)
    assert "a rate above 45/s, an SLO below" in said[-1]


def test_what_there_was_no_time_for_is_said() -> None:
    """Seen with "chosen of 1 arm measured", as if there were no other."""
    untried = Rejected(arm=an_arm(1, 2), reason=f"{UNTRIED} has no room for it")
    said = explain(a_decision(rejected=(untried,)), an_slo(), 25.0, 2)
    assert "chosen of 1 arm measured in 38 s, with no time for 1 more: predicted" in said[0]


def test_no_threads_help_more_than_there_are_more_of_them() -> None:
    """Seen with 2 threads that ran one inference 2.78 times as fast as one: it was another moment's."""
    chosen = a_hint("LATENCY")
    for service_s, is_said in ((0.075, True), (0.12, False)):
        other = a_rejected(a_hint("THROUGHPUT"), 20.0, streams=2, service_s=service_s)
        decision = a_decision(arm=chosen, actual=a_read_back(chosen), rejected=(other,))
        said = " ".join(explain(decision, an_slo(), 25.0, 2))
        assert ("threads run one inference" in said) is is_said


def test_callers_that_wait_are_no_open_loop() -> None:
    proof = a_proof(arrivals="closed")
    said = explain(a_decision(proof=proof), an_slo(), 25.0, 2)
    assert any("by callers that wait for their answers, through the served path" in each for each in said)
    assert not any("open loop" in each for each in said)
    short = a_proof(arrivals="closed", rate_per_s=12.0, verdict="rejected", reason="the callers reach 12/s of 25/s")
    said = explain(a_decision(proof=short, verdict="rejected"), an_slo(), 25.0, 2)
    assert "Rejected: the callers reach 12/s of 25/s." in said


def test_what_was_refused_by_a_run_is_no_tie_however_close_the_prediction() -> None:
    """Seen to say "too close to tell apart" of an arm that an open-loop run had rejected."""
    lost = a_rejected(an_arm(1, 2), 38.0, reason="did not hold 31/s when served: 9 misses in 80 requests")
    said = explain(a_decision(rejected=(lost,)), an_slo(), 25.0, 2)
    assert any("but was not taken: did not hold 31/s when served: 9 misses in 80 requests." in each for each in said)
    assert not any("too close" in each for each in said)


def test_hints_are_compared_by_what_openvino_made_of_them() -> None:
    chosen = a_hint("THROUGHPUT")
    latency = a_rejected(a_hint(), 35.2, streams=1)
    said = explain(a_decision(arm=chosen, actual=a_read_back(an_arm()), rejected=(latency,)), an_slo(), 25.0, 2)
    assert said[1].startswith("2 threads run one inference only 1.79 times as fast as one; about 1.96 times")
    assert said[1].endswith("needed for LATENCY to carry as much.")


def test_the_reason_of_the_search_is_told_where_nothing_was_run() -> None:
    decision = a_decision(verdict="unverified", proof=None, reason="planned by prediction, not proved")
    said = explain(decision, an_slo(), 25.0, 2)
    assert "Not verified: planned by prediction, not proved; the capacity is a prediction." in said


def test_a_lock_tells_of_the_proof_what_its_samples_told() -> None:
    fresh, kept = a_decision(), settled(a_decision())
    assert kept.proof is not None
    assert not kept.proof.latency_s
    told = [next(each for each in explain(one, an_slo(), 25.0, 2) if "Verified" in each) for one in (fresh, kept)]
    assert told[0] == told[1]


def test_a_capacity_that_a_run_corrected_says_so() -> None:
    said = explain(a_decision(inflation=1.3), an_slo(), 25.0, 2)
    assert said[0].endswith("within 200 ms, now that a run showed it to take 1.30 times as long.")


def test_a_capacity_that_counts_how_long_answers_take_says_so() -> None:
    said = explain(a_decision(stretch=1.7), an_slo(), 25.0, 2)
    assert "counting that answers took 1.7 times as long in a run as inferences explain" in said[0]
    assert "explain" not in explain(a_decision(), an_slo(), 25.0, 2)[0]


def test_no_rate_is_advised_where_none_is_held() -> None:
    nothing = Capacity(per_s=0.0, low_per_s=0.0, high_per_s=0.0)
    for verdict in ("rejected", "unverified"):
        said = explain(a_decision(verdict=verdict, capacity=nothing), an_slo(), 25.0, 2)
        assert "0/s" not in said[-1]


def test_a_speed_up_that_no_threads_could_reach_is_not_asked_for() -> None:
    said = explain(a_decision(capacity=a_capacity(45.0)), an_slo(), 25.0, 2)
    assert "even 2 times would not let 1 stream x 2 threads carry as much." in said[1]


def test_busy_neighbours_during_the_run_are_named() -> None:
    noisy = a_proof(host=Host(foreign=0.21, steal=0.01))
    said = explain(a_decision(proof=noisy), an_slo(), 25.0, 2)
    assert any("other processes took 21 % and the hypervisor took 1 % of the CPU time" in each for each in said)


def test_every_explanation_ends_with_what_would_change_it_and_is_the_same_each_time() -> None:
    for each in planned_examples():
        if not isinstance(each, Planned):
            continue
        asked = each.slo.rate_per_s if each.slo else None
        first, again = (explain(each.decision, each.slo, asked, each.cpus) for _ in range(2))
        assert first == again
        assert first[-1].startswith("Would change: ")
        assert sum(sentence.startswith("Would change") for sentence in first) == 1
        assert all(sentence.endswith(".") for sentence in first)


def test_another_number_of_cores_matters_only_where_cores_do_the_work() -> None:
    gpu = an_arm(device="GPU")
    said = explain(a_decision(arm=gpu, rejected=()), an_slo(), 25.0, 2)
    assert "cores" not in said[-1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (rate(0.5), "0.5/s"),
        (rate(99.96), "100/s"),
        (rate(12345.6), "12300/s"),
        (duration(0.0004), "400 us"),
        (duration(0.0178), "17.8 ms"),
        (duration(0.9999), "1 s"),
        (duration(1.254), "1.25 s"),
        (figure(1234.5), "1230"),
    ],
)
def test_figures_have_three_digits_and_never_a_power_of_ten(text: str, shown: str) -> None:
    assert text == shown
