"""The table of OpenVINO's properties and the check of what a manifest passes through."""

from __future__ import annotations

import pytest

from orchestrator.planner.properties import TABLE, accepts, check, normalise
from tests.builders import a_cpu, a_gpu, an_npu, writable


@pytest.mark.parametrize(
    ("key", "value", "what", "hint"),
    [
        ("MODEL_PRIORITY", "LOW", "MODEL_PRIORITY is not supported by CPU",
         "it is for AUTO, GPU, MULTI, NPU; remove it"),
        ("COMPILATION_NUM_THREADS", 2, "COMPILATION_NUM_THREADS is not supported by CPU",
         "it is for GPU, NPU; remove it"),
        ("CACHE_MODE", "OPTIMIZE_SIZE", "CACHE_MODE is not supported by CPU", "it is for GPU; remove it"),
        ("WORKLOAD_TYPE", "EFFICIENT", "WORKLOAD_TYPE is not supported by CPU", "it is for NPU; remove it"),
        (
            "AFFINITY",
            "CORE",
            "AFFINITY cannot be used: it was removed from OpenVINO; use ENABLE_CPU_PINNING",
            "remove it",
        ),
        (
            "ENABLE_STARTUP_FALLBACK",
            False,
            "ENABLE_STARTUP_FALLBACK is not supported by CPU",
            "it is for AUTO; remove it",
        ),
        ("RANGE_FOR_STREAMS", "1", "RANGE_FOR_STREAMS can only be read", "remove it"),
    ],
)  # fmt: skip
def test_what_the_cpu_rejects_is_refused_before_compiling(key: str, value: str | int, what: str, hint: str) -> None:
    rejection = check(key, value, [a_cpu()], None)
    assert rejection is not None
    assert (rejection.what, rejection.hint) == (what, hint)


def test_an_unknown_key_is_answered_with_the_nearest_word() -> None:
    rejection = check("INFERENCE_PRECISON_HINT", "f32", [a_cpu()], None)
    assert rejection is not None
    assert rejection.what == "INFERENCE_PRECISON_HINT is no OpenVINO property that orch or CPU knows"
    assert rejection.hint == "did you mean INFERENCE_PRECISION_HINT?"


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("PERFORMANCE_HINT", "compile.hint"),
        ("NUM_STREAMS", "compile.streams"),
        ("INFERENCE_NUM_THREADS", "compile.threads"),
        ("PERFORMANCE_HINT_NUM_REQUESTS", "compile.requests"),
        ("MULTI_DEVICE_PRIORITIES", "device"),
    ],
)
def test_what_has_its_own_field_is_not_taken_from_properties(key: str, field: str) -> None:
    rejection = check(key, "1", [a_cpu()], None)
    assert rejection is not None
    assert rejection.hint == f"remove it from `properties` and write `{field}`"


def test_auto_would_swallow_what_one_of_its_devices_does_not_take_so_each_is_asked() -> None:
    rejection = check("GPU_QUEUE_PRIORITY", "HIGH", [a_gpu(), a_cpu()], "AUTO")
    assert rejection is not None
    assert rejection.what == "GPU_QUEUE_PRIORITY is not supported by CPU"
    assert check("GPU_QUEUE_PRIORITY", "HIGH", [a_gpu()], "AUTO") is None


def test_what_only_auto_reads_is_taken_under_auto() -> None:
    assert check("ENABLE_RUNTIME_FALLBACK", False, [a_gpu(), a_cpu()], "AUTO") is None


def test_what_the_core_reads_is_taken_on_every_device() -> None:
    assert check("CACHE_DIR", "/var/cache/orch", [a_cpu()], None) is None


def test_a_key_that_the_device_lists_as_writable_is_taken_although_the_table_does_not_know_it() -> None:
    newer = a_cpu(properties=writable("SOMETHING_NEW", "SOMETHING_READ"))
    assert check("SOMETHING_NEW", "7", [newer], None) is None
    assert check("SOMETHING_READ", "7", [newer], None) is not None
    rejection = check("SOMETHING_NEW", "7", [newer, a_gpu()], "AUTO")
    assert rejection is not None
    assert rejection.what == "SOMETHING_NEW is not supported by GPU"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ENABLE_CPU_RESERVATION", "maybe", "ENABLE_CPU_RESERVATION must be YES or NO, got 'maybe'"),
        ("EXECUTION_MODE_HINT", "accurate", "EXECUTION_MODE_HINT must be one of PERFORMANCE, ACCURACY, got 'accurate'"),
        ("GPU_QUEUE_PRIORITY", 3, "GPU_QUEUE_PRIORITY must be one of LOW, MEDIUM, HIGH, got '3'"),
        ("COMPILATION_NUM_THREADS", 0, "COMPILATION_NUM_THREADS must be a whole number of at least 1, got '0'"),
        ("COMPILATION_NUM_THREADS", 1.5, "COMPILATION_NUM_THREADS must be a whole number of at least 1, got '1.5'"),
        ("COMPILATION_NUM_THREADS", True, "COMPILATION_NUM_THREADS must be a whole number of at least 1, got 'YES'"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(key: str, value: str | float, said: str) -> None:
    device = a_gpu(properties=writable(f"{key} EXECUTION_MODE_HINT"))
    rejection = check(key, value, [device], None)
    assert rejection is not None
    assert rejection.what == said


def test_equal_booleans_become_equal_text() -> None:
    assert {normalise("ENABLE_CPU_PINNING", value) for value in (True, "yes", "TRUE", 1, "1")} == {"YES"}
    assert {normalise("ENABLE_CPU_PINNING", value) for value in (False, "no", "False", 0)} == {"NO"}


def test_without_a_list_of_its_own_the_table_says_what_a_device_takes() -> None:
    assert accepts(a_cpu(properties={}), "ENABLE_CPU_PINNING")
    assert not accepts(an_npu(properties={}), "NUM_STREAMS")
    assert not accepts(a_cpu(name="XPU", properties={}), "PERFORMANCE_HINT")


def test_the_table_is_consistent() -> None:
    for key, known in TABLE.items():
        assert key == known.key == key.upper()
        assert bool(known.allowed) == (known.value in {"enum", "type"})
        assert not (known.field and known.set_by_orch)
        assert known.families or known.note
