"""The bound of the queue."""

from __future__ import annotations

import pytest

from orchestrator.scheduling.bound import QUEUE_LIMIT_DEFAULT, QUEUE_LIMIT_MAX, queue_bound


@pytest.mark.parametrize(
    ("service_s", "slo_latency_s", "limit", "bound"),
    [
        (0.01, 0.05, 7, 7),
        (None, 0.05, None, QUEUE_LIMIT_DEFAULT),
        (0.01, None, None, QUEUE_LIMIT_DEFAULT),
        (0.01, 0.05, None, 8),
        (0.05, 0.02, None, 2),
        (1e-9, 1.0, None, QUEUE_LIMIT_MAX),
    ],
)
def test_as_many_may_wait_as_can_be_answered_within_the_slo(
    service_s: float | None, slo_latency_s: float | None, limit: int | None, bound: int
) -> None:
    assert queue_bound(2, 1, service_s, slo_latency_s=slo_latency_s, limit=limit) == bound
