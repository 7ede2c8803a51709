"""What each rule gives for a model on a machine, in the plan's own words."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.device import Cores, Inventory
from orchestrator.inventory.model import ModelInfo
from orchestrator.planner.plan import DeploymentPlan, ModelPlan, QuotaPlan, TlsPlan
from orchestrator.planner.resolve import resolve
from tests.builders import (
    MIB,
    a_cpu,
    a_deployment,
    a_dynamic_model_info,
    a_gpu,
    a_model,
    a_model_info,
    a_plan,
    a_tensor,
    an_inventory,
    an_npu,
    model_infos,
)

GPU_BOX = an_inventory(a_cpu(range_for_streams=(1, 8)), a_gpu(), cpus=8)
ALL_BOX = an_inventory(a_cpu(range_for_streams=(1, 8)), a_gpu(), an_npu(), cpus=8)


def one(inventory: Inventory | None = None, info: ModelInfo | None = None, **model: Any) -> ModelPlan:
    """Return the plan of a single model."""
    return a_plan(a_model(**model), inventory=inventory, info=info).models[0]


def refused(inventory: Inventory | None = None, info: ModelInfo | None = None, **model: Any) -> str:
    """Return what planning a single model is refused with."""
    with pytest.raises(OrchError) as caught:
        one(inventory, info, **model)
    return str(caught.value)


def why(plan: ModelPlan, subject: str) -> list[tuple[str, int | None]]:
    """Return the plan's reasons for `subject`."""
    return [(reason.text, reason.rule) for reason in plan.reasons if reason.subject == subject]


# The hint: the decision table.


@pytest.mark.parametrize(
    ("slo", "traffic", "hint", "requests", "rule"),
    [
        (None, {}, "THROUGHPUT", None, 3),
        (None, {"concurrency": 1}, "LATENCY", None, 2),
        (None, {"concurrency": 6}, "THROUGHPUT", "6", 3),
        ({"latency": "40ms", "rate": "60/s"}, {}, "THROUGHPUT", "3", 3),
        ({"latency": "40ms", "rate": "5/s"}, {}, "THROUGHPUT", "2", 3),
        ({"latency": "40ms", "rate": "1/s"}, {}, "LATENCY", None, 2),
        ({"latency": "40ms", "rate": "60/s"}, {"concurrency": 1}, "LATENCY", None, 2),
        ({"latency": "40ms"}, {}, "LATENCY", None, 2),
        ({"latency": "2s"}, {}, "THROUGHPUT", None, 3),
        ({"latency": "40ms"}, {"concurrency": 4}, "THROUGHPUT", "4", 3),
    ],
)  # fmt: skip
def test_the_hint_follows_from_what_the_callers_need(
    slo: dict[str, Any] | None, traffic: dict[str, Any], hint: str, requests: str | None, rule: int
) -> None:
    plan = one(slo=slo, traffic=traffic)
    assert plan.expression == "hint"
    assert plan.properties["PERFORMANCE_HINT"] == hint
    assert plan.properties.get("PERFORMANCE_HINT_NUM_REQUESTS") == requests
    assert why(plan, "hint")[0][1] == rule
    assert (plan.streams, plan.requests) == (None, None)
    assert why(plan, "requests")[-1] == ("OPTIMAL_NUMBER_OF_INFER_REQUESTS of the compiled model", 4)


def test_a_hint_of_the_manifest_is_taken_with_its_requests() -> None:
    plan = one(compile={"hint": "THROUGHPUT", "requests": 8}, traffic={"concurrency": 1})
    assert plan.properties == {
        "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_NUM_THREADS": "2",
        "PERFORMANCE_HINT": "THROUGHPUT",
        "PERFORMANCE_HINT_NUM_REQUESTS": "8",
    }


def test_cumulative_throughput_on_the_one_device_that_is_there_is_throughput() -> None:
    plan = one(device="AUTO:GPU,CPU", fallback=["CPU"], compile={"hint": "CUMULATIVE_THROUGHPUT"})
    assert plan.properties["PERFORMANCE_HINT"] == "THROUGHPUT"
    assert why(plan, "hint")[-1][1] == 17


# Explicit streams.


def test_explicit_streams_are_planned_without_a_hint() -> None:
    plan = one(compile={"streams": 2, "threads": 2, "requests": 6}, traffic={"concurrency": 6})
    assert plan.expression == "explicit"
    assert plan.properties == {"ENABLE_CPU_PINNING": "NO", "INFERENCE_NUM_THREADS": "2", "NUM_STREAMS": "2"}
    assert (plan.streams, plan.threads, plan.requests) == (2, 2, 6)


def test_streams_auto_are_left_to_openvino() -> None:
    plan = one(compile={"streams": "AUTO"})
    assert (plan.expression, plan.properties["NUM_STREAMS"], plan.streams) == ("explicit", "AUTO", None)
    assert "PERFORMANCE_HINT" not in plan.properties


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ({"compile": {"streams": 3}}, "shop/detector: compile.streams: CPU offers 1 to 2 streams, got 3"),
        ({"compile": {"threads": 4}}, "shop/detector: compile.threads: the worker has 2 cores, got 4"),
        (
            {"compile": {"streams": 2, "threads": 1}},
            "shop/detector: compile.streams: 2 streams cannot run on 1 threads: OpenVINO would cut them",
        ),
        (
            {"properties": {"NO_SUCH": "1"}},
            "shop/detector: properties.NO_SUCH: NO_SUCH is no OpenVINO property that orch or CPU knows",
        ),
        (
            {"device": "BATCH:CPU"},
            "shop/detector: device: BATCH:CPU without a size is plain CPU: only a GPU knows its own",
        ),
        (
            {"sha256": "b" * 64},
            "shop/detector: sha256: the manifest pins bbbbbbbbbbbb..., and models/detector.onnx is aaaaaaaaaaaa...",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_compiling(model: dict[str, Any], what: str) -> None:
    assert refused(**model) == what


def test_a_worker_with_fewer_cores_than_the_device_offers_bounds_the_streams() -> None:
    with pytest.raises(OrchError, match="streams 4 need as many cores, and the worker has 2"):
        a_plan(a_model(compile={"streams": 4}), inventory=GPU_BOX, resources={"cpus": 2})


def test_streams_that_no_caller_can_fill_are_warned_about() -> None:
    plan = one(compile={"streams": 2}, traffic={"concurrency": 1})
    assert plan.warnings == ("2 streams for 1 callers: 1 will stand idle",)


def test_all_problems_of_all_models_come_at_once() -> None:
    models = [
        a_model("a", device="GPU"),
        a_model("b", compile={"streams": 9}),
        a_model("c", properties={"AFFINITY": "x"}),
    ]
    with pytest.raises(OrchError) as caught:
        a_plan(*models)
    assert [problem.where for problem in caught.value.problems] == [
        "shop/a: device",
        "shop/b: compile.streams",
        "shop/c: properties.AFFINITY",
    ]


# GPU.


@pytest.mark.parametrize(
    ("callers", "streams", "requests", "batch"), [(2, 1, 2, 1), (3, 2, 4, 1), (4, 2, 4, 1), (5, 2, 4, 1),
                                                  (8, 2, 4, 2), (16, 2, 4, 4), (31, 2, 4, 4), (64, 2, 4, 16)]
)  # fmt: skip
def test_a_gpu_is_filled_by_its_callers(callers: int, streams: int, requests: int, batch: int) -> None:
    plan = one(GPU_BOX, device="GPU", traffic={"arrivals": "closed", "concurrency": callers})
    assert (plan.expression, plan.streams, plan.requests, plan.batch) == ("explicit", streams, requests, batch)
    assert plan.properties == {"ALLOW_AUTO_BATCHING": "NO", "NUM_STREAMS": str(streams)}
    assert plan.threads is None


def test_sixteen_cameras_written_out_are_two_streams_of_two_requests_of_four_rows() -> None:
    plan = one(
        GPU_BOX,
        device="GPU",
        traffic={"arrivals": "closed", "concurrency": 16},
        compile={"streams": 2, "batch": 4, "requests": 4},
    )
    assert (plan.streams, plan.requests, plan.batch) == (2, 4, 4)


def test_explicit_gpu_streams_get_two_requests_each_because_openvino_gives_one_without_a_hint() -> None:
    plan = one(GPU_BOX, device="GPU", compile={"streams": 2})
    assert plan.requests == 4
    assert why(plan, "requests") == [("4 = 2 streams x 2: one computes, one is prepared", 8)]


def test_the_devices_own_batch_sizes_cap_the_rule() -> None:
    info = a_model_info(optimal_batch={"GPU": 3}, max_batch={"GPU": 64})
    plan = one(GPU_BOX, info, device="GPU", traffic={"concurrency": 64})
    assert plan.batch == 2
    assert "OPTIMAL_BATCH_SIZE of GPU is 3" in why(plan, "batch")[0][0]


def test_a_batch_beyond_what_the_device_holds_is_refused() -> None:
    info = a_model_info(max_batch={"GPU.0": 8})
    said = refused(GPU_BOX, info, device="GPU", compile={"streams": 1, "batch": 16})
    assert said == "shop/detector: compile.batch: batch 16 is more than GPU can hold (MAX_BATCH_SIZE 8)"


def test_a_gpu_with_one_stream_gets_one() -> None:
    box = an_inventory(a_cpu(), a_gpu(range_for_streams=(1, 1)))
    plan = one(box, device="GPU", traffic={"concurrency": 16})
    assert (plan.streams, plan.requests, plan.batch) == (1, 2, 8)


def test_dynamic_shapes_are_not_batched_by_rule() -> None:
    plan = one(GPU_BOX, a_dynamic_model_info(), device="GPU", traffic={"concurrency": 16})
    assert (plan.streams, plan.batch) == (2, 1)
    assert ("none: it has dynamic input shapes, so rows of different sizes would meet", 6) in why(plan, "batch")


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (a_dynamic_model_info(), "it has dynamic input shapes"),
        (a_model_info(stateful=True), "it keeps state between inferences"),
        (
            a_model_info(batchable=False, unbatchable_reason="output `boxes` has no axis 0"),
            "output `boxes` has no axis 0",
        ),
    ],
)
def test_an_explicit_batch_that_the_model_cannot_have_is_refused_with_the_reason(info: ModelInfo, reason: str) -> None:
    assert reason in refused(None, info, compile={"streams": 1, "batch": 4})


def test_auto_batching_of_openvino_is_off_wherever_a_gpu_takes_part() -> None:
    assert one(GPU_BOX, device="GPU").properties["ALLOW_AUTO_BATCHING"] == "NO"
    assert one(GPU_BOX, device="AUTO:GPU,CPU").properties["ALLOW_AUTO_BATCHING"] == "NO"
    assert "ALLOW_AUTO_BATCHING" not in one().properties


# CPU: threads, pinning, sockets, hybrid, batch.


def test_pinning_is_on_only_with_cores_of_ones_own_and_one_model() -> None:
    def pinned(*models: dict[str, Any], cores: tuple[int, ...] | None, **host: Any) -> set[str]:
        inventory = an_inventory(cpus=8, **host)
        plan = a_plan(*models, inventory=inventory, cores=cores)
        return {model.properties["ENABLE_CPU_PINNING"] for model in plan.models}

    mine = (2, 3)
    assert pinned(a_model(), cores=mine) == {"YES"}
    assert pinned(a_model(), cores=None) == {"NO"}
    assert pinned(a_model("a"), a_model("b"), cores=mine) == {"NO"}
    assert pinned(a_model(), cores=mine, quota_cpus=4.0) == {"NO"}


def test_a_quota_bounds_the_threads_and_the_plan_says_so() -> None:
    plan = one(an_inventory(cpus=8, quota_cpus=2.5))
    assert plan.threads == 2
    assert why(plan, "threads") == [("2: the cgroup grants 2.5 of 8 processors, which OpenVINO ignores", 23)]


def test_models_share_the_cores_by_priority() -> None:
    plan = a_plan(
        a_model("a", priority="critical"), a_model("b", priority="sheddable"), inventory=an_inventory(cpus=10)
    )
    assert {model.name: model.threads for model in plan.models} == {"a": 8, "b": 2}


def test_models_share_the_cores_by_rate() -> None:
    fast, slow = ({"latency": "50ms", "rate": rate} for rate in ("90/s", "30/s"))
    plan = a_plan(a_model("a", slo=slow), a_model("b", slo=fast), inventory=an_inventory(cpus=8))
    assert {model.name: model.threads for model in plan.models} == {"a": 2, "b": 6}


def test_more_models_than_cores_get_a_thread_each_and_a_warning() -> None:
    plan = a_plan(*(a_model(name) for name in "abc"))
    assert [model.threads for model in plan.models] == [1, 1, 1]
    assert plan.warnings == ("3 models share 2 cores: one thread each, and they slow each other down",)


def test_threads_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(OrchError) as caught:
        a_plan(a_model("a", compile={"threads": 2}), a_model("b"))
    assert (
        str(caught.value) == "shop: models: the models need 3 threads together (a 2, b 1), and the worker has 2 cores"
    )


def test_streams_need_a_core_each_beside_the_other_models() -> None:
    with pytest.raises(OrchError, match=r"the models need 3 threads together \(a 2, b 1\), and the worker has 2 cores"):
        a_plan(a_model("a", compile={"streams": 2}), a_model("b"))


def test_several_models_on_several_sockets_share_physical_cores() -> None:
    plan = a_plan(a_model("a"), a_model("b"), inventory=XEON)
    assert [model.threads for model in plan.models] == [16, 16]


def test_an_odd_core_goes_to_the_same_model_in_whatever_order_they_stand() -> None:
    machine = an_inventory(cpus=3)
    plans = [
        a_plan(*order, inventory=machine) for order in ((a_model("a"), a_model("b")), (a_model("b"), a_model("a")))
    ]
    assert plans[0].digest() == plans[1].digest()
    assert [model.threads for model in plans[0].models] == [2, 1]


def test_what_other_deployments_hold_is_not_planned_for() -> None:
    assert a_plan(inventory=an_inventory(cpus=8), taken_cpus=6).cpus == 2
    plan = a_plan(inventory=an_inventory(cpus=4), taken_cpus=3, resources={"cpus": 2})
    assert plan.cpus == 1
    assert plan.warnings == (
        "resources.cpus is 2, and this machine grants 4, of which other deployments hold 3: planned for 1 that it "
        "shares with them",
    )


@pytest.mark.parametrize(("cpus", "stated"), [(1, "resources.cpus is 1"), (None, "no core is left")])
def test_who_gets_no_core_of_its_own_because_others_hold_all_is_told(cpus: int | None, stated: str) -> None:
    """Seen to share in silence the cores that two others were promised."""
    plan = a_plan(inventory=an_inventory(cpus=2), taken_cpus=2, resources={"cpus": cpus} if cpus else {})
    shared = "of which other deployments hold 2: planned for 1 that it shares with them"
    assert (plan.cpus, plan.cores) == (1, None)
    assert plan.warnings == (f"{stated}, and this machine grants 2, {shared}",)


XEON = an_inventory(
    a_cpu(range_for_streams=(1, 64)),
    cores=Cores(
        allowed=tuple(range(64)), threads_per_core=2, sockets=2, numa_nodes=(tuple(range(32)), tuple(range(32, 64)))
    ),
)


def test_several_sockets_use_physical_cores_only() -> None:
    plan = one(XEON)
    assert plan.threads == 32
    assert why(plan, "threads") == [("32 of 64: several sockets: physical cores only", 25)]


def test_latency_on_two_sockets_uses_one_and_warns() -> None:
    plan = one(XEON, traffic={"concurrency": 1})
    assert plan.threads == 16
    assert plan.warnings == ("LATENCY uses one of 2 sockets; state `traffic.concurrency` to use all",)


def test_several_callers_with_a_tight_slo_get_a_stream_for_each_socket() -> None:
    plan = one(XEON, traffic={"concurrency": 4}, slo={"latency": "20ms"})
    assert (plan.expression, plan.streams) == ("explicit", 2)
    assert why(plan, "streams")[0][1] == 26


HYBRID = an_inventory(
    a_cpu(range_for_streams=(1, 24)),
    cores=Cores(
        allowed=tuple(range(24)),
        performance=tuple(range(16)),
        efficient=tuple(range(16, 24)),
        threads_per_core=2,
        numa_nodes=(tuple(range(24)),),
    ),
)


def test_a_hybrid_processor_is_left_to_openvino() -> None:
    plan = one(HYBRID)
    assert "SCHEDULING_CORE_TYPE" not in plan.properties
    assert why(plan, "core type") == [("left to OpenVINO on this hybrid processor", 27)]
    assert plan.threads == 24


def test_a_tight_latency_goal_on_a_hybrid_processor_gets_its_fast_cores() -> None:
    plan = one(HYBRID, traffic={"concurrency": 1}, slo={"latency": "10ms"})
    assert plan.properties["SCHEDULING_CORE_TYPE"] == "PCORE_ONLY"
    assert plan.threads == 8


def test_a_small_cpu_is_never_batched_by_rule_and_a_large_one_only_with_callers_for_it() -> None:
    assert one(an_inventory(cpus=8), traffic={"concurrency": 64}).batch == 1
    large = an_inventory(cpus=16)
    assert one(large, traffic={"concurrency": 16}).batch == 1
    plan = one(large, traffic={"concurrency": 64})
    assert plan.batch == 4
    assert why(plan, "batch") == [("4: 64 callers for 16 threads, on top of the streams", 7)]


# Several devices.


def test_cpu_and_gpu_together_get_properties_of_their_own() -> None:
    plan = one(GPU_BOX, device="MULTI:CPU,GPU", compile={"hint": "THROUGHPUT", "requests": 8})
    assert plan.properties == {
        "ALLOW_AUTO_BATCHING": "NO",
        "PERFORMANCE_HINT": "CUMULATIVE_THROUGHPUT",
        "PERFORMANCE_HINT_NUM_REQUESTS": "8",
    }
    assert plan.device_properties == {
        "CPU": {"ENABLE_CPU_PINNING": "NO", "INFERENCE_NUM_THREADS": "8", "PERFORMANCE_HINT": "THROUGHPUT"},
        "GPU": {"GPU_QUEUE_THROTTLE": "LOW", "PERFORMANCE_HINT": "THROUGHPUT"},
    }


def test_explicit_streams_over_several_devices_are_for_each_and_requests_are_of_all() -> None:
    plan = one(GPU_BOX, device="MULTI:GPU,CPU", compile={"streams": 2, "requests": 8})
    assert plan.properties["PERFORMANCE_HINT"] == "CUMULATIVE_THROUGHPUT"
    assert {name: settings["NUM_STREAMS"] for name, settings in plan.device_properties.items()} == {
        "CPU": "2",
        "GPU": "2",
    }
    assert plan.requests == 8


def test_latency_asked_of_several_devices_is_a_hint_for_each() -> None:
    plan = one(GPU_BOX, device="MULTI:GPU,CPU", compile={"hint": "LATENCY"})
    assert plan.properties["PERFORMANCE_HINT"] == "CUMULATIVE_THROUGHPUT"
    assert {settings["PERFORMANCE_HINT"] for settings in plan.device_properties.values()} == {"LATENCY"}


def test_with_an_slo_no_helper_answers_while_auto_starts() -> None:
    slo = {"latency": "40ms", "rate": "60/s"}
    assert one(GPU_BOX, device="AUTO:GPU,CPU", slo=slo).properties["ENABLE_STARTUP_FALLBACK"] == "NO"
    assert "ENABLE_STARTUP_FALLBACK" not in one(GPU_BOX, device="AUTO:GPU,CPU").properties
    assert "ENABLE_STARTUP_FALLBACK" not in one(GPU_BOX, device="AUTO:CPU,GPU", slo=slo).properties


def test_the_users_properties_win_and_go_where_they_are_read() -> None:
    plan = one(
        GPU_BOX,
        device="AUTO:GPU,CPU",
        properties={"ENABLE_CPU_PINNING": True, "ENABLE_STARTUP_FALLBACK": True, "CACHE_DIR": "/cache"},
        slo={"latency": "40ms"},
    )
    assert plan.properties["ENABLE_STARTUP_FALLBACK"] == "YES"
    assert plan.properties["CACHE_DIR"] == "/cache"
    assert plan.device_properties["CPU"]["ENABLE_CPU_PINNING"] == "YES"
    assert plan.device_properties["GPU"] == {"ENABLE_CPU_PINNING": "YES"}


def test_hetero_is_passed_through_with_the_cpus_threads() -> None:
    plan = one(GPU_BOX, device="HETERO:GPU,CPU")
    assert plan.device == "HETERO:GPU,CPU"
    assert plan.device_properties == {"CPU": {"ENABLE_CPU_PINNING": "NO", "INFERENCE_NUM_THREADS": "8"}}


def test_batch_is_passed_through_with_a_short_timer_and_advice() -> None:
    plan = one(device="BATCH:CPU(4)", slo={"latency": "200ms"})
    assert (plan.device, plan.batch) == ("BATCH:CPU(4)", 1)
    assert plan.properties["AUTO_BATCH_TIMEOUT"] == "20"
    assert "compile.batch" in plan.warnings[0]


def test_batch_of_a_dynamic_model_is_refused_because_it_would_silently_be_one() -> None:
    assert "cannot be batched" in refused(None, a_dynamic_model_info(), device="BATCH:CPU(4)")


# NPU.


def test_an_npu_gets_a_hint_and_no_streams() -> None:
    plan = one(ALL_BOX, device="NPU", traffic={"concurrency": 1})
    assert plan.properties == {"PERFORMANCE_HINT": "LATENCY"}
    assert "an NPU has no streams" in refused(ALL_BOX, device="NPU", compile={"streams": 2})


def test_an_npu_model_with_a_dynamic_batch_is_fixed_at_one_row() -> None:
    info = a_model_info(inputs=(a_tensor("image", (1, None), 3, 8, 8),))
    plan = one(ALL_BOX, info, device="NPU")
    assert plan.shapes == {"image": [1, 3, 8, 8]}
    assert why(plan, "shapes")[0][1] == 29


@pytest.mark.parametrize(("priority", "level"), [("critical", "HIGH"), ("sheddable", "LOW"), ("default", None)])
def test_priority_becomes_model_priority_where_the_device_knows_it(priority: str, level: str | None) -> None:
    for device in ("GPU", "NPU"):
        assert one(ALL_BOX, device=device, priority=priority).properties.get("MODEL_PRIORITY") == level
    assert "MODEL_PRIORITY" not in one(ALL_BOX, device="CPU", priority=priority).properties


def test_threads_are_refused_where_no_cpu_takes_part() -> None:
    said = refused(ALL_BOX, device="GPU", compile={"threads": 2})
    assert said == "shop/detector: compile.threads: threads are a setting of the CPU, and the model runs on GPU"


# Memory, queue, planning mode.


def test_weights_that_cannot_fit_are_refused_with_the_largest_first() -> None:
    with pytest.raises(OrchError) as caught:
        a_plan(a_model("a"), a_model("b"), info=a_model_info(weights_bytes=600 * MIB), resources={"memory": "1GiB"})
    assert caught.value.kind is Kind.UNSUPPORTED
    assert str(caught.value) == (
        "shop: resources.memory: the weights alone need 1.2GiB, more than the 1GiB in `resources.memory` "
        "(a 600MiB, b 600MiB)"
    )


def test_a_change_that_needs_both_models_at_once_is_warned_about() -> None:
    plan = a_plan(info=a_model_info(weights_bytes=600 * MIB), resources={"memory": "1GiB"})
    assert plan.warnings == (
        "during a change a model and its successor may need 1.2GiB, more than the 1GiB in `resources.memory`",
    )


def test_the_weights_of_a_discrete_gpu_lie_in_its_own_memory() -> None:
    arc = a_gpu(name="GPU.1", type="discrete", full_name="Intel(R) Arc(TM)", memory_bytes=512 * MIB)
    with pytest.raises(OrchError, match=r"600MiB on GPU.1, which has 512MiB"):
        one(an_inventory(a_cpu(), arc), a_model_info(weights_bytes=600 * MIB), device="GPU.1")


@pytest.mark.parametrize(
    ("model", "timeout_s"),
    [({}, 30.0), ({"slo": {"latency": "40ms"}}, 0.04), ({"slo": {"latency": "40ms"}, "queue": {"timeout": "1s"}}, 1.0)],
)
def test_a_request_waits_as_long_as_the_manifest_or_the_slo_allows(model: dict[str, Any], timeout_s: float) -> None:
    plan = one(**model)
    assert (plan.queue.timeout_s, plan.queue.limit) == (timeout_s, None)


@pytest.mark.parametrize("mode", ["measure", "predict"])
def test_what_was_not_measured_is_not_claimed(mode: str) -> None:
    plan = a_plan(planning={"mode": mode})
    assert plan.warnings == (
        f"planning.mode is {mode}, and nothing was measured of detector (a model without an SLO has no measure): "
        "planned by rule",
    )


def test_a_model_with_state_is_warned_about_where_requests_are_several() -> None:
    assert "the model keeps state" in one(info=a_model_info(stateful=True)).warnings[0]


@pytest.mark.parametrize(
    ("given", "burst"), [({"rate": "100/s", "burst": 7}, 7), ({"rate": "100/s"}, 100), ({"rate": "0.2/s"}, 1)]
)
def test_a_quota_is_carried_into_the_plan_with_a_burst_of_one_second(given: dict[str, Any], burst: int) -> None:
    deployment = a_deployment(endpoint={"quota": given})
    plan = resolve(deployment, an_inventory(cpus=4), model_infos(deployment))
    assert plan.endpoint.quota == QuotaPlan(rate_per_s=float(given["rate"][:-2]), burst=burst)
    assert DeploymentPlan.model_validate_json(plan.model_dump_json()) == plan


def test_a_plan_without_a_quota_has_the_bytes_of_one_that_knows_none() -> None:
    deployment = a_deployment()
    plan = resolve(deployment, an_inventory(cpus=4), model_infos(deployment))
    assert "quota" not in plan.model_dump_json()


def test_token_file_fingerprint_and_cores_are_carried_into_the_plan() -> None:
    deployment = a_deployment(resources={"cpus": 2})
    plan = resolve(
        deployment, an_inventory(cpus=4), model_infos(deployment), cores=(1, 2), token_file="/token", fingerprint="f00"
    )
    assert (plan.endpoint.token_file, plan.fingerprint, plan.cores, plan.cpus) == ("/token", "f00", (1, 2), 2)


def test_tls_is_carried_into_the_plan_and_a_plan_without_it_has_the_bytes_of_one_that_knows_none() -> None:
    files = {"certificate_file": "tls.crt", "key_file": "tls.key"}
    encrypted, clear = a_deployment(endpoint={"tls": files}), a_deployment()
    paths = TlsPlan(certificate_file="/site/tls.crt", key_file="/site/tls.key")
    plan = resolve(encrypted, an_inventory(cpus=4), model_infos(encrypted), tls=paths)
    assert plan.endpoint.tls == paths
    assert resolve(encrypted, an_inventory(cpus=4), model_infos(encrypted)).endpoint.tls == TlsPlan(**files)
    assert "tls" not in resolve(clear, an_inventory(cpus=4), model_infos(clear)).model_dump_json()


@pytest.mark.parametrize(
    ("endpoint", "warned"),
    [
        ({"http": "0.0.0.0:80", "token_file": "t"}, "in clear text at 0.0.0.0:80: add spec.endpoint.tls"),
        ({"http": "0.0.0.0:80", "grpc": "[::]:81", "token_file": "t"}, "clear text at 0.0.0.0:80 and [::]:81: add"),
        ({"http": "127.0.0.1:80", "token_file": "t"}, None),
        ({"http": "0.0.0.0:80", "insecure": True}, None),
        (
            {"http": "0.0.0.0:80", "token_file": "t", "tls": {"certificate_file": "c", "key_file": "k"}},
            None,
        ),
    ],
)
def test_a_token_that_can_be_read_on_its_way_is_warned_of(endpoint: dict[str, Any], warned: str | None) -> None:
    deployment = a_deployment(endpoint=endpoint)
    warnings = resolve(deployment, an_inventory(cpus=4), model_infos(deployment)).warnings
    found = [warning for warning in warnings if "clear text" in warning]
    assert len(found) == (warned is not None)
    assert all(warned is not None and warned in warning for warning in found)
