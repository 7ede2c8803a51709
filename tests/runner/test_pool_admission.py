"""What a pool admits, and with what: classes, compiled batches of several sizes, batches held back, time outside."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from orchestrator.backend.base import CompileRequest
from orchestrator.backend.simulated import SimulatedCompiledModel
from orchestrator.errors import Kind, OrchError
from orchestrator.runner.pool import Outcome, Pool, PoolSettings
from orchestrator.scheduling.scheduler import Cause
from tests.runner.rig import Caller, Clock, Rig, backend, row

SETTINGS = PoolSettings(timeout_s=1.0, queue_limit=16, memory_bytes=2**20)


def ask(rig: Rig, priority: str | None) -> Caller:
    caller = Caller(rig.pool.admit(priority=priority))
    rig.pool.submit(caller.ticket, [row(1)], caller.outcomes.append)
    return caller


def test_critical_requests_are_inferred_first() -> None:
    rig = Rig(priority="critical")
    ask(rig, None)
    callers = [ask(rig, priority) for priority in ("sheddable", "default", "critical", None)]
    order = []
    for _ in range(5):
        rig.complete()
        order += [index for index, caller in enumerate(callers) if caller.outcomes and index not in order]
    assert order == [2, 3, 1, 0]


def test_a_word_that_is_no_class_is_refused() -> None:
    with pytest.raises(OrchError, match="critical, default, sheddable, got 'urgent'") as caught:
        Rig().pool.admit(priority="urgent")
    assert caught.value.kind is Kind.INVALID


def test_who_is_displaced_is_told_to_come_back() -> None:
    rig = Rig(priority="critical", queue_limit=2, service_s=0.1)
    ask(rig, None)
    low = ask(rig, "sheddable")
    callers = [ask(rig, "critical") for _ in range(2)]
    assert (low.kind, low.outcome.error and low.outcome.error.code) == (Kind.OVERLOADED, "DISPLACED")
    assert low.outcome.error is not None
    assert low.outcome.error.retry_after_s
    rig.complete(3)
    assert [caller.kind for caller in callers] == [None, None]
    assert rig.pool.causes[Cause.DISPLACED] == 1


def test_what_cannot_be_answered_in_time_is_refused_with_the_time_to_come_back() -> None:
    rig = Rig(queue_limit=None, slo_latency_s=0.5, slo_percentile=99, service_s=0.2)
    ask(rig, None)
    ask(rig, None)
    with pytest.raises(OrchError) as caught:
        ask(rig, None)
    assert (caught.value.kind, caught.value.code) == (Kind.OVERLOADED, "DEADLINE_UNMEETABLE")
    assert caught.value.retry_after_s == pytest.approx(0.4)


def test_time_that_passes_outside_the_pool_is_not_left_for_waiting() -> None:
    rig = Rig(queue_limit=None, slo_latency_s=0.5, slo_percentile=99, service_s=0.2)
    for _ in range(50):
        rig.pool.note_lag(0.15)
    ask(rig, None)
    with pytest.raises(OrchError):
        ask(rig, None)
    for _ in range(1000):
        rig.pool.note_lag(9.0)
    rig.complete()
    assert ask(rig, None).ticket.promised == rig.clock.now  # whatever the lag, an idle pool serves


def test_the_callers_own_deadline_and_the_pools_are_told_apart() -> None:
    rig = Rig()
    ask(rig, None)
    pools, own = ask(rig, None), rig.submit(timeout_s=0.5)
    rig.wait(2.0)
    assert (pools.kind, own.kind) == (Kind.OVERLOADED, Kind.DEADLINE)


def a_pool_of(
    sizes: tuple[int, ...], clock: Clock, **settings: float
) -> tuple[Pool, dict[int, SimulatedCompiledModel]]:
    engine = backend(manual=True)
    models = {size: engine.compile(CompileRequest("m.xml", "CPU", batch=size)) for size in sizes}
    *smaller, largest = sizes
    pool = Pool(
        "m",
        models[largest],
        PoolSettings(**({"timeout_s": 9.0, "queue_limit": 64, "memory_bytes": 2**20} | settings)),  # type: ignore[arg-type]
        batch=largest,
        smaller={size: models[size] for size in smaller},
        service_s=0.03,
        small_service_s={size: 0.01 * size**0.5 for size in smaller},
        clock=clock,
    )
    pool.start()
    return pool, models


def test_the_smallest_compiled_batch_that_holds_the_rows_is_used_and_answers_right() -> None:
    pool, models = a_pool_of((1, 4, 8), Clock())
    outcomes: dict[int, Outcome] = {}

    def submit(numbers: range) -> None:
        for number in numbers:
            pool.submit(pool.admit(), [row(number)], lambda outcome, number=number: outcomes.update({number: outcome}))

    def running() -> dict[int, int]:
        return {size: len(model.running()) for size, model in models.items() if model.running()}

    submit(range(1))
    assert running() == {1: 1}
    submit(range(1, 4))
    models[1].running()[0].complete()
    assert running() == {4: 1}
    submit(range(4, 12))
    models[4].running()[0].complete()
    assert running() == {8: 1}
    models[8].running()[0].complete()
    assert running() == {}
    for number in range(12):
        (output,) = outcomes[number].outputs
        np.testing.assert_array_equal(output, row(2 * number))
    pool.close()
    assert all(model.closed.is_set() for model in models.values())


def test_a_batch_that_is_held_back_starts_when_its_time_has_come() -> None:
    clock = Clock()
    pool, models = a_pool_of((4,), clock, gather_s=0.5)
    ended = threading.Event()
    pool.submit(pool.admit(), [row(1)], lambda _outcome: ended.set())
    assert models[4].running() == ()
    clock.now += 0.6
    pool.submit(pool.admit(), [row(2)], lambda _outcome: None)
    (inference,) = models[4].running()
    inference.complete()
    assert ended.is_set()
    pool.close()


def test_the_waker_starts_a_held_batch_though_nothing_else_happens() -> None:
    engine = backend(manual=True).compile(CompileRequest("m.xml", "CPU", batch=4))
    pool = Pool("m", engine, PoolSettings(9.0, 64, 2**20, gather_s=0.02), batch=4, service_s=0.03)
    pool.start()
    started = threading.Event()
    pool.submit(pool.admit(), [row(1)], lambda _outcome: started.set())
    for _ in range(2000):
        if engine.running():
            break
        started.wait(0.005)
    engine.running()[0].complete()
    assert started.is_set()
    pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("orch-wake")]
