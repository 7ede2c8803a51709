"""Statistics and configuration in Triton's shape, from literals."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from orchestrator.serving.oip_messages import ModelConfigResponse, ModelStatisticsResponse
from orchestrator.serving.repository import model_config, only_ready
from orchestrator.serving.statistics import counted, model_statistics
from orchestrator.telemetry.recorder import Recorder
from tests.serving.doubling import doubler


def a_recorder() -> Recorder:
    """Return three answers, two of them in one inference, and each way to fail."""
    recorder = Recorder(100.0)
    for _ in range(7):
        recorder.arrived(101.0)
    recorder.rejected(101.0)
    recorder.expired(101.0)
    recorder.cancelled(101.0)
    recorder.failed(101.0)
    recorder.batch(102.0, 2, 0.010)
    recorder.completed(102.0, 0.001, 0.010, 0.011, True)
    recorder.completed(102.0, 0.003, 0.010, 0.013, True)
    recorder.batch(103.0, 1, 0.008)
    recorder.completed(103.0, 0.0, 0.008, 0.008, True)
    return recorder


def stats() -> dict[str, Any]:
    return model_statistics("m", "1", counted(a_recorder()), last_inference_ms=1_700_000_000_123)


def test_statistics_add_up() -> None:
    entry = stats()
    assert (entry["inference_count"], entry["execution_count"]) == (3, 2)
    assert entry["last_inference"] == 1_700_000_000_123
    parts = entry["inference_stats"]
    assert parts["success"] == {"count": 3, "ns": 32_000_000}
    assert parts["queue"] == {"count": 3, "ns": 4_000_000}
    assert parts["compute_infer"] == {"count": 3, "ns": 28_000_000}
    assert parts["fail"] == {"count": 4, "ns": 0}
    assert [(each["batch_size"], each["compute_infer"]) for each in entry["batch_stats"]] == [
        (1, {"count": 1, "ns": 8_000_000}),
        (2, {"count": 1, "ns": 10_000_000}),
    ]


def test_a_pool_that_has_served_nothing_has_statistics() -> None:
    entry = model_statistics("m", "1", counted(Recorder(0.0)), last_inference_ms=0)
    assert (entry["inference_count"], entry["batch_stats"]) == (0, [])


def test_the_same_keys_make_json_and_protobuf() -> None:
    message = ModelStatisticsResponse(model_stats=[stats()])
    back = json_format.MessageToDict(message, preserving_proto_field_name=True)["model_stats"][0]
    assert int(back["inference_stats"]["success"]["ns"]) == 32_000_000
    config = model_config(doubler("BYTES", None, 3, name="texts"), requests=4)
    told = json_format.MessageToDict(ModelConfigResponse(config=config), preserving_proto_field_name=True)["config"]
    assert told["input"] == [{"name": "x", "data_type": "TYPE_STRING", "dims": ["-1", "3"]}]


def test_a_configuration_names_what_perf_analyzer_asks_for() -> None:
    assert model_config(doubler("FP32", 1, 3, name="one"), requests=2) == {
        "name": "one",
        "platform": "openvino",
        "backend": "openvino",
        "max_batch_size": 0,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1, 3]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1, 3]}],
        "instance_group": [{"name": "one", "kind": "KIND_MODEL", "count": 2}],
    }


def test_gathered_rows_are_the_batch_and_no_dimension() -> None:
    config = model_config(doubler("FP32", 8, 3, max_rows=8), requests=2)
    assert (config["max_batch_size"], config["input"][0]["dims"], config["dynamic_batching"]) == (8, [3], {})


def test_only_ready_models_are_listed_where_only_they_are_asked_for() -> None:
    index = [{"name": "a", "state": "READY"}, {"name": "b", "state": "UNAVAILABLE"}]
    assert only_ready(index, ready=True) == index[:1]
    assert only_ready(index, ready=False) == index
