"""Where decisions come from: the lock, the memory, or a measuring that is handed in; never two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.device import Inventory
from orchestrator.manifest.spec import Deployment
from orchestrator.planner.decision import Decision
from orchestrator.planner.lock import Lock, locked, settled
from orchestrator.planner.lock_text import to_yaml
from orchestrator.runner.decide import Ask, Found, Policy, Tell, find, silent
from orchestrator.runner.locks import Memory, lock_path, read_lock, write_lock
from tests.builders import a_deployment, a_model, a_model_info, an_inventory, model_infos
from tests.builders_decision import a_decision

SLO = {"latency": "200ms", "rate": "25/s"}


def wanted(*models: dict[str, Any], **spec: Any) -> Deployment:
    return a_deployment(*(models or (a_model(slo=SLO),)), **spec)


def decided(model: str = "detector", **over: Any) -> Decision:
    return a_decision(model=model, model_sha256=a_model_info().sha256, sentences=("Two streams.",), **over)


class Bench:
    """Stands where measuring would: remembers what it was asked, and answers as told."""

    def __init__(self, *decisions: Decision, error: OrchError | None = None) -> None:
        self.asked: list[Ask] = []
        self._decisions, self._error = decisions, error

    def __call__(self, ask: Ask, tell: Tell, _cancelled: Callable[[], bool]) -> Mapping[str, Decision]:
        self.asked.append(ask)
        if self._error is not None:
            raise self._error
        for decision in self._decisions:
            tell(ask.deployment.metadata.name, decision.model, "measuring", decision.arm.name)
        return {decision.model: decision for decision in self._decisions}


def found(deployment: Deployment, policy: Policy, inventory: Inventory | None = None) -> Found:
    return find(deployment, model_infos(deployment), inventory or an_inventory(), 2, None, policy)


def a_lock(deployment: Deployment, **over: Any) -> dict[str, Lock]:
    decision = decided(**over)
    return {"shop": locked(None, deployment, an_inventory(), 2, {decision.model: decision})}


def test_a_lock_that_fits_is_used_and_nothing_is_measured() -> None:
    bench = Bench(decided())
    here = found(wanted(), Policy(locks=a_lock(wanted()), measure=bench))
    assert (here.origin, here.notes, here.missing, bench.asked) == ("lock", (), (), [])
    assert here.decisions == {"detector": settled(decided())}


def test_a_lock_that_drifted_is_named_and_measured_anew() -> None:
    bench = Bench(decided())
    changed = wanted(a_model(slo=SLO | {"rate": "30/s"}))
    here = found(changed, Policy(locks=a_lock(wanted()), measure=bench))
    assert here.origin == "measured"
    assert len(bench.asked) == 1
    (note,) = here.notes
    assert note.startswith("the lock does not fit, so it was not used: detector: slo was latency 200ms")


def test_locked_refuses_a_lock_that_drifted_with_what_drifted_and_where() -> None:
    bench = Bench(decided())
    policy = Policy(locks=a_lock(wanted()), measure=bench, locked=True)
    with pytest.raises(OrchError, match="shop/detector: device was CPU and is AUTO:CPU") as caught:
        found(wanted(a_model(slo=SLO, device="AUTO:CPU")), policy)
    assert caught.value.kind is Kind.CONFLICT
    assert bench.asked == []


def test_new_weights_beside_an_ir_are_told_refused_where_locked_and_measured_anew(tmp_path: Path) -> None:
    """Seen to be served as verified from lock and memory, because only the .xml was compared."""
    deployment = wanted(a_model(slo=SLO, source="models/detector.xml"))

    def at(weights: str, **over: Any) -> Found:
        infos = {"detector": a_model_info(weights_sha256=weights)}
        return find(deployment, infos, an_inventory(), 2, None, Policy(measure=Bench(decided()), **over))

    memory = Memory(tmp_path)
    assert [at(weights, memory=memory).origin for weights in ("b" * 64, "b" * 64, "c" * 64)] == [
        "measured",
        "memory",
        "measured",
    ]
    lock = locked(None, deployment, an_inventory(), 2, {"detector": decided()}, {"detector": "b" * 64})
    (note,) = at("c" * 64, locks={"shop": lock}).notes
    assert note.endswith("detector: the weights detector.bin were bbbbbbbbbbbb... and are cccccccccccc...")
    with pytest.raises(OrchError, match=r"shop/detector: the weights detector\.bin were"):
        at("c" * 64, locks={"shop": lock}, locked=True)


def test_models_that_do_not_fit_together_are_named_with_their_deployment() -> None:
    """Seen to say `bert (sheddable)` of a folder of deployments."""
    problems = [Problem("lacks 2 cores", "bert (sheddable)"), Problem("needs more memory")]
    with pytest.raises(OrchError) as caught:
        found(wanted(), Policy(measure=Bench(error=OrchError(Kind.UNSUPPORTED, problems))))
    assert [str(each) for each in caught.value.problems] == [
        "shop/bert (sheddable): lacks 2 cores",
        "shop: needs more memory",
    ]


def test_locked_refuses_without_a_lock_but_not_where_nothing_is_to_be_locked() -> None:
    with pytest.raises(OrchError, match="shop: there is no lock file beside the manifest"):
        found(wanted(), Policy(locked=True))
    assert found(wanted(a_model()), Policy(locked=True)) == Found()


def test_a_manifest_without_an_slo_is_never_measured() -> None:
    bench = Bench()
    for planning in ({}, {"mode": "measure"}, {"mode": "predict"}):
        assert found(wanted(a_model(), planning=planning), Policy(measure=bench, mode="measure")) == Found()
    assert bench.asked == []


@pytest.mark.parametrize(
    ("model", "planning", "override", "modes"),
    [
        ({"slo": SLO}, {}, None, {"detector": "measure"}),
        ({"slo": SLO}, {"mode": "hint"}, None, {}),
        ({"slo": SLO}, {"mode": "hint"}, "measure", {"detector": "measure"}),
        ({"slo": SLO}, {"mode": "predict"}, None, {"detector": "predict"}),
        ({"slo": {"latency": "1s"}}, {}, None, {}),
        ({"slo": {"latency": "1s"}}, {"mode": "measure"}, None, {"detector": "measure"}),
        ({"slo": SLO, "compile": {"hint": "LATENCY"}}, {}, None, {}),
        ({"slo": SLO, "compile": {"hint": "LATENCY"}}, {"mode": "measure"}, None, {"detector": "measure"}),
    ],
)
def test_the_mode_of_a_model_follows_the_command_then_the_manifest_then_what_it_needs(
    model: dict[str, Any], planning: dict[str, Any], override: Any, modes: dict[str, str]
) -> None:
    here = found(wanted(a_model(**model), planning=planning), Policy(mode=override))
    assert here.wanted == modes
    assert here.missing == tuple(modes)


def test_measuring_is_told_the_cores_the_budget_and_the_models() -> None:
    bench = Bench(decided())
    found(wanted(a_model(slo=SLO), a_model("plain"), planning={"budget": "20s"}), Policy(measure=bench))
    (ask,) = bench.asked
    assert (ask.cpus, ask.budget_s, dict(ask.modes)) == (2, 20.0, {"detector": "measure"})
    found(wanted(planning={"budget": "20s"}), Policy(measure=bench, budget_s=5.0))
    assert bench.asked[1].budget_s == 5.0


def test_what_was_measured_once_is_remembered_and_gives_the_same_decision(tmp_path: Path) -> None:
    bench, policy = Bench(decided(service_s=0.0395123)), Policy(memory=Memory(tmp_path / "decisions"))
    first = found(wanted(), Policy(memory=policy.memory, measure=bench))
    second = found(wanted(), Policy(memory=policy.memory, measure=bench))
    assert (first.origin, second.origin, len(bench.asked)) == ("measured", "memory", 1)
    assert first.decisions == second.decisions


def test_replan_measures_although_lock_and_memory_fit(tmp_path: Path) -> None:
    bench, memory = Bench(decided()), Memory(tmp_path)
    found(wanted(), Policy(memory=memory, measure=bench))
    here = found(wanted(), Policy(locks=a_lock(wanted()), memory=memory, measure=bench, replan=True))
    assert (here.origin, len(bench.asked)) == ("measured", 2)


def test_a_prediction_is_not_remembered_as_if_it_were_measured(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    found(wanted(planning={"mode": "predict"}), Policy(memory=memory, measure=Bench(decided())))
    assert memory.recall("shop") is None


def test_a_model_without_a_profile_is_planned_by_rule_and_the_plan_says_what_to_do() -> None:
    here = found(wanted(planning={"mode": "predict"}), Policy(measure=Bench()))
    assert (here.decisions, here.missing) == ({}, ("detector",))
    assert "orch plan --mode measure" in here.notes[0]


def test_measuring_that_fails_leaves_a_plan_by_rule_that_says_so() -> None:
    here = found(wanted(), Policy(measure=Bench(error=OrchError(Kind.FAILED, "no arm compiles"))))
    assert here.notes == ("measuring failed, so it is planned by rule: no arm compiles",)
    assert here.missing == ("detector",)


def test_giving_up_ends_planning() -> None:
    with pytest.raises(OrchError, match="interrupted"):
        found(wanted(), Policy(measure=Bench(error=OrchError(Kind.CANCELLED, "interrupted"))))


def test_a_fresh_machine_is_named_and_measured() -> None:
    bench = Bench(decided())
    here = found(wanted(), Policy(locks=a_lock(wanted()), measure=bench), an_inventory(cpus=4))
    assert "does not know this machine" in here.notes[0]
    assert len(bench.asked) == 1


def test_a_decision_without_words_gets_its_explanation() -> None:
    bare = a_decision(model="detector", model_sha256=a_model_info().sha256)
    here = found(wanted(), Policy(measure=Bench(bare)))
    assert here.decisions["detector"].sentences


def test_progress_goes_to_who_asked_for_it() -> None:
    told: list[tuple[str, str | None, str, str]] = []
    found(wanted(), Policy(measure=Bench(decided()), tell=lambda *line: told.append(line)))
    assert told == [("shop", "detector", "measuring", "2 streams x 1 thread")]
    silent(*told[0])


def test_a_lock_file_is_written_once_and_read_back(tmp_path: Path) -> None:
    path = lock_path(tmp_path / "shop.yaml")
    lock = a_lock(wanted())["shop"]
    assert read_lock(path) is None
    assert (write_lock(path, lock), write_lock(path, lock)) == (True, False)
    assert read_lock(path) == lock
    assert [each.name for each in tmp_path.iterdir()] == ["shop.lock.yaml"]


def test_a_broken_lock_is_an_error_and_a_broken_memory_is_none(tmp_path: Path) -> None:
    path = tmp_path / "shop.lock.yaml"
    path.write_text(to_yaml(a_lock(wanted())["shop"]).replace("kind: Lock", "kind: Lick"))
    with pytest.raises(OrchError, match=r"shop\.lock\.yaml:\d+:\d+"):
        read_lock(path)
    assert Memory(tmp_path).recall("shop") is None
    path.write_bytes(b"\xff")
    with pytest.raises(OrchError, match="cannot be read"):
        read_lock(path)
