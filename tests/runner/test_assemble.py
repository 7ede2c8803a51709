"""Plans of manifests, with the real model files and, where it matters, a recorded machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from orchestrator.backend.probe import MODELS_MAX
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.text import inventory_from_yaml
from orchestrator.manifest.load import Document, load_text
from orchestrator.planner.decision import Decision
from orchestrator.runner.assemble import Assembled, assemble, assemble_each, claims_of, cores_of, together
from orchestrator.runner.decide import Ask, Policy, Tell
from tests.builders_decision import a_decision
from tests.certificates import issue

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "deployments" / "models"
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def desktop() -> Inventory:
    path = ROOT / "tests" / "fixtures" / "inventories" / "desktop-16core-igpu.yaml"
    return inventory_from_yaml(path.read_text(), path.name)


def documents(*texts: str) -> tuple[Document, ...]:
    return tuple(one for text in texts for one in load_text(text, name="test.yaml", base=MODELS))


def deployment(name: str, *, cpus: int | None = None, device: str = "CPU", source: str = "digits.onnx") -> str:
    resources = f"resources: {{cpus: {cpus}}}, " if cpus else ""
    return (
        f"apiVersion: orch/v1\nkind: Deployment\nmetadata: {{name: {name}}}\n"
        f"spec: {{{resources}endpoint: {{http: 127.0.0.1:0, grpc: null, token_file: README.md}}, "
        f"models: [{{name: a, source: {source}, device: {device}}}]}}\n"
    )


def test_deployments_that_claim_cores_get_cores_of_their_own_beside_those_that_others_have(desktop: Inventory) -> None:
    wanted = documents(deployment("new", cpus=4), deployment("moved", cpus=2), deployment("shared"))
    kept = {"other": (0, 1), "moved": (4, 5)}
    new, moved, shared = assemble(wanted, inventory=desktop, timeout_s=TIMEOUT_S, keep=kept, others={"other": 2})
    assert moved.cores == (4, 5), "who has its cores keeps them"
    assert new.cores is not None
    assert len(new.cores) == 4
    assert not {*new.cores} & {0, 1, 4, 5}
    assert (shared.cores, shared.cpus) == (None, desktop.host.effective_cpus - 8)


def test_many_deployments_may_share_a_model_which_is_inspected_once(desktop: Inventory) -> None:
    wanted = documents(*(deployment(f"shop-{number}") for number in range(MODELS_MAX + 1)))
    plans = assemble(wanted, inventory=desktop, timeout_s=TIMEOUT_S)
    assert len({plan.name for plan in plans}) == MODELS_MAX + 1
    assert len({plan.models[0].sha256 for plan in plans}) == 1


def test_paths_of_a_plan_are_absolute(desktop: Inventory) -> None:
    (plan,) = assemble(documents(deployment("one")), inventory=desktop, timeout_s=TIMEOUT_S)
    assert plan.models[0].source == str(MODELS / "digits.onnx")
    assert plan.endpoint.token_file == str(MODELS / "README.md")


def test_the_tls_files_of_a_plan_are_absolute_and_looked_at_first(desktop: Inventory, tmp_path: Path) -> None:
    papers = issue(tmp_path)
    (tmp_path / "digits.onnx").symlink_to(MODELS / "digits.onnx")
    (tmp_path / "README.md").write_text("token")
    tls = "tls: {certificate_file: tls.crt, key_file: tls.key}, token_file"
    document = load_text(deployment("one").replace("token_file", tls), name="test.yaml", base=tmp_path)
    (plan,) = assemble(document, inventory=desktop, timeout_s=TIMEOUT_S)
    assert plan.endpoint.tls == papers.plan()
    papers.key.write_text("")
    with pytest.raises(OrchError, match=r"tls\.key holds no private key"):
        assemble(document, inventory=desktop, timeout_s=TIMEOUT_S)


def test_the_problems_of_all_documents_come_together(desktop: Inventory, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    broken = deployment("broken", source=str(tmp_path / "broken.onnx"))
    wanted = documents(deployment("far", device="GPU.7"), broken, deployment("good"))
    with pytest.raises(OrchError) as caught:
        assemble(wanted, inventory=desktop, timeout_s=TIMEOUT_S)
    text = str(caught.value)
    assert "GPU.7" in text
    assert "broken.onnx" in text
    assert "good" not in text


def test_each_document_has_its_plan_or_its_error(desktop: Inventory) -> None:
    wanted = documents(deployment("far", device="GPU.7"), deployment("good"))
    far, good = assemble_each(wanted, inventory=desktop, timeout_s=TIMEOUT_S)
    assert isinstance(far, OrchError)
    assert isinstance(good, Assembled)


def test_a_model_file_that_is_not_there_is_named_with_its_place_before_anything_is_asked(desktop: Inventory) -> None:
    wanted = documents(deployment("one", source="nowhere.onnx"))
    with pytest.raises(OrchError, match=r"test\.yaml:4:\d+: spec\.models\[0\]\.source: there is no file") as caught:
        assemble(wanted, inventory=desktop, timeout_s=0)
    assert caught.value.kind is Kind.INVALID


def test_what_runs_is_told_as_cores_kept_and_claimed(desktop: Inventory) -> None:
    one, two = assemble(documents(deployment("one", cpus=3), deployment("two")), inventory=desktop, timeout_s=TIMEOUT_S)
    running = {"one": one, "two": two}
    assert cores_of(running) == {"one": one.cores}
    assert claims_of(running) == {"one": 3}


def test_errors_together_keep_their_kind_where_they_share_one_and_each_problem_once() -> None:
    problem = Problem("same")
    same = together([OrchError(Kind.UNSUPPORTED, [problem]), OrchError(Kind.UNSUPPORTED, [problem, Problem("two")])])
    assert (same.kind, [each.what for each in same.problems]) == (Kind.UNSUPPORTED, ["same", "two"])
    assert together([same, OrchError(Kind.FAILED, "x")]).kind is Kind.INVALID


def test_a_plan_runs_the_arm_that_was_measured_and_says_what_it_carries(desktop: Inventory) -> None:
    text = deployment("one").replace("device: CPU}", "device: CPU, slo: {latency: 200ms, rate: 25/s}}")
    (document,) = documents(text)
    decision = a_decision(model="a", sentences=("Two streams carry 41.5/s.", "Would change: SLO."))

    def bench(ask: Ask, _tell: Tell, _cancelled: Callable[[], bool]) -> Mapping[str, Decision]:
        assert ask.cpus == desktop.host.effective_cpus
        return {"a": decision}

    (plan,) = assemble([document], inventory=desktop, timeout_s=TIMEOUT_S, policy=Policy(measure=bench))
    model = plan.models[0]
    assert (model.streams, model.threads, model.requests, model.expression) == (2, 2, 2, "explicit")
    assert model.properties == decision.arm.properties
    assert decision.capacity is not None
    assert (model.capacity_per_s, model.verdict) == (decision.capacity.per_s, "verified")
    assert [reason.text for reason in model.reasons[:3]] == [
        *decision.sentences,
        "verified: accepted after 299 requests",
    ]
    (by_rule,) = assemble([document], inventory=desktop, timeout_s=TIMEOUT_S)
    assert by_rule.models[0].verdict is None
    assert by_rule.digest() != plan.digest()
