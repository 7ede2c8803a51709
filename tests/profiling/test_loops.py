"""The loops over a simulated device: what is counted, and what a failing or hanging one leads to."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.backend.base import Array, CompileRequest
from orchestrator.backend.simulated import Faults, SimulatedBackend
from orchestrator.errors import Kind, OrchError
from orchestrator.profiling import loops
from orchestrator.profiling.loops import Loop
from orchestrator.scheduling.arrivals import arrivals
from tests.builders import a_model_info, a_tensor, an_inventory

PATH = "/m.xml"
SERVICE_S = 0.004


def a_loop(requests: int = 2, rows: int = 1, **backend: object) -> Loop:
    info = a_model_info(path=PATH, inputs=(a_tensor("x", 1, 4),), outputs=(a_tensor("y", 1, 4),))
    settings = {"service_s": SERVICE_S, "streams": requests, **backend}
    engine = SimulatedBackend(an_inventory(), {PATH: info}, **settings)
    return Loop(engine.compile(CompileRequest(PATH, "CPU", batch=rows)), requests, rows=rows)


def test_a_closed_loop_keeps_as_many_under_way_as_it_is_told() -> None:
    loop = a_loop(2)
    loop.start("m")
    for concurrency in (1, 2):
        taken = loop.closed(concurrency, 0.2)
        most = concurrency * 0.2 / SERVICE_S
        assert 0.2 * most < len(taken.spans) <= 1.05 * most + concurrency
        assert all(span.ended - span.started >= SERVICE_S * 0.9 for span in taken.spans)
        deepest = max(sum(it.started <= span.started < it.ended for it in taken.spans) for span in taken.spans)
        assert deepest <= concurrency


def test_the_steady_part_lies_between_ends_so_that_none_is_counted_in_part() -> None:
    loop = a_loop(1)
    loop.start("m")
    taken = loop.closed(1, 0.1)
    assert taken.spans[0].started <= taken.spans[-1].ended - taken.seconds + SERVICE_S
    assert taken.seconds == pytest.approx(taken.spans[-1].ended - taken.spans[0].started, rel=0.2)


def test_a_slow_model_runs_each_inference_twice_at_least() -> None:
    loop = a_loop(2, service_s=0.05)
    loop.start("m")
    assert len(loop.closed(2, 0.001).spans) >= 2


def test_paced_inferences_come_one_at_a_time_each_after_its_pause() -> None:
    """Seen to fail without the pauses: each began when the one before had ended."""
    loop = a_loop(2)
    loop.start("m")
    taken = loop.paced(0.2, lambda _took: 0.01)
    assert 2 <= len(taken.spans) <= 0.2 / (0.01 + SERVICE_S) + 1
    between = [later.started - earlier.ended for earlier, later in itertools.pairwise(taken.spans)]
    assert min(between) >= 0.01
    assert all(span.ended - span.started >= SERVICE_S * 0.9 for span in taken.spans)


def test_a_paced_run_of_no_time_still_infers_once() -> None:
    loop = a_loop(1)
    loop.start("m")
    assert len(loop.paced(0.0, lambda _took: 0.0).spans) == 1


def test_a_pause_follows_from_what_the_last_inference_took() -> None:
    loop = a_loop(1)
    loop.start("m")
    told: list[float] = []
    loop.paced(0.1, lambda took: told.append(took) or 0.0)  # type: ignore[func-returns-value]
    assert len(told) > 5
    assert all(SERVICE_S * 0.9 <= took < 10 * SERVICE_S for took in told[1:])


def test_an_open_loop_takes_latency_from_the_schedule() -> None:
    loop = a_loop(1)
    loop.start("m")
    taken = loop.opened(1, [0.0] * 5, 0.1)
    assert len(taken.latency_s) == 5
    assert taken.latency_s[-1] >= 5 * SERVICE_S * 0.9, "the fifth waited for four"


def test_an_open_loop_counts_what_found_the_queue_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "QUEUE_MAX", 3)
    loop = a_loop(1)
    loop.start("m")
    taken = loop.opened(1, [0.0] * 10, 0.1)
    assert taken.refused + len(taken.latency_s) == 10
    assert taken.refused >= 1


def test_an_open_loop_gathers_what_waits_into_batches() -> None:
    loop = a_loop(1, rows=4)
    loop.start("m")
    taken = loop.opened(1, [0.0] * 9, 0.1)
    assert len(taken.latency_s) == 9
    assert 3 <= len(taken.spans) < 9, "1 + 4 + 4 rows, when all wait before the first has ended"


def test_the_rows_of_a_batch_are_copied_together_for_each_inference() -> None:
    """Seen to fail when a block inferred the same batch again and again: no copy was counted."""
    seen: list[float] = []

    def spoil(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        seen.append(float(inputs[0].max()))
        inputs[0][:] = 7.0
        return (inputs[0],)

    loop = a_loop(1, rows=4, compute=spoil)
    loop.start("m")
    loop.closed(1, 0.05)
    assert len(seen) > 5
    assert set(seen) == {0.0}


def test_an_inference_that_fails_later_is_said_and_not_waited_for() -> None:
    loop = a_loop(1, faults=Faults(fail=frozenset({200})))
    loop.start("m")
    with pytest.raises(OrchError) as raised:
        loop.closed(1, 5.0)
    assert raised.value.kind is Kind.FAILED


def test_a_model_that_refuses_every_input_fails_with_its_reason() -> None:
    with pytest.raises(OrchError, match="the first inference failed") as raised:
        a_loop(1, faults=Faults(refuse=frozenset(range(100)))).start("m")
    assert raised.value.problems[0].where == "m"


def test_an_inference_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "LATEST_S", 0.3)
    loop = a_loop(1, faults=Faults(hang=frozenset({100})))
    loop.start("m")
    with pytest.raises(OrchError) as raised:
        loop.closed(1, 5.0)
    assert raised.value.kind is Kind.DEADLINE


def test_poisson_arrivals_are_served_at_half_load() -> None:
    loop = a_loop(2)
    loop.start("m")
    taken = loop.opened(2, arrivals("poisson", 100.0, 50, 3), 10.0)
    assert len(taken.latency_s) == 50
