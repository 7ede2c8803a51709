"""The load generator as a process against a server that answers by a known schedule."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.profiling.children import LoadChild, LoadGenerator
from orchestrator.profiling.measurement import GIVEN_UP
from orchestrator.profiling.wire import LoadOrder, LoadReport, Outcome
from orchestrator.scheduling.arrivals import arrivals
from tests.profiling.http_stand_in import StandIn


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(b"x" * 5000)
    return path


def an_order(body: Path, port: int, **over: object) -> LoadOrder:
    fields = {"rate_per_s": 500.0, "seed": 7, "seconds": 30.0, "requests_max": 150, "timeout_s": 5.0}
    return LoadOrder(host="127.0.0.1", port=port, path="/infer", body=str(body), **(fields | over))


def run(order: LoadOrder) -> tuple[list[Outcome], LoadReport]:
    outcomes: list[Outcome] = []
    with LoadChild(order) as child:
        for said in child.outcomes():
            if isinstance(said, LoadReport):
                return outcomes, said
            outcomes += said
    raise AssertionError("a report comes last")


def test_outcomes_come_in_the_order_of_the_seeded_schedule(body: Path) -> None:
    with StandIn() as server:
        outcomes, report = run(an_order(body, server.port))
    due = arrivals("poisson", 500.0, 150, 7)
    assert [outcome.due_s for outcome in outcomes] == pytest.approx(due, abs=2e-6)
    assert (report.sent, report.answered, server.requests) == (150, 150, 150)
    assert all(outcome.latency_s > 0 for outcome in outcomes)


def test_refused_expired_and_other_answers_are_counted_apart(body: Path) -> None:
    with StandIn(lambda number: (200, 503, 504, 500)[number % 4]) as server:
        outcomes, report = run(an_order(body, server.port, connections_max=1, requests_max=40))
    assert (report.answered, report.refused, report.expired, report.failed) == (10, 10, 10, 10)
    assert [outcome.status for outcome in outcomes[:4]] == [200, 503, 504, 500]


def test_a_connection_that_breaks_fails_its_request_only(body: Path) -> None:
    with StandIn(lambda number: None if number == 5 else 200) as server:
        outcomes, report = run(an_order(body, server.port, requests_max=60))
    assert (report.answered, report.failed) == (59, 1)
    assert [outcome.status for outcome in outcomes].count(0) == 1


def test_nobody_listening_fails_every_request_and_ends(body: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        outcomes, report = run(an_order(body, taken.getsockname()[1], requests_max=20))
    assert report.failed == len(outcomes) == 20


def test_latency_counts_from_the_schedule_when_the_server_cannot_keep_up(body: Path) -> None:
    order_over = {"arrivals": "constant", "rate_per_s": 100.0, "connections_max": 1, "requests_max": 20}
    with StandIn(delay_s=0.03) as server:
        outcomes, report = run(an_order(body, server.port, **order_over))
    assert outcomes[-1].latency_s > 0.03 * 20 - 0.01 * 20
    assert report.late_sends > 10
    assert report.bottleneck is not None, "one connection is the generator's own limit, and it says so"


def test_an_unanswered_request_is_given_up_after_its_time(body: Path) -> None:
    with StandIn(delay_s=60.0) as server:
        outcomes, report = run(an_order(body, server.port, requests_max=5, timeout_s=0.3))
    assert {outcome.status for outcome in outcomes} == {GIVEN_UP}
    assert (report.sent, report.failed, report.given_up) == (5, 0, 5), "nobody refused or failed them"
    assert report.seconds < 5


def test_the_caller_can_stop_it_in_the_middle(body: Path) -> None:
    seen = 0
    with StandIn() as server, LoadChild(an_order(body, server.port, requests_max=None, seconds=60.0)) as child:
        for said in child.outcomes():
            if isinstance(said, LoadReport):
                break
            seen += len(said)
            if seen >= 20:
                child.stop()
    assert isinstance(said, LoadReport)
    assert 20 <= seen == said.answered
    assert said.seconds < 10


def test_closed_callers_send_when_they_have_their_answer(body: Path) -> None:
    over = {"arrivals": "closed", "rate_per_s": None, "callers": 4, "requests_max": 100}
    with StandIn(delay_s=0.001) as server:
        outcomes, report = run(an_order(body, server.port, **over))
    assert report.answered == len(outcomes) == 100
    assert report.seconds < 10, "it ends with its last answer, not with its time"
    assert report.connections == 4


def test_an_absurd_rate_is_told_as_the_generators_limit(body: Path) -> None:
    """Seen to fail the arm: half a second's outcomes came in one line, longer than any line may be."""
    over = {"arrivals": "constant", "rate_per_s": 1e9, "requests_max": 400_000, "connections_max": 2}
    with StandIn(delay_s=60.0) as server:
        outcomes, report = run(an_order(body, server.port, timeout_s=0.2, **over))
    assert len(outcomes) == report.sent == 400_000
    assert report.full is not None
    assert "waiting for a connection" in report.full


def test_it_sleeps_between_arrivals_and_says_what_it_used(body: Path) -> None:
    with StandIn() as server:
        _, report = run(an_order(body, server.port, rate_per_s=50.0, requests_max=25))
    assert report.cpu < 0.3, "a generator that spins uses a whole core"


def test_a_run_in_whose_time_nothing_is_due_does_not_call_the_generator_full(body: Path) -> None:
    """Seen to fail: it ended at once, and had computed for 102 % of that moment."""
    with StandIn() as server:
        outcomes, report = run(an_order(body, server.port, rate_per_s=0.001, seconds=0.2, connections_max=1))
    assert (outcomes, report.sent, report.full) == ([], 0, None)


def test_a_measurement_that_was_cancelled_ends_the_generator(body: Path) -> None:
    with StandIn() as server, LoadChild(an_order(body, server.port), lambda: server.requests > 10) as child:
        pid = child.pid
        with pytest.raises(OrchError) as raised:
            list(child.outcomes())
        child.__exit__(OrchError, raised.value, None)
        assert raised.value.kind is Kind.CANCELLED
        assert not Path(f"/proc/{pid}").exists()


def test_one_generator_runs_one_load_after_another(body: Path) -> None:
    with StandIn() as server, LoadGenerator() as generator:
        for number in range(1, 4):
            *outcomes, report = generator.load(an_order(body, server.port, seed=number, requests_max=20))
            assert isinstance(report, LoadReport)
            assert report.answered == sum(len(said) for said in outcomes if isinstance(said, list)) == 20
        assert server.requests == 60


def test_a_stop_that_comes_after_its_load_does_not_stop_the_next(body: Path) -> None:
    with StandIn() as server, LoadGenerator() as generator:
        list(generator.load(an_order(body, server.port, requests_max=5)))
        generator.stop()
        *_, report = generator.load(an_order(body, server.port, requests_max=30))
        assert isinstance(report, LoadReport)
        assert report.sent == 30


def test_waiting_for_a_connection_is_not_the_generators_own_lateness(body: Path) -> None:
    order_over = {"arrivals": "constant", "rate_per_s": 100.0, "connections_max": 1, "requests_max": 20}
    with StandIn(delay_s=0.03) as server:
        outcomes, report = run(an_order(body, server.port, **order_over))
    assert report.late_sends > report.late_wakes
    assert sum(outcome.late_s > 0 for outcome in outcomes) == report.late_wakes
    assert report.full is None, "it could have done more"
