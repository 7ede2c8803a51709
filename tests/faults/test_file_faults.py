"""The model's file is replaced, cut or gone while it is served: the answers stay those of what was compiled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13

from benchmarks.reload_under_load import WorkerProcess
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.errors import Kind, OrchError
from orchestrator.manifest.spec import Deployment
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.planner.resolve import resolve
from orchestrator.serving.admin import error_from_json
from tests.faults.at_fault import port
from tests.serving.http_serving import Wire, binary_input, infer_json, post

ROWS, WIDTH = 20_000, 32  # large enough that OpenVINO would rather map it than read it


def a_table(folder: Path, scale: float = 1.0) -> Path:
    """Save a model whose weights are looked up row by row: mapped, every inference would read the file."""
    rows = opset13.parameter([1], np.int64, name="row")
    table = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH) * np.float32(scale)
    found = opset13.gather(opset13.constant(table), rows, opset13.constant(0))
    rows.output(0).get_tensor().set_names({"row"})
    found.output(0).get_tensor().set_names({"found"})
    path = folder / "table.xml"
    openvino.save_model(openvino.Model([found], [rows], "table"), path, compress_to_fp16=False)
    return path


def a_plan(path: Path, streams: int = 1) -> DeploymentPlan:
    model = {"name": "table", "source": str(path), "device": "CPU", "compile": {"streams": streams, "threads": streams}}
    spec = {"endpoint": {"http": "127.0.0.1:0", "grpc": None}, "models": [model]}
    document = {"apiVersion": "orch/v1", "kind": "Deployment", "metadata": {"name": "tables"}, "spec": spec}
    backend = OpenVinoBackend(())
    infos = {"table": backend.inspect(str(path), {}, ("CPU",))}
    return resolve(Deployment.model_validate(document), backend.inventory(), infos)


def looked_up(wire: Wire, row: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    given = binary_input("row", "INT64", np.array([row]))
    text = infer_json(given, parameters={"binary_data_output": True})
    reply = wire.ask(post("table", text + np.array([row]).tobytes(), json_length=len(text)))
    assert reply.status == 200, reply.body
    return np.frombuffer(reply.tail, np.float32)


def cut(path: Path) -> None:
    os.truncate(path, 100)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


@pytest.mark.parametrize("harm", [cut, overwritten, Path.unlink])
def test_a_model_answers_as_compiled_whatever_becomes_of_its_file(tmp_path: Path, harm: object) -> None:
    path = a_table(tmp_path)
    with WorkerProcess(tmp_path / "state", a_plan(path)) as worker:
        status = worker.until_state("Serving")
        with Wire(port(status)) as wire:
            assert looked_up(wire, 1)[0] == WIDTH
            harm(path.with_suffix(".bin"))  # type: ignore[operator]
            for row in range(0, ROWS, 500):
                assert looked_up(wire, row)[0] == row * WIDTH
            assert worker.process.poll() is None


def test_a_change_to_a_file_that_was_cut_is_refused_and_the_old_model_goes_on(tmp_path: Path) -> None:
    path = a_table(tmp_path)
    changed = a_plan(path, streams=2).model_dump(mode="json")
    with WorkerProcess(tmp_path / "state", a_plan(path)) as worker:
        status = worker.until_state("Serving")
        cut(path.with_suffix(".bin"))
        with pytest.raises(OrchError, match=r"table\.bin: is not the file that was planned") as caught:
            worker.call("apply", plan=changed, generation=2)
        assert caught.value.kind is Kind.FAILED
        with Wire(port(status)) as wire:
            assert looked_up(wire, 7)[0] == 7 * WIDTH


def test_a_worker_that_starts_again_refuses_by_name_a_file_that_was_replaced_meanwhile(tmp_path: Path) -> None:
    path = a_table(tmp_path)
    text, plan = path.read_text(), a_plan(path)
    a_table(tmp_path, scale=2.0)
    path.write_text(text)  # the names of layers are numbered through the process
    with WorkerProcess(tmp_path / "state", plan) as worker:
        assert worker.process.wait(30) == 1
    (problem,) = error_from_json(json.loads((tmp_path / "state" / "failure.json").read_text())).problems
    assert problem.where == str(path.with_suffix(".bin"))
    assert problem.what.endswith(f"planned was {(plan.models[0].weights_sha256 or '')[:12]}")
    assert "restore the file, or apply the manifest again" in (problem.hint or "")


def test_other_weights_beside_an_equal_xml_are_another_model_and_an_apply_serves_them(tmp_path: Path) -> None:
    path = a_table(tmp_path)
    text = path.read_text()
    with WorkerProcess(tmp_path / "state", a_plan(path)) as worker:
        status = worker.until_state("Serving")
        a_table(tmp_path, scale=2.0)
        path.write_text(text)  # the names of layers are numbered through the process
        with Wire(port(status)) as wire:
            assert looked_up(wire, 3)[0] == 3 * WIDTH
            told = worker.call("apply", plan=a_plan(path).model_dump(mode="json"), generation=2)
            (model,) = told["models"]
            assert model["action"] == "replace"
            assert model["cause"].startswith("weights")
            assert looked_up(wire, 3)[0] == 6 * WIDTH
