"""What changes between what runs and what is planned."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.planner.diff import Change, diff, needs_action
from orchestrator.planner.plan import DeploymentPlan, ModelPlan, QueuePlan, QuotaPlan, Reason, SloPlan, TlsPlan
from tests.builders import a_model, a_model_info, a_plan, an_inventory


def lines(changes: tuple[Change, ...]) -> list[tuple[str | None, str, str, str]]:
    """Return the changes as model, symbol, action and cause."""
    return [(change.model, change.symbol, change.action, change.cause) for change in changes]


def of_models(*models: dict[str, Any], **spec: Any) -> DeploymentPlan:
    """Return the plan of these models on eight cores, alone with three so that shares do not move."""
    return a_plan(*models, inventory=an_inventory(cpus=8), **spec)


def test_what_does_not_run_is_created() -> None:
    assert lines(diff(None, a_plan())) == [("detector", "+", "create", "no pool is running")]


def test_what_is_wanted_no_more_is_deleted() -> None:
    assert lines(diff(a_plan(), None)) == [("detector", "-", "delete", "the manifest no longer names it")]


def test_nothing_wanted_and_nothing_running_is_no_change() -> None:
    assert diff(None, None) == ()


def test_what_is_as_planned_is_unchanged() -> None:
    changes = diff(a_plan(), a_plan())
    assert lines(changes) == [("detector", "=", "unchanged", "as planned")]
    assert not needs_action(changes)


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ({"queue": {"limit": 128}}, "queue limit derived -> 128"),
        ({"queue": {"timeout": "5s"}}, "queue timeout 30s -> 5s"),
        ({"queue": {"memory": "1MiB"}}, "queue memory 256MiB -> 1MiB"),
        ({"priority": "critical"}, "priority default -> critical"),
        ({"version": "2"}, "version 1 -> 2"),
        ({"slo": {"latency": "2s"}}, "queue timeout 30s -> 2s and 1 other change"),
    ],
)
def test_queue_slo_and_priority_change_in_place(model: dict[str, Any], cause: str) -> None:
    assert lines(diff(a_plan(), a_plan(a_model(**model)))) == [("detector", "~", "update", cause)]


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ({"compile": {"hint": "LATENCY"}}, "PERFORMANCE_HINT THROUGHPUT -> LATENCY needs a new compiled model"),
        ({"properties": {"CACHE_DIR": "/c"}}, "CACHE_DIR unset -> /c needs a new compiled model"),
        ({"compile": {"batch": 4}}, "batch 1 -> 4 needs a new compiled model"),
        (
            {"compile": {"streams": 2, "requests": 2}},
            "NUM_STREAMS unset -> 2 and 2 other changes need a new compiled model",
        ),
    ],
)
def test_what_is_compiled_in_needs_a_new_model_and_the_property_is_named(model: dict[str, Any], cause: str) -> None:
    assert lines(diff(a_plan(), a_plan(a_model(**model)))) == [("detector", "±", "replace", cause)]


def test_a_new_file_needs_a_new_compiled_model() -> None:
    change = diff(a_plan(), a_plan(info=a_model_info(sha256="b" * 64)))[0]
    assert change.cause == "sha256 aaaaaaaaaaaa -> bbbbbbbbbbbb needs a new compiled model"


def test_a_replace_names_what_else_changes() -> None:
    change = diff(a_plan(), a_plan(a_model(compile={"hint": "LATENCY"}, queue={"limit": 9})))[0]
    assert change.details == ("PERFORMANCE_HINT THROUGHPUT -> LATENCY", "queue limit derived -> 9")


def test_a_second_model_takes_threads_from_the_first() -> None:
    changes = diff(of_models(a_model("a")), of_models(a_model("a"), a_model("b")))
    assert lines(changes) == [
        ("a", "±", "replace", "INFERENCE_NUM_THREADS 8 -> 4 needs a new compiled model"),
        ("b", "+", "create", "no pool is running"),
    ]


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ({"endpoint": {"http": "127.0.0.1:9000"}}, "http 127.0.0.1:8000 -> 127.0.0.1:9000 needs a new worker"),
        ({"endpoint": {"grpc": None}}, "grpc 127.0.0.1:8001 -> none needs a new worker"),
        ({"cores": (0, 1)}, "cores shared -> 0,1 needs a new worker"),
    ],
)
def test_endpoint_and_cores_need_a_new_worker(spec: dict[str, Any], cause: str) -> None:
    worker = diff(a_plan(), a_plan(**spec))[0]
    assert (worker.model, worker.action, worker.cause) == (None, "replace", cause)


def test_a_token_needs_a_new_worker() -> None:
    plan = a_plan()
    token = plan.endpoint.model_copy(update={"token_file": "/token"})
    worker = diff(plan, plan.model_copy(update={"endpoint": token}))[0]
    assert (worker.action, worker.cause) == ("replace", "token_file none -> /token needs a new worker")


def test_a_quota_needs_a_new_worker() -> None:
    plan = a_plan()
    quota = plan.endpoint.model_copy(update={"quota": QuotaPlan(rate_per_s=100, burst=50)})
    worker = diff(plan, plan.model_copy(update={"endpoint": quota}))[0]
    assert (worker.action, worker.cause) == ("replace", "quota none -> 100/s and 50 at once needs a new worker")


def test_other_files_for_tls_need_a_new_worker() -> None:
    plan = a_plan()
    tls = TlsPlan(certificate_file="/c", key_file="/k")
    encrypted = plan.model_copy(update={"endpoint": plan.endpoint.model_copy(update={"tls": tls})})
    worker = diff(plan, encrypted)[0]
    assert (worker.action, worker.cause) == (
        "replace",
        "tls none -> /c with /k, TLSv1.2 or later needs a new worker",
    )
    mutual = plan.endpoint.model_copy(update={"tls": tls.model_copy(update={"client_ca_file": "/ca"})})
    (worker, *_) = diff(encrypted, plan.model_copy(update={"endpoint": mutual}))
    assert worker.action == "replace"
    assert "clients of /ca" in worker.cause


def test_a_memory_limit_is_taken_over_in_place() -> None:
    worker = diff(a_plan(), a_plan(resources={"memory": "2GiB"}))[0]
    assert (worker.model, worker.action, worker.cause) == (None, "update", "memory open -> 2GiB")


def test_other_words_for_the_same_plan_change_nothing() -> None:
    plan = a_plan()
    reworded = plan.models[0].model_copy(update={"reasons": (Reason(subject="hint", text="other words"),)})
    changes = diff(plan, plan.model_copy(update={"models": (reworded,)}))
    assert lines(changes) == [("detector", "=", "unchanged", "only the wording of the plan differs")]


def test_values_that_print_alike_still_differ() -> None:
    changes = diff(a_plan(), a_plan(a_model(queue={"memory": f"{256 * 2**20 + 1}B"})))
    assert lines(changes) == [("detector", "~", "update", "queue memory 256MiB -> 256MiB")]


def test_changes_are_sorted_by_model() -> None:
    changes = diff(of_models(a_model("b")), of_models(a_model("c"), a_model("a")))
    assert [(change.model, change.action) for change in changes] == [("a", "create"), ("b", "delete"), ("c", "create")]


# Another value for every field of a model's plan, and what that change is; a new field has to be added here.
OTHER: dict[str, tuple[object, str]] = {
    "version": ("7", "update"),
    "weights_sha256": ("d" * 64, "replace"),
    "source": ("/other.onnx", "replace"),
    "sha256": ("b" * 64, "replace"),
    "requested": ("AUTO", "update"),
    "device": ("GPU", "replace"),
    "degraded": ("GPU is absent", "update"),
    "expression": ("explicit", "update"),
    "properties": ({"PERFORMANCE_HINT": "LATENCY"}, "replace"),
    "device_properties": ({"CPU": {"NUM_STREAMS": "1"}}, "replace"),
    "shapes": ({"image": [1, 3, 32, 32]}, "replace"),
    "streams": (3, "update"),
    "threads": (1, "update"),
    "batch": (8, "replace"),
    "requests": (8, "replace"),
    "queue": (QueuePlan(limit=1, timeout_s=30.0, memory_bytes=1), "update"),
    "slo": (SloPlan(latency_s=1.0, percentile=99.0, rate_per_s=None), "update"),
    "concurrency": (5, "update"),
    "priority": ("critical", "update"),
    "reasons": ((), "unchanged"),
    "warnings": (("careful",), "unchanged"),
    "capacity_per_s": (61.0, "update"),
    "capacity_low_per_s": (58.0, "update"),
    "capacity_high_per_s": (64.0, "update"),
    "verdict": ("verified", "update"),
    "service_s": (0.01, "update"),
    "service_p99_s": (0.02, "update"),
}


def test_every_field_of_a_plan_is_thought_of() -> None:
    assert set(OTHER) == set(ModelPlan.model_fields) - {"name"}


# Seen to fail when the compile key was not compared, and when the queue's memory was left out.
@pytest.mark.parametrize("field", sorted(OTHER))
def test_a_change_of_any_field_is_seen_and_a_replace_names_it(field: str) -> None:
    plan = a_plan()
    value, action = OTHER[field]
    other = plan.models[0].model_copy(update={field: value})
    (change,) = diff(plan, plan.model_copy(update={"models": (other,)}))
    assert change.action == action
    assert "its compiled model" not in change.cause


def test_a_change_of_pinning_needs_a_new_worker_because_openvino_keeps_its_threads() -> None:
    before = a_plan(a_model(properties={"ENABLE_CPU_PINNING": "NO"}))
    after = a_plan(a_model(properties={"ENABLE_CPU_PINNING": "YES"}))
    worker = diff(before, after)[0]
    assert (worker.model, worker.action) == (None, "replace")
    assert worker.cause == "pinning of detector NO -> YES needs a new worker"
    assert diff(before, before)[0].model == "detector"
