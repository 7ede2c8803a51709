"""Cores among deployments and threads among models."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.layout import ThreadClaim, allocate_cores, share_threads


def test_claims_get_cores_of_their_own_from_the_lowest_on() -> None:
    assert allocate_cores(range(8), {"b": 2, "a": 3}, {}) == {"a": (0, 1, 2), "b": (3, 4)}


def test_a_new_claim_moves_nobody() -> None:
    assert allocate_cores(range(8), {"a": 2, "b": 2}, {"b": (0, 1)}) == {"a": (2, 3), "b": (0, 1)}


def test_a_changed_claim_or_a_lost_core_is_placed_anew() -> None:
    assert allocate_cores(range(8), {"a": 3}, {"a": (0, 1)}) == {"a": (0, 1, 2)}
    assert allocate_cores([0, 2, 4, 6], {"a": 2}, {"a": (4, 5)}) == {"a": (0, 2)}


def test_two_that_hold_the_same_cores_are_parted() -> None:
    assert allocate_cores(range(4), {"a": 2, "b": 1}, {"a": (0, 1), "b": (1,)}) == {"a": (0, 1), "b": (2,)}


def test_who_claims_the_whole_machine_shares_it() -> None:
    assert allocate_cores(range(2), {"a": 2}, {}) == {"a": None}
    assert allocate_cores([0], {"a": 1}, {}) == {"a": None}


def test_who_does_not_fit_shares_while_others_keep_theirs() -> None:
    assert allocate_cores(range(4), {"a": 3, "b": 2}, {}) == {"a": (0, 1, 2), "b": None}


@given(
    st.sets(st.integers(0, 63), min_size=1, max_size=16),
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 8)),
    st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(0, 63), max_size=8).map(tuple)),
)
def test_cores_are_allowed_disjoint_as_many_as_claimed_and_stable(
    allowed: set[int], claims: dict[str, int], keep: dict[str, tuple[int, ...]]
) -> None:
    # Seen to fail when kept cores were not taken out of `free`.
    given_out = allocate_cores(sorted(allowed), claims, keep)
    assert set(given_out) == set(claims)
    owned = [core for cores in given_out.values() if cores for core in cores]
    assert len(owned) == len(set(owned))
    assert set(owned) <= allowed
    assert all(len(cores) == claims[name] for name, cores in given_out.items() if cores)
    again = {name: cores for name, cores in given_out.items() if cores}
    assert allocate_cores(sorted(allowed), claims, again) == given_out


def test_equal_models_share_equally_with_names_deciding_the_odd_one() -> None:
    assert share_threads(5, {"b": ThreadClaim(), "a": ThreadClaim()}) == {"a": 3, "b": 2}


def test_threads_follow_the_weights_but_everyone_gets_one() -> None:
    assert share_threads(8, {"a": ThreadClaim(weight=100.0), "b": ThreadClaim(weight=0.1)}) == {"a": 7, "b": 1}
    assert share_threads(6, {"a": ThreadClaim(weight=2.0), "b": ThreadClaim(weight=1.0)}) == {"a": 4, "b": 2}


def test_exact_claims_are_met_first_and_streams_are_a_floor() -> None:
    assert share_threads(8, {"a": ThreadClaim(exact=5), "b": ThreadClaim()}) == {"a": 5, "b": 3}
    assert share_threads(4, {"a": ThreadClaim(least=3), "b": ThreadClaim(weight=9.0)}) == {"a": 3, "b": 1}


def test_more_models_than_cores_get_one_thread_each() -> None:
    assert share_threads(2, {name: ThreadClaim() for name in "abc"}) == {"a": 1, "b": 1, "c": 1}


def test_claims_that_cannot_be_met_are_refused() -> None:
    assert share_threads(2, {"a": ThreadClaim(exact=2), "b": ThreadClaim()}) is None


@given(
    st.integers(1, 64),
    st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=3),
        st.builds(ThreadClaim, weight=st.floats(0.01, 1e4), least=st.integers(1, 4)),
        min_size=1,
        max_size=12,
    ),
)
def test_the_sum_of_threads_fits_or_everyone_has_one(cpus: int, claims: dict[str, ThreadClaim]) -> None:
    # Seen to fail when each model's share was rounded up on its own.
    threads = share_threads(cpus, claims)
    if threads is not None:
        assert sum(threads.values()) == cpus or set(threads.values()) == {1}
        assert all(threads[name] >= claims[name].least for name in claims)
