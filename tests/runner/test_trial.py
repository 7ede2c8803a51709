"""What a trial says of a change: literals in, the whole sentence out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import OrchError
from orchestrator.planner.plan import SloPlan
from orchestrator.runner.trial import TRIAL, Judgement, Load, Subject, excused, judge, limits_of, together, unfit

SLO = SloPlan(latency_s=0.04, percentile=99, rate_per_s=60)
HELD_BEFORE = Load(10.0, arrivals=550, answered=550, in_slo=549, quantile_s=0.021)


def a_slice(in_slo: int = 55, *, late: int = 0, lost: int = 0, failed: int = 0, seconds: float = 1.0) -> Load:
    """Return a second in which so many requests ended so."""
    answered = in_slo + late
    return Load(seconds, answered + lost + failed, answered, in_slo, lost, failed)


def a_subject(slo: SloPlan | None = SLO, before: Load | None = HELD_BEFORE, **over: object) -> Subject:
    return Subject("detector", slo, **({"service_s": 0.012, "before": before} | over))  # type: ignore[arg-type]


def said(subject: Subject, *slices: Load, quantile_s: float | None = 0.021, healthy: bool = True) -> Judgement | None:
    return judge(subject, slices, TRIAL, healthy=healthy, quantile_s=quantile_s)


def good(text: str) -> Judgement:
    return Judgement("detector", good=True, text=text)


def bad(text: str) -> Judgement:
    return Judgement("detector", good=False, text=text)


def test_a_change_that_holds_its_slo_stays_after_two_slices() -> None:
    assert said(a_subject(), a_slice()) is None
    assert said(a_subject(), a_slice(), a_slice()) == good("p99 21 ms of 40 ms in 2.0 s under 55/s")


def test_a_change_that_answers_late_is_refused_with_what_it_did_and_what_was_before() -> None:
    slow = a_slice(35, late=20)
    assert said(a_subject(), slow, slow, quantile_s=0.061) == bad(
        "p99 61 ms over the SLO of 40 ms in 2.0 s under 55/s; the revision before held it"
    )


def test_a_change_that_refuses_what_was_answered_before_is_refused() -> None:
    full = a_slice(40, lost=15)
    assert said(a_subject(), full, full) == bad(
        "30 of 110 requests refused or late, where the SLO allows 1 %, in 2.0 s under 55/s; the revision before held it"
    )


def test_what_nobody_asked_before_is_said_so() -> None:
    slow = a_slice(35, late=20)
    idle = said(a_subject(before=Load(10.0)), slow, slow, quantile_s=0.061)
    assert idle is not None
    assert idle.text.endswith("; nobody asked the revision before")
    new = said(a_subject(before=None), slow, slow, quantile_s=0.061)
    assert new is not None
    assert new.text.endswith("; it is new")


def test_one_hiccup_is_looked_at_longer_and_forgiven() -> None:
    hiccup, fine = a_slice(45, late=10), a_slice()
    assert said(a_subject(), hiccup, fine) is None
    assert said(a_subject(), hiccup, fine, fine) == good(
        "p99 21 ms of 40 ms in 3.0 s under 55/s; 6.06 % of the requests refused or late, 0.182 % before"
    )


def test_a_queue_that_grows_is_seen_later() -> None:
    late = a_slice(20, late=35)
    assert said(a_subject(), a_slice(), late) is None
    refused = said(a_subject(), a_slice(), late, late, quantile_s=0.3)
    assert refused is not None
    assert not refused.good


def test_a_trial_that_stays_undecided_ends_with_what_was_so_most_of_the_time() -> None:
    late, fine = a_slice(20, late=35), a_slice()
    assert said(a_subject(), fine, late, fine, late) is None
    kept = said(a_subject(), fine, late, fine, late, fine)
    refused = said(a_subject(), late, fine, late, fine, late)
    assert (kept is not None and kept.good, refused is not None and refused.good) == (True, False)


def test_a_change_that_is_no_worse_on_an_overloaded_machine_stays_and_the_reason_is_told() -> None:
    before = Load(10.0, arrivals=1000, answered=700, in_slo=700, lost=300)
    full = a_slice(65, lost=35)
    assert said(a_subject(before=before), full, full) == good(
        "p99 21 ms of 40 ms in 2.0 s under 100/s; 35 % of the requests refused or late, 30 % before"
    )


def test_a_change_that_makes_an_overload_worse_is_refused() -> None:
    before = Load(10.0, arrivals=1000, answered=900, in_slo=900, lost=100)
    full = a_slice(50, lost=50)
    refused = said(a_subject(before=before), full, full)
    assert refused is not None
    assert refused.text.endswith("under 100/s; the revision before missed it for 10 % of them")


def test_a_change_that_answers_fewer_in_time_is_refused_though_those_who_come_back_at_once_fill_any_pool() -> None:
    before = Load(10.0, arrivals=7000, answered=900, in_slo=900, lost=6100)
    storm = a_slice(30, lost=670)
    refused = said(a_subject(before=before), storm, storm, quantile_s=0.05)
    assert refused == bad(
        "p99 50 ms over the SLO of 40 ms in 2.0 s under 700/s; the revision before missed it for 87.1 % of them"
    )
    as_many = a_slice(85, lost=615)
    kept = said(a_subject(before=before), as_many, as_many)
    assert kept is not None
    assert kept.good


def test_a_change_is_excused_where_what_served_before_misses_as_much_now() -> None:
    assert excused(a_subject(), a_slice(60, late=50))
    assert excused(a_subject(None), a_slice(60, failed=50))
    assert not excused(a_subject(), a_slice(110))
    assert not excused(a_subject(), a_slice(109, late=1))
    assert not excused(a_subject(before=None), a_slice(60, late=50)), "nothing served before it"
    assert not excused(a_subject(), None)


def test_too_few_answers_are_said_to_be_so_and_the_time_of_one_inference_decides() -> None:
    few = [a_slice(3)] * 5
    assert said(a_subject(), *few[:4]) is None
    assert said(a_subject(), *few) == good(
        "15 answers in 5.0 s are too few to judge p99 by: one inference alone takes 12 ms of 40 ms"
    )


def test_few_answers_that_are_all_late_are_enough_for_a_refusal() -> None:
    slow = a_slice(0, late=3)
    refused = said(a_subject(), slow, slow, quantile_s=0.2)
    assert refused is not None
    assert not refused.good


def test_what_nobody_asks_is_not_waited_for() -> None:
    assert said(a_subject(before=Load(10.0))) == good("nobody asks it: one inference alone takes 12 ms of 40 ms")
    assert said(a_subject(None, before=Load(10.0))) == good("nobody asks it")


def test_those_who_asked_before_are_waited_for_and_no_longer_than_the_trial() -> None:
    quiet = a_slice(0)
    assert said(a_subject()) is None
    assert said(a_subject(), quiet) is None
    assert said(a_subject(), quiet, quiet) == good("nobody asked it in 2.0 s: one inference alone takes 12 ms of 40 ms")


def test_one_inference_that_takes_longer_than_the_slo_needs_no_trial() -> None:
    assert unfit(a_subject(service_s=0.0612)) == bad("one inference alone takes 61.2 ms, longer than the SLO of 40 ms")
    assert unfit(a_subject()) is None
    assert unfit(a_subject(None, service_s=9.0)) is None


def test_what_did_not_fit_before_either_is_no_fault_of_the_change() -> None:
    assert unfit(a_subject(service_s=0.06, before=Load(10.0, fitted=False))) is None


def test_a_model_without_an_slo_has_to_answer_a_few_requests() -> None:
    quick = a_slice(5, seconds=0.05)
    assert said(a_subject(None), quick) is None
    assert said(a_subject(None), quick, quick) == good("10 answered, 0 failed")


def test_real_requests_that_fail_end_the_trial_at_once() -> None:
    assert said(a_subject(None), a_slice(8, failed=2, seconds=0.05)) == bad(
        "2 of 10 requests failed in 0.1 s; before 0 of 550"
    )
    assert said(a_subject(), a_slice(0, failed=1)) is None, "one is an accident"


def test_requests_that_failed_before_too_are_no_fault_of_the_change() -> None:
    before = Load(10.0, arrivals=100, answered=80, in_slo=80, failed=20)
    fine = said(a_subject(None, before=before), a_slice(8, failed=2))
    assert fine is not None
    assert fine.good


def test_a_pool_that_fails_or_hangs_is_refused_whatever_it_has_answered() -> None:
    assert said(a_subject(), healthy=False) == bad("its inferences fail or hang under its load")


def test_a_neighbour_that_suffers_is_named_as_unchanged() -> None:
    slow = a_slice(35, late=20)
    refused = said(a_subject(changed=False), slow, slow, quantile_s=0.061)
    assert refused is not None
    assert "under 55/s, although only its neighbours changed; " in refused.text


@pytest.mark.parametrize(
    ("text", "seconds", "longest"), [(None, 2.0, 5.0), ("", 2.0, 5.0), ("0", 0.0, 0.0), ("0.4", 0.4, 1.0)]
)
def test_the_environment_says_how_long_a_trial_takes(text: str | None, seconds: float, longest: float) -> None:
    limits = limits_of(text)
    assert (limits.seconds, limits.longest_s) == (seconds, pytest.approx(longest))


@pytest.mark.parametrize("text", ["two", "-1", "nan", "61", "inf"])
def test_a_length_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OrchError, match="ORCH_TRIAL_S: must be 0 to 60 seconds"):
        limits_of(text)


counts = st.integers(0, 20) | st.integers(0, 5000)
slices = st.builds(lambda fine, late, lost, failed: a_slice(fine, late=late, lost=lost, failed=failed), *[counts] * 4)
befores = st.none() | slices.map(lambda each: together([each] * 10))


# Seen to fail with ten times as long a trial.
@given(st.lists(slices, min_size=5, max_size=5), befores, st.floats(50, 99.99), st.booleans())
def test_every_trial_ends_when_its_time_is_over(
    seen: list[Load], before: Load | None, percentile: float, without: bool
) -> None:
    slo = None if without else SLO.model_copy(update={"percentile": percentile})
    assert said(a_subject(slo, before), *seen) is not None


# Seen to fail where no slice holds.
@given(st.lists(counts.map(a_slice), min_size=2, max_size=5), befores)
def test_what_answers_all_in_time_is_never_refused(seen: list[Load], before: Load | None) -> None:
    judged = said(a_subject(before=before), *seen)
    assert judged is None or judged.good


# Seen to fail where what was before is left out of account.
@given(slices, st.integers(2, 5))
def test_what_does_as_before_is_never_refused(each: Load, count: int) -> None:
    judged = said(a_subject(before=together([each] * 10)), *[each] * count)
    assert judged is None or judged.good


# Seen to fail where no evidence is enough.
@given(st.integers(20, 5000), st.integers(2, 5))
def test_what_answers_nothing_in_time_where_all_was_in_time_is_always_refused(lost: int, count: int) -> None:
    judged = said(a_subject(), *[a_slice(0, lost=lost)] * count)
    assert judged is not None
    assert not judged.good
