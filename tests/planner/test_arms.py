"""The arms that are worth trying, as people read them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import OrchError
from orchestrator.planner.arms import Candidate, by_key, candidates
from tests.builders import a_cpu, a_deployment, a_dynamic_model_info, a_gpu, a_model, a_model_info, an_inventory, an_npu

TWO = ["THROUGHPUT", "LATENCY", "2 streams x 1 thread", "1 stream x 2 threads"]


def arms(cpus: int = 2, info: Any = None, devices: tuple[Any, ...] = (), **model: Any) -> tuple[Candidate, ...]:
    deployment = a_deployment(a_model(**model))
    inventory = an_inventory(*(devices or (a_cpu(range_for_streams=(1, cpus)),)), cpus=cpus)
    return candidates(deployment.spec.models[0], info or a_model_info(), inventory, cpus=cpus)


def names(found: tuple[Candidate, ...]) -> list[str]:
    return [candidate.arm.name for candidate in found]


def test_two_cores_have_both_hints_and_both_ways_to_divide_them() -> None:
    found = arms()
    assert names(found) == TWO
    assert found[2].arm.properties == {
        "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_NUM_THREADS": "2",
        "NUM_STREAMS": "2",
    }
    assert [candidate.streams for candidate in found] == [None, 1, 2, 1]


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 6, 8, 16, 64])
def test_there_are_at_most_a_dozen_arms_and_no_two_are_the_same(cpus: int) -> None:
    found = arms(cpus)
    assert len(found) <= 12
    assert len({candidate.arm.key for candidate in found}) == len(found)


def test_eight_cores_have_what_no_hint_reaches_last() -> None:
    assert names(arms(8))[2:] == [
        "8 streams x 1 thread",
        "1 stream x 8 threads",
        "4 streams x 2 threads",
        "2 streams x 4 threads",
    ]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"hint": "LATENCY"}, ["LATENCY"]),
        ({"streams": 2, "batch": 4}, ["2 streams x 1 thread, batch 4"]),
        ({"threads": 1}, ["1 stream x 1 thread"]),
        ({"batch": 2}, [f"{name}, batch 2" for name in TWO]),
    ],
)
def test_what_the_manifest_states_restricts_the_arms(asked: dict[str, Any], wanted: list[str]) -> None:
    assert names(arms(compile=asked)) == wanted


def test_the_users_properties_are_in_every_arm() -> None:
    found = arms(properties={"INFERENCE_PRECISION_HINT": "f32"})
    assert all(arm.properties["INFERENCE_PRECISION_HINT"] == "f32" for arm in by_key(found).values())


def test_batches_wait_for_the_probe_and_only_where_the_model_has_one() -> None:
    assert [arm.batch for arm in arms()[0].batched] == [2, 4, 8, 16, 32]
    assert arms(info=a_dynamic_model_info())[0].batched == ()
    assert arms(info=a_model_info(batchable=False))[0].batched == ()
    assert arms(compile={"batch": 2})[0].batched == ()


def test_a_gpu_batches_no_more_than_it_can_hold() -> None:
    found = arms(info=a_model_info(max_batch={"GPU": 4}), devices=(a_gpu(), a_cpu()), device="GPU")
    assert [arm.batch for arm in found[0].batched] == [2, 4]


def test_auto_is_an_arm_of_its_own_beside_each_of_its_devices() -> None:
    found = names(arms(devices=(a_gpu(), a_cpu()), device="AUTO"))
    assert found[0] == "AUTO:GPU,CPU: THROUGHPUT"
    assert {name.split(": ")[0] for name in found} == {"AUTO:GPU,CPU", "GPU", "CPU"}
    assert len(found) <= 12


def test_all_devices_at_once_stays_all_devices_at_once() -> None:
    found = arms(devices=(a_gpu(), a_cpu()), device="MULTI:GPU,CPU")
    assert names(found) == ["CUMULATIVE_THROUGHPUT"]


def test_an_npu_has_hints_only() -> None:
    assert names(arms(devices=(an_npu(), a_cpu()), device="NPU")) == ["THROUGHPUT", "LATENCY"]


def test_as_many_callers_as_there_are_bound_the_throughput_hint() -> None:
    found = arms(traffic={"arrivals": "closed", "concurrency": 1})
    assert found[0].arm.properties["PERFORMANCE_HINT_NUM_REQUESTS"] == "1"


def test_a_device_that_is_absent_is_an_error() -> None:
    with pytest.raises(OrchError, match="GPU is not on this machine"):
        arms(device="GPU")


def test_no_more_streams_and_rows_are_tried_than_callers_there_are() -> None:
    """Seen to gather batches of two, on two streams, for one camera."""
    one = arms(8, traffic={"arrivals": "constant", "concurrency": 1})
    assert names(one) == ["THROUGHPUT", "LATENCY", "1 stream x 8 threads"]
    assert not any(candidate.batched for candidate in one)
    three = arms(8, traffic={"arrivals": "closed", "concurrency": 3})
    assert [candidate.streams for candidate in three[2:]] == [1, 2]
    assert {arm.batch for candidate in three for arm in candidate.batched} == {2}
