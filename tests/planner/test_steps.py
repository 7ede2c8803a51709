"""The question that a manifest and a model ask."""

from __future__ import annotations

import pytest

from orchestrator.planner.steps import front_end_s
from tests.builders import a_model_info, a_tensor


@pytest.mark.parametrize(
    ("inputs", "outputs", "milliseconds"),
    [((1, 32), (1, 8), 0.15), ((1, 3, 224, 224), (1, 1000), 0.283), ((1, 3, 320, 320), (1, 1950, 95), 0.583)],
)
def test_the_server_needs_the_longer_for_a_request_the_more_bytes_come_and_go(
    inputs: tuple[int, ...], outputs: tuple[int, ...], milliseconds: float
) -> None:
    info = a_model_info(inputs=(a_tensor("x", *inputs),), outputs=(a_tensor("y", *outputs),))
    assert 1000 * front_end_s(info) == pytest.approx(milliseconds, abs=0.002)
