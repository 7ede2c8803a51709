"""Which devices a device string means on a machine, and what is refused."""

from __future__ import annotations

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.device import Inventory
from tests.builders import (
    a_cpu,
    a_dynamic_model_info,
    a_gpu,
    a_model,
    a_plan,
    an_inventory,
    an_npu,
)

CPU, GPU, NPU = a_cpu(), a_gpu(), an_npu()
IGPU = a_gpu(name="GPU.0")
ARC = a_gpu(name="GPU.1", full_name="Intel(R) Arc(TM) A770 Graphics (dGPU)", type="discrete")
ARC2, ARC3 = ARC.model_copy(update={"name": "GPU.2"}), ARC.model_copy(update={"name": "GPU.3"})
NVIDIA = a_gpu(name="GPU.1", full_name="NVIDIA GeForce RTX 3060 (dGPU)", type="discrete")


def device_of(device: str, *devices: object, **model: object) -> str:
    """Return what OpenVINO is told for `device` on a machine with these devices."""
    return a_plan(a_model(device=device, **model), inventory=an_inventory(*devices)).models[0].device  # type: ignore[arg-type]


def refusal(inventory: Inventory, **model: object) -> OrchError:
    """Return the error that planning this model on the machine raises."""
    with pytest.raises(OrchError) as caught:
        a_plan(a_model(**model), inventory=inventory)
    return caught.value


def test_an_absent_device_is_refused_with_what_the_machine_has() -> None:
    error = refusal(an_inventory(CPU), device="NPU")
    assert error.kind is Kind.UNSUPPORTED
    assert str(error) == "shop/detector: device: NPU is not on this machine"
    assert error.problems[0].hint == "this machine has CPU; name a stand-in in `fallback`"


def test_every_absent_device_of_a_list_is_named_because_openvino_drops_them_in_silence() -> None:
    error = refusal(an_inventory(CPU), device="MULTI:NPU,GPU,CPU")
    assert [problem.what for problem in error.problems] == ["NPU is not on this machine", "GPU is not on this machine"]


def test_a_near_name_is_suggested() -> None:
    assert refusal(an_inventory(CPU, IGPU, ARC), device="GPU.7").problems[0].hint == (
        "this machine has CPU, GPU.0, GPU.1; did you mean GPU.1?"
    )


def test_a_fallback_stands_in_and_the_plan_is_degraded() -> None:
    plan = a_plan(a_model(device="AUTO:GPU,CPU", fallback=["NPU", "CPU"])).models[0]
    assert (plan.requested, plan.device) == ("AUTO:GPU,CPU", "CPU")
    assert plan.degraded == "GPU is not on this machine: CPU stands in, as `fallback` says"


def test_the_device_asked_for_is_not_degraded() -> None:
    assert a_plan(a_model(device="GPU", fallback=["CPU"]), inventory=an_inventory(CPU, GPU)).models[0].degraded is None


def test_a_fallback_that_is_absent_too_is_refused() -> None:
    error = refusal(an_inventory(CPU), device="GPU", fallback=["NPU"])
    assert [problem.what for problem in error.problems] == [
        "GPU is not on this machine",
        "none of NPU can stand in on this machine",
    ]


def test_gpu_means_the_first_gpu_and_the_plan_says_what_the_other_one_is() -> None:
    plan = a_plan(a_model(device="GPU"), inventory=an_inventory(CPU, IGPU, ARC)).models[0]
    assert plan.device == "GPU.0"
    assert plan.reasons[0].text == "GPU is GPU.0 here (integrated GPU); GPU.1 is discrete GPU"


def test_one_device_under_two_names_is_refused() -> None:
    assert "twice" in str(refusal(an_inventory(CPU, IGPU), device="AUTO:GPU,GPU.0"))


def test_multi_becomes_auto_with_cumulative_throughput_fastest_first() -> None:
    plan = a_plan(a_model(device="MULTI:CPU,GPU.0,GPU.1"), inventory=an_inventory(CPU, IGPU, ARC)).models[0]
    assert plan.device == "AUTO:GPU.1,GPU.0,CPU"
    assert plan.properties["PERFORMANCE_HINT"] == "CUMULATIVE_THROUGHPUT"
    assert plan.reasons[0].rule == 14
    assert plan.reasons[0].text.startswith("MULTI is deprecated in OpenVINO")


def test_equal_devices_keep_the_users_order() -> None:
    assert device_of("MULTI:GPU.2,GPU.1", CPU, ARC, ARC2) == "AUTO:GPU.2,GPU.1"


def test_auto_keeps_the_users_order_because_it_is_a_priority() -> None:
    assert device_of("AUTO:CPU,GPU", CPU, GPU) == "AUTO:CPU,GPU"


def test_a_bare_auto_becomes_the_devices_that_are_there_without_the_npu() -> None:
    assert device_of("AUTO", CPU, NPU, IGPU, ARC) == "AUTO:GPU.1,GPU.0,CPU"
    assert device_of("AUTO:-CPU", CPU, IGPU, ARC) == "AUTO:GPU.1,GPU.0"
    assert device_of("AUTO:-GPU", CPU, IGPU, ARC) == "CPU"


def test_a_list_of_one_is_used_directly_so_that_its_properties_can_be_read_back() -> None:
    plan = a_plan(a_model(device="AUTO")).models[0]
    assert plan.device == "CPU"
    assert [reason.text for reason in plan.reasons if reason.subject == "device"] == [
        "AUTO means CPU on this machine, fastest first; an NPU only if named",
        "CPU is the only device of AUTO: used directly, there is nothing to choose",
    ]


def test_auto_that_excludes_everything_is_refused() -> None:
    assert "leaves no device" in str(refusal(an_inventory(CPU), device="AUTO:-CPU"))


def test_three_gpus_together_drop_the_cpu() -> None:
    assert device_of("MULTI:CPU,GPU.1,GPU.2", CPU, ARC, ARC2) == "AUTO:GPU.1,GPU.2,CPU"
    assert device_of("MULTI:CPU,GPU.1,GPU.2,GPU.3", CPU, ARC, ARC2, ARC3) == "AUTO:GPU.1,GPU.2,GPU.3"


def test_a_gpu_of_another_maker_is_refused_and_never_chosen() -> None:
    machine = an_inventory(CPU, IGPU, NVIDIA)
    assert "NVIDIA GeForce RTX 3060" in str(refusal(machine, device="GPU.1"))
    assert device_of("AUTO", CPU, IGPU, NVIDIA) == "AUTO:GPU.0,CPU"


def test_a_gpu_that_does_not_say_intel_is_used_with_a_warning() -> None:
    strange = a_gpu(full_name="Some Graphics")
    plan = a_plan(a_model(device="GPU"), inventory=an_inventory(CPU, strange)).models[0]
    assert plan.warnings == ("GPU says it is Some Graphics: OpenVINO is made for Intel GPUs",)


def test_an_npu_refuses_dynamic_shapes() -> None:
    with pytest.raises(OrchError, match="the NPU takes static shapes only"):
        a_plan(a_model(device="NPU"), inventory=an_inventory(CPU, NPU), info=a_dynamic_model_info())


def test_a_fallback_must_be_able_to_run_the_model() -> None:
    plan = a_plan(
        a_model(device="GPU", fallback=["NPU", "CPU"]), inventory=an_inventory(CPU, NPU), info=a_dynamic_model_info()
    )
    assert plan.models[0].device == "CPU"


def test_a_device_under_a_name_of_its_own_gets_only_what_it_lists() -> None:
    alias = a_cpu(name="XPU", full_name="HETERO", properties={})
    plan = a_plan(a_model(device="MULTI:CPU,XPU"), inventory=an_inventory(CPU, alias)).models[0]
    assert plan.device == "AUTO:XPU,CPU"
    assert set(plan.device_properties) == {"CPU"}
