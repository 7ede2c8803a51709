"""Calls that line up: each answered once with its own rows, whoever infers; and nobody infers for others for ever."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from orchestrator.backend.base import CompileRequest
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.errors import Kind, OrchError
from orchestrator.runner.gathering import LINES_MAX, Answer, Gatherer
from orchestrator.runner.inline_pool import Inline, InlinePool
from tests.runner.test_inline_pool import EXACT, SETTINGS, WEIGHT, a_row_model, rows

BATCH = 8
NAMES = ("y",)
END_S = 20.0


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[InlinePool]:
    backend, path = OpenVinoBackend(()), str(a_row_model(tmp_path))
    alone = backend.compile(CompileRequest(path, "CPU", EXACT))
    together = backend.compile(CompileRequest(path, "CPU", EXACT, {}, {"x": [f"1..{BATCH}", 4]}))
    made = InlinePool("rows", alone, SETTINGS, Inline(BATCH, together))
    made.start()
    yield made
    made.close()


@pytest.fixture
def line(pool: InlinePool) -> Iterator[Gatherer]:
    made = Gatherer(pool)
    yield made
    made.close()


class Asker:
    """Keeps what it is told."""

    def __init__(self, *, wants: bool = True) -> None:
        self._wants = wants
        self.results: list[object] = []

    def wants(self) -> bool:
        return self._wants

    def told(self, result: object) -> None:
        self.results.append(result)


def inferences(pool: InlinePool) -> int:
    """Return how many requests the pool has answered."""
    return pool.snapshot().totals.completed


def add(line: Gatherer, array: np.ndarray, asker: Asker, timeout_s: float | None = None, **said: str) -> None:
    line.add([array], len(array), asker, timeout_s=timeout_s, priority=said.get("priority"))


def submit(line: Gatherer, array: np.ndarray) -> Answer:
    return line.submit([array], len(array), NAMES, timeout_s=None, priority=None)


def y(line: Gatherer, array: np.ndarray) -> np.ndarray:
    result = line.infer([array], len(array), timeout_s=None, priority=None)
    assert isinstance(result, tuple), result
    return result[0]


def is_right(output: np.ndarray, array: np.ndarray) -> bool:
    return np.array_equal(output, array * WEIGHT)


def test_a_call_alone_is_inferred_at_once(line: Gatherer, pool: InlinePool) -> None:
    for count in (1, 3, BATCH):
        array = rows(count)
        assert is_right(y(line, array), array)
    assert inferences(pool) == 3


def test_what_stands_in_the_line_goes_a_batch_at_a_time(line: Gatherer, pool: InlinePool) -> None:
    calls = [(rows(1 + number % 3), Asker()) for number in range(11)]  # 21 rows: 8, 7 and 6 of them together
    for array, asker in calls:
        add(line, array, asker)
    while line.run():
        pass
    for array, asker in calls:
        ((output,),) = asker.results
        assert is_right(output, array)
    assert inferences(pool) == 3


def test_a_turn_is_bounded(line: Gatherer, pool: InlinePool) -> None:
    askers = [Asker() for _ in range(2 * LINES_MAX * BATCH)]
    for asker in askers:
        add(line, rows(), asker)
    assert line.run()
    assert sum(len(asker.results) for asker in askers) == LINES_MAX * BATCH
    assert not line.run()
    assert all(len(asker.results) == 1 for asker in askers)


def test_whoever_makes_a_batch_infers_it(line: Gatherer, pool: InlinePool) -> None:
    arrays = [rows() for _ in range(BATCH)]
    answers = [submit(line, array) for array in arrays]
    for answer, array in zip(answers, arrays, strict=True):
        assert is_right(answer.result(0)["y"], array)
    assert inferences(pool) <= 2  # the gatherer's own thread may have been quicker with the first


def test_whoever_waits_for_an_answer_infers_it_with_what_else_stands_there(line: Gatherer, pool: InlinePool) -> None:
    line._own.stop()
    answers = [submit(line, rows()) for _ in range(BATCH - 1)]
    assert not any(answer.done() for answer in answers)
    assert answers[3].exception() is None
    assert all(answer.done() for answer in answers)
    assert inferences(pool) == 1


@pytest.mark.parametrize("wait", ["wait", "as_completed", "callback"])
def test_an_answer_that_nobody_infers_comes_all_the_same(line: Gatherer, wait: str) -> None:
    array, came = rows(), threading.Event()
    answer = submit(line, array)
    match wait:
        case "wait":
            assert concurrent.futures.wait([answer], END_S).not_done == set()
        case "as_completed":
            assert list(concurrent.futures.as_completed([answer], END_S)) == [answer]
        case _:
            answer.add_done_callback(lambda _: came.set())
            assert came.wait(END_S)
    assert is_right(answer.result()["y"], array)


def test_an_answer_that_was_cancelled_in_time_is_not_inferred(line: Gatherer, pool: InlinePool) -> None:
    line._own.stop()
    gone, kept = (submit(line, rows()) for _ in range(2))
    assert gone.cancel()
    kept.result()
    assert not kept.cancel()
    with pytest.raises(CancelledError):
        gone.result()
    assert pool.snapshot().totals.accepted == 1


def test_calls_whose_asker_has_gone_are_left_out(line: Gatherer, pool: InlinePool) -> None:
    askers = [Asker(wants=number % 2 == 0) for number in range(6)]
    for asker in askers:
        add(line, rows(), asker)
    line.run()
    assert [len(asker.results) for asker in askers] == [1, 0] * 3


def test_what_is_late_fails_alone_and_is_counted(line: Gatherer, pool: InlinePool) -> None:
    askers = [Asker() for _ in range(5)]
    for number, asker in enumerate(askers):
        add(line, rows(), asker, timeout_s=-1.0 if number in (0, 2) else None)
    line.run()
    kinds = [result.kind if isinstance(result, OrchError) else None for asker in askers for result in asker.results]
    assert kinds == [Kind.DEADLINE, None, Kind.DEADLINE, None, None]
    assert pool.snapshot().totals.rejected == 2


def test_calls_of_different_priority_share_no_request(line: Gatherer, pool: InlinePool) -> None:
    askers = [Asker() for _ in range(6)]
    for number, asker in enumerate(askers):
        add(line, rows(), asker, priority=("default", "sheddable")[number // 3])
    line.run()
    assert all(isinstance(asker.results[0], tuple) for asker in askers)
    assert inferences(pool) == 2


def test_a_refusal_is_told_to_each_by_an_error_of_its_own(line: Gatherer, pool: InlinePool) -> None:
    askers = [Asker() for _ in range(3)]
    for asker in askers:
        add(line, rows(), asker)
    pool.refuse()
    line.run()
    errors = [asker.results[0] for asker in askers]
    assert all(isinstance(error, OrchError) and error.kind is Kind.UNAVAILABLE for error in errors)
    assert len(set(map(id, errors))) == 3


def test_many_threads_are_each_answered_with_their_own_rows(line: Gatherer, pool: InlinePool) -> None:
    def calls(place: int) -> int:
        right = 0
        for number in range(200):
            array = rows(1 + (place + number) % 3)
            right += is_right(y(line, array), array)
        return right

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(calls, range(8))) == [200] * 8
    assert not line._waiters


def test_threads_futures_and_loops_may_be_mixed(line: Gatherer) -> None:
    def calls(place: int) -> bool:
        arrays = [rows() for _ in range(150)]
        if place % 2:
            return all(is_right(y(line, array), array) for array in arrays)
        answers: list[Answer] = [submit(line, array) for array in arrays]
        return all(is_right(answer.result(END_S)["y"], array) for answer, array in zip(answers, arrays, strict=True))

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(calls, range(6)))


# Seen to fail where the one who infers goes on as long as anything stands in the line.
def test_nobody_infers_for_others_once_he_has_his_answer(line: Gatherer) -> None:
    """Every inference of one call brings another two: who infers until the line is empty never leaves."""

    class Breeder(Asker):
        def told(self, result: object) -> None:
            super().told(result)
            if not stop.is_set():
                for _ in range(BATCH):
                    add(line, rows(), Breeder())

    stop = threading.Event()
    line._own.stop()
    add(line, rows(), Breeder())
    array = rows()
    try:
        assert is_right(y(line, array), array)
    finally:
        stop.set()
    while line.run():
        pass


def test_one_who_leaves_wakes_one_who_waits(line: Gatherer, pool: InlinePool) -> None:
    """The first thread infers its own batch only; a second one, which came while it did, must not wait for ever."""
    array, results = rows(), []
    entered, leave = threading.Event(), threading.Event()

    class Slow(Asker):
        def told(self, result: object) -> None:
            entered.set()
            leave.wait(END_S)

    line._own.stop()
    add(line, rows(), Slow())
    first = threading.Thread(target=line.run_until, args=(entered.is_set,))
    first.start()
    assert entered.wait(END_S)
    second = threading.Thread(target=lambda: results.append(y(line, array)))
    second.start()
    while not line._waiters:
        threading.Event().wait(0.001)
    leave.set()
    first.join(END_S)
    second.join(END_S)
    assert is_right(results[0], array)
