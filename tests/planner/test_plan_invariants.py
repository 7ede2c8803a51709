"""What holds of every plan, whatever the manifest, the machine and the model."""

from __future__ import annotations

import random

from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import Deployment
from orchestrator.planner.diff import diff, needs_action
from orchestrator.planner.placement import on_cpu
from orchestrator.planner.plan import DeploymentPlan, ModelPlan
from orchestrator.planner.properties import accepts
from orchestrator.planner.resolve import resolve
from orchestrator.planner.rules import RULES
from orchestrator.planner.text import WIDTH, changes_to_text, plan_to_text
from tests.builders import model_infos
from tests.strategies import HARMLESS, cases, deployments, inventories, model_facts

Planned = tuple[Deployment, Inventory, ModelInfo]


def planned(deployment: Deployment, inventory: Inventory, info: ModelInfo) -> DeploymentPlan | None:
    """Return the plan, None where the planner refuses; any other outcome is a failure."""
    try:
        return resolve(deployment, inventory, model_infos(deployment, info))
    except OrchError as refusal:
        error = refusal
    assert error.kind in {Kind.INVALID, Kind.UNSUPPORTED}
    assert all(problem.what and problem.where for problem in error.problems)
    return None


def settings_of(model: ModelPlan, device: str) -> dict[str, str]:
    """Return what the device is told, directly or behind AUTO."""
    return {**model.properties, **model.device_properties.get(device, {})}


def devices_of(model: ModelPlan) -> list[str]:
    """Return the names of the devices in the plan's device string."""
    _, colon, names = model.device.partition(":")
    return [name.partition("(")[0] for name in (names if colon else model.device).split(",")]


# Seen to fail when the planner raised an AssertionError for a model with neither callers nor SLO.
@given(deployments(), inventories(), model_facts())
def test_a_plan_is_made_or_refused_and_always_the_same(
    deployment: Deployment, inventory: Inventory, info: ModelInfo
) -> None:
    first, second = planned(deployment, inventory, info), planned(deployment, inventory, info)
    assert first == second
    assert (first and first.digest()) == (second and second.digest())


# Seen to fail when GPU.0 was handed on as GPU.
@given(cases())
def test_no_device_is_planned_that_the_machine_does_not_have(case: Planned) -> None:
    deployment, inventory, info = case
    plan = planned(deployment, inventory, info)
    assume(plan is not None)
    assert plan is not None
    names = {device.name for device in inventory.devices}
    for model in plan.models:
        assert set(devices_of(model)) <= names
        assert set(model.device_properties) <= set(devices_of(model))


# Seen to fail when streams AUTO were planned together with a THROUGHPUT hint.
@given(cases())
def test_a_hint_and_explicit_streams_never_meet_on_a_device(case: Planned) -> None:
    deployment, inventory, info = case
    plan = planned(deployment, inventory, info)
    assume(plan is not None)
    assert plan is not None
    for model in plan.models:
        assert model.expression == ("explicit" if _streams(model) else "hint")
        own = model.device_properties.values() if model.device_properties else [model.properties]
        assert not any("NUM_STREAMS" in told and "PERFORMANCE_HINT" in told for told in own)
        if model.expression == "explicit":
            assert model.properties.get("PERFORMANCE_HINT") in {None, "CUMULATIVE_THROUGHPUT"}
        else:
            assert "PERFORMANCE_HINT" in model.properties


def _streams(model: ModelPlan) -> bool:
    return any("NUM_STREAMS" in told for told in [model.properties, *model.device_properties.values()])


# Seen to fail when gpu_by_callers ignored RANGE_FOR_STREAMS, and when each model's threads were rounded up.
@given(cases())
def test_streams_and_threads_stay_within_the_machine(case: Planned) -> None:
    deployment, inventory, info = case
    plan = planned(deployment, inventory, info)
    assume(plan is not None)
    assert plan is not None
    threads = [model.threads for model in plan.models if model.threads is not None]
    assert sum(threads) <= plan.cpus or set(threads) == {1}
    assert plan.cpus <= inventory.host.effective_cpus
    for model in plan.models:
        for name in devices_of(model):
            device = inventory.device(name)
            assert device is not None
            assert device.range_for_streams is None or (model.streams or 1) <= device.range_for_streams[1]
            if on_cpu(device):
                assert model.threads is not None
                assert (model.streams or 1) <= model.threads
                assert settings_of(model, name)["INFERENCE_NUM_THREADS"] == str(model.threads)
                assert settings_of(model, name)["ENABLE_CPU_PINNING"] in {"YES", "NO"}


# Seen to fail when device_settings did not ask what a device takes.
@given(cases())
def test_a_device_behind_auto_is_told_only_what_it_takes(case: Planned) -> None:
    deployment, inventory, info = case
    plan = planned(deployment, inventory, info)
    assume(plan is not None)
    assert plan is not None
    for model in plan.models:
        for name, told in model.device_properties.items():
            device = inventory.device(name)
            assert device is not None
            assert all(accepts(device, key) for key in told)


# Seen to fail when gpu_by_callers did not ask for an obstacle.
@given(cases())
def test_what_cannot_be_batched_is_not(case: Planned) -> None:
    deployment, inventory, info = case
    plan = planned(deployment, inventory, info)
    assume(plan is not None)
    assert plan is not None
    if info.dynamic or info.stateful or not info.batchable:
        assert all(model.batch == 1 for model in plan.models)


# Seen to fail when ties between models were broken by their order in the manifest.
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_models_changes_nothing(case: Planned, shuffler: random.Random) -> None:
    deployment, inventory, info = case
    plan = planned(deployment, inventory, info)
    assume(plan is not None)
    assert plan is not None
    models = list(deployment.spec.models)
    shuffler.shuffle(models)
    spec = deployment.spec.model_copy(update={"models": models})
    other = planned(deployment.model_copy(update={"spec": spec}), inventory, info)
    assert other is not None
    assert other.digest() == plan.digest()


# Seen to fail when a Reason named rule 34.
@given(cases())
def test_every_decision_has_a_reason_and_every_rule_is_in_the_table(case: Planned) -> None:
    deployment, inventory, info = case
    plan = planned(deployment, inventory, info)
    assume(plan is not None)
    assert plan is not None
    for model in plan.models:
        subjects = {reason.subject for reason in model.reasons}
        assert subjects >= {"queue"} | ({"threads", "pinning"} if model.threads else set())
        assert subjects & {"hint", "streams", "batch"}
        assert all(reason.rule is None or reason.rule in RULES for reason in model.reasons)


# Seen to fail when a created model had no cause.
@given(cases(), deployments(st.just("CPU"), HARMLESS))
def test_a_diff_is_empty_only_of_equals_and_each_change_has_a_cause(case: Planned, changed: Deployment) -> None:
    deployment, inventory, info = case
    old, new = planned(deployment, inventory, info), planned(changed, inventory, info)
    assume(old is not None and new is not None)
    assert old is not None
    assert new is not None
    assert not needs_action(diff(old, old))
    changes = diff(old, new)
    assert all(change.cause for change in changes)
    assert [change.model for change in changes if change.model] == sorted(
        {model.name for model in (*old.models, *new.models)}
    )
    if not needs_action(changes):
        assert {model.name: model.compile_key() for model in old.models} == {
            model.name: model.compile_key() for model in new.models
        }


# Seen to fail when lines were wrapped one column too wide.
@given(cases())
def test_the_text_of_a_plan_fits_the_page(case: Planned) -> None:
    deployment, inventory, info = case
    plan = planned(deployment, inventory, info)
    assume(plan is not None)
    assert plan is not None
    text = plan_to_text(plan, diff(None, plan)) + changes_to_text(diff(plan, None))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert not any(line != line.rstrip() for line in text.splitlines())
