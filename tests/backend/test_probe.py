"""The child process that asks OpenVINO: it answers, carries errors over, may die, and its answers may be kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import topologies
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.backend.probe import ModelQuery, probe, probe_inventory, probe_model
from orchestrator.errors import Kind, OrchError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return topologies.save("tiny_mlp", tmp_path_factory.mktemp("tiny"))


def in_the_child(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every Python started from now on run this first."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_the_child_says_what_the_backend_says(tiny: Path) -> None:
    backend = OpenVinoBackend(())
    inventory, models = probe([ModelQuery(path=str(tiny), shapes={"features": [-1, 16]}, devices=("CPU",))])
    assert inventory == backend.inventory()
    assert models == (backend.inspect(str(tiny), {"features": [-1, 16]}, ["CPU"]),)


def test_one_call_answers_for_good_and_bad_models_in_their_order(tiny: Path) -> None:
    _, models = probe([ModelQuery(path="/nowhere.xml"), ModelQuery(path=str(tiny))])
    assert isinstance(models[0], OrchError)
    assert (models[0].kind, models[0].problems[0].where) == (Kind.NOT_FOUND, "/nowhere.xml")
    assert not isinstance(models[1], OrchError)
    assert models[1].batchable


def test_the_error_of_a_single_model_is_raised_with_its_hint() -> None:
    with pytest.raises(OrchError, match="no such file") as caught:
        probe_model("/nowhere.xml", {}, [])
    assert caught.value.kind is Kind.NOT_FOUND
    assert caught.value.problems[0].hint


def test_a_second_device_can_be_added_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = [
        {"name": "CPU2", "library": "intel_cpu"},
        {"name": "XPU", "library": "hetero", "properties": {"MULTI_DEVICE_PRIORITIES": "CPU2"}},
    ]
    monkeypatch.setenv("ORCH_OPENVINO_PLUGINS", json.dumps(plugins))
    assert {"CPU", "XPU"} <= {device.name for device in probe_inventory().devices}


def test_the_child_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert probe_inventory().devices


def test_a_crash_names_the_signal_and_the_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "import os, sys\nprint('driver: lost', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 11)"
    in_the_child(crash, tmp_path, monkeypatch)
    with pytest.raises(OrchError, match="signal SIGSEGV: driver: lost") as caught:
        probe_inventory()
    assert caught.value.kind is Kind.FAILED


def test_a_child_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_child("import threading\nthreading.Event().wait(60)", tmp_path, monkeypatch)
    with pytest.raises(OrchError, match=r"did not answer within 0\.3 s") as caught:
        probe_inventory(timeout_s=0.3)
    assert caught.value.kind is Kind.DEADLINE


@pytest.mark.parametrize("code", ["import os\nos._exit(0)", "import os\nprint('{}', flush=True)\nos._exit(0)"])
def test_a_child_that_ends_without_an_answer_is_an_error(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_child(code, tmp_path, monkeypatch)
    with pytest.raises(OrchError, match="gave no answer"):
        probe_inventory()


def test_what_libraries_print_does_not_spoil_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_child(
        "import atexit, sys\nclass Noisy:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'openvino': sys.stdout.write('driver 1.2.3\\n'); sys.stdout.flush()\n"
        "sys.meta_path.insert(0, Noisy())",
        tmp_path,
        monkeypatch,
    )
    assert probe_inventory().devices


def test_a_kept_answer_is_used_until_the_file_changes(tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = probe_model(str(tiny), {}, ["CPU"], cache=cache)
    (kept,) = cache.iterdir()
    # What is kept is what is answered: a mark in it comes back.
    kept.write_text(first.model_copy(update={"sha256": "marked"}).model_dump_json())
    assert probe_model(str(tiny), {}, ["CPU"], cache=cache).sha256 == "marked"
    assert probe_model(str(tiny), {"features": [2, 16]}, ["CPU"], cache=cache).sha256 == first.sha256
    os.utime(tiny, ns=(1, 1))
    assert probe_model(str(tiny), {}, ["CPU"], cache=cache).sha256 == first.sha256


def test_a_damaged_or_unwritable_cache_is_no_cache(tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = probe_model(str(tiny), {}, [], cache=cache)
    next(cache.iterdir()).write_text("{")
    assert probe_model(str(tiny), {}, [], cache=cache) == first
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert probe_model(str(tiny), {}, [], cache=blocked / "cache") == first


def test_errors_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "late.xml"
    cache = tmp_path / "cache"
    with pytest.raises(OrchError):
        probe_model(str(path), {}, [], cache=cache)
    topologies.save("tiny_mlp", tmp_path).rename(path)
    (tmp_path / "tiny_mlp.bin").rename(tmp_path / "late.bin")
    assert probe_model(str(path), {}, [], cache=cache).batchable
