"""Two real, tiny models planned and proved together: what is decided, refused, and that nothing is left behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import topologies
from orchestrator.backend.probe import ModelQuery, probe
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.model import ModelInfo
from orchestrator.planner.modes import to_decide
from orchestrator.profiling.store import ProfileStore
from orchestrator.runner.decide import Ask, Policy, find
from orchestrator.runner.jointly import measure_together, plan_of, sharers
from orchestrator.runner.measuring import measuring
from tests.builders import a_deployment, a_model


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where profiles are kept: what one test measured, the next need not."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inventory, ModelInfo]:
    path = topologies.save("int8_cnn", tmp_path_factory.mktemp("models"))
    inventory, (info,) = probe([ModelQuery(path=str(path))])
    assert isinstance(info, ModelInfo)
    return inventory, info


def an_ask(found: tuple[Inventory, ModelInfo], *models: Mapping[str, Any], budget_s: float = 14.0) -> Ask:
    inventory, info = found
    deployment = a_deployment(*models)
    infos = {model.name: info for model in deployment.spec.models}
    return Ask(deployment, infos, inventory, 2, None, to_decide(deployment), budget_s)


def two(rate: str = "20/s", latency: str = "500ms", **over: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    slo = {"latency": latency, "percentile": 90, "rate": rate}
    return a_model("one", slo=slo, **over), a_model("two", slo=slo)


def processes() -> list[str]:
    children = psutil.Process().children(recursive=True)
    lines = [" ".join(child.cmdline()) for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [line for line in lines if "orchestrator." in line]


def test_who_shares_the_cpu_and_has_a_rate_is_planned_together(found: tuple[Inventory, ModelInfo]) -> None:
    assert sharers(an_ask(found, *two())) == ("one", "two")
    assert sharers(an_ask(found, two()[0], a_model("free"))) == (), "the other promises nothing"
    assert sharers(an_ask(found, *two(device="AUTO:GPU,CPU"))) == (), "only one is on the CPU alone"


def test_who_states_its_own_compile_and_a_rate_is_counted_too(found: tuple[Inventory, ModelInfo]) -> None:
    """Seen to be left out of demand and proof, and all models to be said to be loaded."""
    one, other = two()
    assert sharers(an_ask(found, one, {**other, "compile": {"hint": "LATENCY"}})) == ("one", "two")
    fixed = [{**each, "compile": {"hint": "LATENCY"}} for each in (one, other)]
    assert sharers(an_ask(found, *fixed)) == (), "nothing is to be measured"


def test_a_stated_compile_is_proved_beside_the_others_and_who_has_no_rate_is_named(
    found: tuple[Inventory, ModelInfo], state: Path
) -> None:
    one, other = two()
    ask = an_ask(found, one, {**other, "compile": {"hint": "LATENCY"}}, a_model("free"))
    decisions = measuring(state)(ask, lambda *_: None, lambda: False)
    assert set(decisions) == {"one", "two"}
    assert decisions["two"].arm.properties["PERFORMANCE_HINT"] == "LATENCY"
    for decision in decisions.values():
        assert "not counted, free (no rate is stated) shares the cores too" in decision.sentences[0]
        assert decision.proof is not None


def test_two_models_are_measured_laid_out_and_proved_together(found: tuple[Inventory, ModelInfo], state: Path) -> None:
    ask, told = an_ask(found, *two()), list[str]()
    decisions = measuring(state)(ask, lambda *words: told.append(str(words[-1])), lambda: False)
    assert processes() == []
    assert set(decisions) == {"one", "two"}
    for decision in decisions.values():
        assert decision.verdict in {"verified", "unverified", "rejected"}, "what it is depends on the neighbours"
        assert decision.arm.properties["ENABLE_CPU_PINNING"] == "NO"
        assert "planned together with" in decision.sentences[0]
        assert decision.proof is not None
        assert decision.proof.sent > 0
    assert any("all models at 1.1 times their rates" in line for line in told)
    plan = plan_of(ask, decisions)
    assert [model.properties["NUM_STREAMS"] for model in plan.models] == [
        decisions[model.name].arm.properties["NUM_STREAMS"] for model in plan.models
    ]


def test_where_one_model_cannot_hold_its_slo_the_others_say_why_nothing_was_proved(
    found: tuple[Inventory, ModelInfo], state: Path
) -> None:
    """Seen to be `planned by prediction, not proved`, without a word of the other model."""
    one, other = two()
    ask = an_ask(found, one, {**other, "slo": {"latency": "0.01ms", "percentile": 90, "rate": "20/s"}})
    decided = find(ask.deployment, ask.infos, ask.inventory, 2, None, Policy(measure=measuring(state), budget_s=14.0))
    assert decided.decisions["two"].verdict == "infeasible"
    said = " ".join(decided.decisions["one"].sentences)
    assert "Not verified: two cannot hold the SLO even alone, so no layout of all models was tried" in said


def test_demands_that_do_not_fit_refuse_the_plan_and_say_what_to_cut(
    found: tuple[Inventory, ModelInfo], state: Path
) -> None:
    one, other = two(rate="1000000/s")
    ask = an_ask(found, one, {**other, "priority": "sheddable"})
    with pytest.raises(OrchError, match="together the models need") as raised:
        find(ask.deployment, ask.infos, ask.inventory, 2, None, Policy(measure=measuring(state), budget_s=14.0))
    assert raised.value.kind is Kind.UNSUPPORTED
    assert "leave out two (sheddable)" in (raised.value.problems[0].hint or "")
    assert processes() == []


def test_a_cancelled_joint_proof_leaves_no_process(found: tuple[Inventory, ModelInfo], state: Path) -> None:
    proving: list[str] = []

    def tell(_deployment: str, _model: str | None, phase: str, message: str) -> None:
        if phase == "verifying" and message.startswith("all models"):
            proving.append(message)

    ask, store = an_ask(found, *two()), ProfileStore(state / "profiles")
    with pytest.raises(OrchError) as raised:
        measure_together(ask, ("one", "two"), store, tell, lambda: bool(proving), fresh=False)
    assert raised.value.kind is Kind.CANCELLED
    assert processes() == []
