"""The decisions about trying again, on a time that is passed in."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.client.retries import (
    CALLS_PER_RETRY,
    RETRIES_AT_START,
    RETRIES_SAVED_MAX,
    TRIES_MAX,
    WINDOW_S,
    Retries,
    Throttle,
)


class Server:
    """Answers so many calls a second of a client that calls `rate` times a second; the rest it refuses."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.reached = 0

    def second(self, retries: Retries, now: float, rate: int) -> tuple[int, int]:
        """Let a second pass; return how many tries reached the server and how many it answered."""
        sent = answered = 0
        for number in range(rate):
            at = now + number / rate
            if not retries.may_send("m", at):
                continue
            sent += 1
            if answered < self.capacity * (number + 1) / rate:
                answered += 1
                retries.answered("m", at)
            else:
                retries.refused("m", at, 0.02)
        return sent, answered


# Seen to fail with a budget that gives a token for each answer to a retry as well.
@given(st.lists(st.booleans(), max_size=400), st.integers(0, 2**32))
def test_retries_are_at_most_a_tenth_of_the_calls_and_two(pattern: list[bool], seed: int) -> None:
    retries, made = Retries(Random(seed)), 0
    for calls, refused in enumerate(pattern, start=1):
        retries.called()
        tries = 1
        while refused and retries.wait_s(0.01, tries, 10.0) is not None:
            tries += 1
            made += 1
        assert tries <= TRIES_MAX
        assert CALLS_PER_RETRY * made <= calls + CALLS_PER_RETRY * RETRIES_AT_START


def test_a_long_calm_saves_no_storm_up() -> None:
    retries = Retries(Random(1))
    for _ in range(100_000):
        retries.called()
    waits = [retries.wait_s(0.01, 1, 10.0) for _ in range(1000)]
    assert sum(wait is not None for wait in waits) == RETRIES_SAVED_MAX


@given(st.floats(0.0, 100.0), st.integers(1, TRIES_MAX - 1), st.floats(0.0, 300.0), st.integers(0, 2**32))
def test_no_wait_is_shorter_than_the_hint_or_longer_than_what_is_left(
    hint_s: float, tries: int, left_s: float, seed: int
) -> None:
    wait_s = Retries(Random(seed)).wait_s(hint_s, tries, left_s)
    assert wait_s is None or hint_s <= wait_s < left_s


def test_waits_of_those_who_were_refused_together_are_spread_over_the_hints_length() -> None:
    waits = sorted(Retries(Random(seed)).wait_s(0.1, 1, 10.0) or 0.0 for seed in range(400))
    assert waits[0] == pytest.approx(0.1, abs=0.002)
    assert waits[200] == pytest.approx(0.15, abs=0.02)
    assert waits[-1] == pytest.approx(0.2, abs=0.002)


def test_what_states_no_time_to_come_back_is_not_tried_again() -> None:
    assert Retries(Random(1)).wait_s(None, 1, 10.0) is None


def test_a_server_that_answers_half_is_sent_everything() -> None:
    retries, server = Retries(Random(3)), Server(capacity=510)
    for second in range(10):
        sent, _ = server.second(retries, float(second), 1000)
        assert sent == 1000


def test_a_server_that_is_ten_times_too_small_is_sent_little_more_than_twice_what_it_takes() -> None:
    retries, server = Retries(Random(3)), Server(capacity=100)
    server.second(retries, 0.0, 1000)
    sent = [server.second(retries, float(second), 1000) for second in range(1, 10)]
    assert all(180 <= each <= 260 for each, _ in sent)
    assert all(answered >= 95 for _, answered in sent)


def test_all_is_sent_again_two_seconds_after_the_overload() -> None:
    retries, server = Retries(Random(3)), Server(capacity=100)
    for second in range(5):
        server.second(retries, float(second), 1000)
    server.second(retries, 5.0, 50)
    server.second(retries, 6.0, 50)
    assert server.second(retries, 5.0 + 2 * WINDOW_S, 50) == (50, 50)


def test_refusals_of_one_model_hold_nothing_back_from_another() -> None:
    retries = Retries(Random(3))
    for _ in range(1000):
        retries.refused("full", 1.0, 0.5)
    assert all(retries.may_send("free", 1.0) for _ in range(1000))
    assert sum(retries.may_send("full", 1.0) for _ in range(1000)) < 50
    assert retries.retry_after_s("full") == 0.5


@given(st.lists(st.tuples(st.floats(0.0, 0.7), st.booleans()), max_size=200))
def test_what_is_held_back_is_a_share_and_forgets_nothing_young(steps: list[tuple[float, bool]]) -> None:
    throttle, now = Throttle(), 0.0
    seen: list[tuple[float, bool]] = []
    for pause, accepted in steps:
        now += pause
        throttle.tried(now, accepted=accepted)
        seen.append((now, accepted))
        share = throttle.held_back(now)
        assert 0.0 <= share < 1.0
        if all(accepted for at, accepted in seen if at > now - WINDOW_S - 0.25):
            assert share == 0.0
