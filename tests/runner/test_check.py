"""The check before serving: real inferences on made-up inputs, refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import topologies
from orchestrator.backend.base import CompileRequest
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.backend.simulated import Faults
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import ModelInfo
from orchestrator.runner.check import check
from tests.builders import a_model_info, a_tensor
from tests.runner.rig import backend


def compiled(info: ModelInfo, *, batch: int = 1, faults: Faults | None = None, **options: Any) -> Any:
    engine = backend(faults, info=info, service_s=0.0, **options)
    return engine.compile(CompileRequest(info.path, "CPU", batch=batch))


def failure(model: Any, **options: Any) -> OrchError:
    with pytest.raises(OrchError) as caught:
        check(model, "m", **options)
    return caught.value


def test_a_model_that_answers_is_timed_until_steady_and_its_inputs_kept() -> None:
    model = compiled(a_model_info(inputs=(a_tensor("x", 1, 4),), outputs=(a_tensor("y", 1, 4),)))
    checked = check(model, "m")
    assert 0 <= checked.service_s < 1
    assert 10 <= checked.inferences <= 50
    assert [array.shape for array in checked.inputs] == [(1, 4)]
    model.close()


def test_the_first_size_that_works_is_taken_for_a_free_dimension() -> None:
    def needs_32(inputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        if inputs[0].shape[3] < 32:
            raise ValueError("too small for the pooling")
        return inputs

    info = a_model_info(inputs=(a_tensor("x", 1, 3, (1, None), (1, None)),), outputs=(a_tensor("y", 1, 3, 32, 32),))
    model = compiled(info, compute=needs_32)
    assert check(model, "m").inputs[0].shape == (1, 3, 32, 32)
    model.close()


@pytest.mark.parametrize(("low", "high", "size"), [(1, 4, 1), (5, 7, 5), (600, None, 600), (0, None, 1)])
def test_sizes_stay_within_the_bounds(low: int, high: int | None, size: int) -> None:
    model = compiled(a_model_info(inputs=(a_tensor("x", 1, (low, high)),), outputs=(a_tensor("y", 1, (0, None)),)))
    assert check(model, "m").inputs[0].shape == (1, size)
    model.close()


def test_a_model_that_never_answers_is_refused_with_the_first_reason_and_what_to_do() -> None:
    info = a_model_info(inputs=(a_tensor("x", 1, (1, None)),))
    error = failure(compiled(info, faults=Faults(device_lost_at=0)))
    assert error.kind is Kind.FAILED
    assert "the first inference failed" in str(error)
    assert "is gone" in str(error)
    assert error.problems[0].where == "m"
    assert "shapes" in str(error.problems[0].hint)


def test_an_inference_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.runner.check.FIRST_TIMEOUT_S", 0.05)
    model = compiled(a_model_info(), faults=Faults(hang=frozenset({0})))
    assert failure(model).kind is Kind.DEADLINE
    model.close()


def test_outputs_that_do_not_carry_the_batch_are_refused() -> None:
    info = a_model_info(inputs=(a_tensor("x", 1, 4),), outputs=(a_tensor("total", 1),))
    model = compiled(info, batch=4, compute=lambda inputs: (inputs[0].sum(keepdims=True)[0],))
    error = failure(model, batch=4)
    assert "'total' does not carry the batch" in str(error)
    model.close()


@pytest.mark.parametrize(
    "name", ["tiny_mlp", "dynamic_mlp", "dynamic_seq", "two_in_two_out", "int8_cnn", "passthrough"]
)
def test_openvino_answers_made_up_inputs_of_every_kind(name: str, tmp_path: Path) -> None:
    model = OpenVinoBackend(()).compile(CompileRequest(str(topologies.save(name, tmp_path)), "CPU"))
    assert check(model, name).service_s > 0
    model.close()
