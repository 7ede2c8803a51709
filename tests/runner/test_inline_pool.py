"""Fast models: inferred on the caller's thread, gathered as they come, each answered with its own rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from orchestrator.backend.base import CompileRequest
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.errors import Kind
from orchestrator.runner.check import check
from orchestrator.runner.inline import try_inline
from orchestrator.runner.inline_pool import Inline, InlinePool
from orchestrator.runner.pool import Outcome, PoolSettings
from orchestrator.runner.worker import compile_request
from orchestrator.scheduling.inline import INLINE_MAX_S
from tests.builders import a_model, a_plan

SETTINGS = PoolSettings(timeout_s=30.0, queue_limit=10_000, memory_bytes=2**30)
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
GENERATOR = np.random.default_rng(7)
WEIGHT = np.float32(3.0)
FAST_S = 20e-6


@pytest.fixture(scope="module")
def backend() -> OpenVinoBackend:
    return OpenVinoBackend(())


def a_row_model(folder: Path, *, mixing: bool = False) -> Path:
    """Save y = 3 x of [1, 4]; `mixing` takes the mean over the rows away, so that rows depend on each other."""
    data = ops.parameter([1, 4], np.float32, name="x")
    result = ops.multiply(data, ops.constant(WEIGHT))
    if mixing:
        result = ops.subtract(result, ops.reduce_mean(result, ops.constant([0]), keep_dims=True))
        result = ops.add(result, data)
    result.output(0).set_names({"y"})
    data.output(0).set_names({"x"})
    path = folder / "rows.xml"
    ov.save_model(ov.Model([result], [data], "rows"), str(path), compress_to_fp16=False)
    return path


@pytest.fixture
def pool(backend: OpenVinoBackend, tmp_path: Path) -> Iterator[InlinePool]:
    path = str(a_row_model(tmp_path))
    alone = backend.compile(CompileRequest(path, "CPU", EXACT))
    together = backend.compile(CompileRequest(path, "CPU", EXACT, {}, {"x": ["1..8", 4]}))
    made = InlinePool("rows", alone, SETTINGS, Inline(8, together))
    made.start()
    yield made
    made.close()


def rows(count: int = 1) -> np.ndarray:
    return GENERATOR.standard_normal((count, 4)).astype(np.float32)


def test_what_was_submitted_before_the_run_shares_inferences_and_each_gets_its_own(pool: InlinePool) -> None:
    given = [rows() for _ in range(20)]
    got: dict[int, Outcome] = {}
    for number, array in enumerate(given):
        pool.submit(pool.admit(), [array], lambda outcome, number=number: got.update({number: outcome}), later=True)
    assert got == {}
    pool.run()
    assert sorted(got) == list(range(20))
    for number, array in enumerate(given):
        np.testing.assert_array_equal(got[number].outputs[0], array * WEIGHT)
    window = pool.snapshot().window
    assert window.rows_per_batch == pytest.approx(20 / 3)  # 8, 8 and 4 rows


def test_a_submit_that_is_not_for_later_is_answered_before_it_returns(pool: InlinePool) -> None:
    got: list[Outcome] = []
    array = rows()
    pool.submit(pool.admit(), [array], got.append)
    np.testing.assert_array_equal(got[0].outputs[0], array * WEIGHT)


def test_what_does_not_fit_its_neighbours_fails_alone(pool: InlinePool) -> None:
    got: list[Outcome] = []
    fine = rows()
    pool.submit(pool.admit(), [fine], got.append, later=True)
    pool.submit(pool.admit(), [np.zeros((1, 5), np.float32)], got.append, later=True)
    pool.run()
    wrong, right = sorted(got, key=lambda outcome: outcome.error is None)
    assert wrong.error is not None
    assert wrong.error.kind is Kind.INVALID
    np.testing.assert_array_equal(right.outputs[0], fine * WEIGHT)


def test_many_threads_are_answered_with_their_own_rows(pool: InlinePool) -> None:
    wrong: list[str] = []

    def call() -> None:
        for _ in range(300):
            array, ended, got = rows(), threading.Event(), []
            pool.submit(pool.admit(), [array], lambda outcome, got=got, ended=ended: (got.append(outcome), ended.set()))
            if not ended.wait(20) or not np.array_equal(got[0].outputs[0], array * WEIGHT):
                wrong.append(str(got))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert pool.snapshot().totals.completed == 1800


def test_late_and_cancelled_requests_are_not_inferred(pool: InlinePool) -> None:
    got: list[Outcome] = []
    late = pool.admit(timeout_s=1e-9)
    gone = pool.admit()
    pool.submit(late, [rows()], got.append, later=True)
    pool.submit(gone, [rows()], got.append, later=True)
    pool.cancel(gone)
    pool.run()
    assert [outcome.error and outcome.error.kind for outcome in got] == [Kind.DEADLINE]
    assert pool.snapshot().totals.completed == 0


def test_a_closed_pool_refuses_and_has_answered_everything(pool: InlinePool) -> None:
    got: list[Outcome] = []
    pool.submit(pool.admit(), [rows()], got.append, later=True)
    assert pool.drain(5.0)
    assert got[0].error is None


def decided(backend: OpenVinoBackend, path: Path, service_s: float, **model: Any) -> Inline | None:
    """Return how the worker would infer the model of that file, were each inference of it that long."""
    info = backend.inspect(str(path), {}, ())
    plan = a_plan(a_model("rows", **model), info=info).models[0].model_copy(update={"source": str(path)})
    request = compile_request(plan)
    compiled = backend.compile(request)
    checked = replace(check(compiled, "rows"), service_s=service_s)
    return try_inline(backend, request, plan, compiled, checked, lambda _request, _inputs: service_s)


@pytest.mark.parametrize("mixing", [False, True])
def test_rows_that_depend_on_each_other_are_never_gathered(
    backend: OpenVinoBackend, tmp_path: Path, mixing: bool
) -> None:
    how = decided(backend, a_row_model(tmp_path, mixing=mixing), FAST_S)
    assert how is not None
    assert (how.gathered is None) == mixing


def test_a_model_that_takes_longer_goes_to_the_engines_threads(backend: OpenVinoBackend, tmp_path: Path) -> None:
    assert decided(backend, a_row_model(tmp_path), FAST_S) is not None
    assert decided(backend, a_row_model(tmp_path), 2 * INLINE_MAX_S) is None


def test_requests_that_the_manifest_states_are_kept_to(backend: OpenVinoBackend, tmp_path: Path) -> None:
    path = a_row_model(tmp_path)
    assert decided(backend, path, FAST_S, compile={"streams": 2, "threads": 2, "requests": 2}) is None
