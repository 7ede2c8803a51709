"""What became of the requests of a try decides it, by the test or by a share that leaves no doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orchestrator.planner.bench import Ask, BenchQuestion, GeneratorUse
from orchestrator.planner.bench_tally import Around, Tally
from orchestrator.planner.verdict import the_test

QUESTION = BenchQuestion(latency_s=0.04, percentile=99.0)
ASK = Ask("search", 6000, False, 3.0, 1.0, the_test(99.0, 0.005), 1)
LATE_S, SOON_S = 0.09, 0.01


def tallied(missed: Callable[[int, int], bool], per_s: int = 6000, late_s: float = 0.0) -> Tally:
    """Return three blocks of a second each; `missed` tells of each request of a block whether it is answered late."""
    tally = Tally(QUESTION, replace(ASK, load=per_s))
    for block in range(3):
        latencies_s = [LATE_S if missed(block, number) else SOON_S for number in range(per_s)]
        told = [(number / per_s, latency_s, 200, late_s) for number, latency_s in enumerate(latencies_s)]
        tally.note(told, block, float(block))
    return tally


def quarter(_block: int, number: int) -> bool:
    """One in four, among thousands."""
    return number % 4 == 0


def test_a_quarter_of_thousands_of_requests_is_surely_missed() -> None:
    """Seen to call 9478 misses of 35771 not sure: each answer counted for the server, of a clump of misses only one."""
    tally = tallied(quarter)
    assert tally.verdict() == "rejected", "the try ends by it"
    tried = tally.tried(3.0, Around())
    assert (tried.verdict, tried.held) == ("rejected", False)


def test_too_many_misses_in_most_blocks_are_surely_missed_at_the_end() -> None:
    tally = tallied(lambda block, number: block != 1 and number % 20 == 0)
    assert tally.verdict() is None, "another block may yet be well"
    assert tally.tried(3.0, Around()).verdict == "rejected"


def test_one_block_alone_however_bad_leaves_a_doubt() -> None:
    tried = tallied(lambda block, number: block == 1 and number % 4 == 0).tried(3.0, Around())
    assert (tried.verdict, tried.held) == ("unverified", False)


def test_one_stall_in_each_block_leaves_a_doubt() -> None:
    tried = tallied(lambda _block, number: number < 130).tried(3.0, Around())
    assert (tried.verdict, tried.held) == ("unverified", False), "2.2 % of each block, in a single episode of it"


def test_misses_for_which_the_generator_was_late_leave_a_doubt_however_many() -> None:
    tried = tallied(quarter, late_s=0.06).tried(3.0, Around())
    assert (tried.misses, tried.excused) == (4500, 4500)
    assert (tried.verdict, tried.held) == ("unverified", None)


def test_requests_that_were_sent_as_one_since_the_generator_was_late_wait_for_each_other() -> None:
    """Seen to call a load missed of which nearly all was sent late, and waited for what was sent at once with it."""
    tally = Tally(QUESTION, ASK)
    bunch = [(0.001 * number, 0.06, 200, 0.015 - 0.001 * number) for number in range(10)]
    tally.note([*bunch, (0.2, 0.06, 200, 0.0)], 0, 0.0)
    assert (tally.misses, tally.excused) == (11, 10), "45 ms without its own lateness, 30 ms without that of the bunch"


def test_what_is_far_too_late_is_the_servers_however_late_it_was_sent() -> None:
    tally = Tally(QUESTION, ASK)
    tally.note([(0.001 * number, 0.5, 200, 0.005) for number in range(100)], 0, 0.0)
    assert (tally.misses, tally.excused) == (100, 0)


def test_a_generator_without_a_free_core_rejects_nothing_however_much_is_missed() -> None:
    full = Around(generator=GeneratorUse(bottleneck="the generator used 0.97 of one core"))
    tried = tallied(quarter).tried(3.0, full)
    assert (tried.verdict, tried.held) == ("unverified", None)
