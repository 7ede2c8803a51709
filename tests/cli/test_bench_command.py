"""`orch bench` from outside: what it refuses and how it says so, before anything is loaded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from stand_in import orch, stand_in
from statuses import ITEMS

from orchestrator.errors import Kind, OrchError

MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {name: shop-vision}
spec:
  models:
    - {name: detector, source: a.onnx, traffic: {arrivals: constant}}
    - {name: embedder, source: b.onnx}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def script(**over: Any) -> dict[str, Any]:
    """Return what an agent answers about a deployment of which a part is different."""
    item = copy.deepcopy(ITEMS[0]) | over
    answer = {"status": item, "manifest": MANIFEST, "plan": {"models": [], "cpus": 2}}
    return {"status": {"apiVersion": "orch/v1", "kind": "StatusList", "items": [item]}, "describe": answer, "plans": {}}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "60"], "must be a rate with its unit"),
        (["--rate", "0/s"], "greater than zero"),
        (["--rate", "60/s", "--callers", "4"], "use --callers"),
        (["--callers", "4", "--arrivals", "poisson"], "drop one"),
        (["--arrivals", "often"], "'often' is none of poisson, constant, bursty, closed"),
        (["--duration", "5s"], "use --budget for a search"),
        (["--rate", "60/s", "--budget", "5s"], "use --duration"),
        (["--budget", "2h"], "more than an hour"),
        (["--latency", "40"], "duration with its unit"),
    ],
)
def test_options_that_make_no_sense_together_are_wrong_usage(home: Path, arguments: list[str], words: str) -> None:
    with stand_in(home, script()) as agent:
        ran = agent.orch("bench", "shop-vision/detector", *arguments)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert words in " ".join(ran.stderr.split()).replace("│ ", "")


def test_without_an_agent_the_error_says_how_to_start_one(home: Path) -> None:
    ran = orch(home, "bench", "shop-vision")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "no agent runs\nhint: orch apply starts it" in ran.stderr


def test_an_unknown_deployment_is_told_in_the_agents_words(home: Path) -> None:
    gone = OrchError(Kind.NOT_FOUND, "there is no deployment shop", hint="see: orch status")
    with stand_in(home, {"status": gone}) as agent:
        ran = agent.orch("bench", "shop")
        assert (ran.returncode, ran.stderr) == (1, "error: there is no deployment shop\nhint: see: orch status\n")


def test_a_deployment_of_several_models_needs_the_model(home: Path) -> None:
    with stand_in(home, script()) as agent:
        ran = agent.orch("bench", "shop-vision")
        assert ran.returncode == 1
        assert "hint: name one of them: shop-vision/detector" in ran.stderr


def test_a_model_that_does_not_serve_is_not_loaded(home: Path) -> None:
    models = [model | {"state": "Starting"} for model in ITEMS[0]["models"]]
    with stand_in(home, script(models=models)) as agent:
        ran = agent.orch("bench", "shop-vision/detector")
        assert ran.returncode == 1
        assert "shop-vision/detector is Starting, and only what serves can be loaded" in ran.stderr


def test_a_deployment_for_grpc_only_is_refused_by_name_of_the_command(home: Path) -> None:
    with stand_in(home, script(endpoint={"http": None, "grpc": "127.0.0.1:1"})) as agent:
        ran = agent.orch("bench", "shop-vision/detector")
        assert ran.returncode == 1
        assert "shop-vision listens for gRPC only, and orch bench speaks HTTP" in ran.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--url", "http://127.0.0.1:9"], "error: http://127.0.0.1:9: cannot be reached"),
        (["--url", "https://127.0.0.1:9"], "error: https://127.0.0.1:9: cannot be reached"),
        (["--url", "http://127.0.0.1:9", "--ca", "ca.crt"], "certificates are for https only"),
        (["--url", "https://127.0.0.1:9", "--ca", "gone.crt"], "error: gone.crt: cannot be read: No such file"),
        (["--url", "https://127.0.0.1:9", "--cert", __file__], f"error: {__file__}: is no PEM file"),
    ],
)
def test_an_address_that_cannot_be_loaded_is_an_error_at_once(home: Path, options: list[str], words: str) -> None:
    ran = orch(home, "bench", "model", *options)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert words in ran.stderr


def test_a_report_that_cannot_be_written_is_refused_before_the_load(home: Path) -> None:
    ran = orch(home, "bench", "model", "--url", "http://127.0.0.1:9", "--report", str(home.parent))
    assert ran.returncode == 1
    assert f"hint: name the file: --report {home.parent / 'bench.html'}" in ran.stderr
