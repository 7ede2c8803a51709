"""What was applied before and the way back: a real agent, stand-in workers."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_agent import Agent, eventually, manifest, pid_that_serves
from repositories import People

from orchestrator.agent.history import choose
from orchestrator.agent.store import Result, Revision
from orchestrator.errors import Kind, OrchError
from orchestrator.serving import admin


def a_revision(number: int, result: Result = "applied", reason: str | None = None) -> Revision:
    return Revision("shop", number, 0.0, number, "", "", f"{number:012x}", result, reason)


def history(agent: Agent) -> list[dict[str, Any]]:
    return list(agent.call("history", {"name": "shop"})["items"])


def rollback(agent: Agent, **more: Any) -> Any:
    return agent.call("rollback", {"name": "shop", "to": None, "timeout_s": 20, **more})


def a_free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    ("current", "to", "chosen"),
    [(4, None, 2), (2, None, 1), (5, None, 4), (4, 1, 1), (4, 4, 4)],
)
def test_the_last_that_was_applied_before_the_current_one_is_gone_back_to(
    current: int, to: int | None, chosen: int
) -> None:
    kept = [a_revision(1), a_revision(2), a_revision(3, "failed", "no"), a_revision(4), a_revision(5)]
    assert choose("shop", kept, current, to).number == chosen


def test_what_was_applied_again_as_it_is_is_not_gone_back_to() -> None:
    repaired = replace(a_revision(3), digest=a_revision(2).digest)
    assert choose("shop", [a_revision(1), a_revision(2), repaired], 3, None).number == 1
    assert choose("shop", [a_revision(1), a_revision(2), repaired], 3, 2).number == 2


@pytest.mark.parametrize(
    ("current", "to", "words"),
    [
        (2, None, "shop: no other plan was applied before the current revision"),
        (None, None, "shop: nothing was applied yet"),
        (4, 9, "shop: there is no revision 9: kept are 2 to 4"),
        (4, 3, "shop: revision 3 never served, it is failed: p99 61 ms"),
    ],
)
def test_a_revision_to_which_there_is_no_way_back_is_refused(current: int | None, to: int | None, words: str) -> None:
    kept = [a_revision(2), a_revision(3, "failed", "p99 61 ms"), a_revision(4)]
    with pytest.raises(OrchError) as caught:
        choose("shop", kept, current, to)
    assert str(caught.value) == words


def test_history_tells_every_attempt_and_which_one_serves(agent: Agent) -> None:
    agent.apply(manifest())
    with pytest.raises(OrchError):
        agent.apply(manifest(behaviour="REFUSE"))
    agent.apply(manifest(limit=9))
    told = [(each["revision"], each["result"], each["current"], each["reason"]) for each in history(agent)]
    assert told == [
        (1, "applied", False, None),
        (2, "failed", False, "the engine refuses"),
        (3, "applied", True, None),
    ]
    agent.call("delete", {"names": ["shop"]})
    assert history(agent)[-1]["result"] == "deleted"
    with pytest.raises(OrchError, match="no deployment 'other'"):
        agent.call("history", {"name": "other"})


def test_a_rollback_brings_the_plan_of_then_back_as_a_new_revision_that_says_so(agent: Agent) -> None:
    agent.apply(manifest(limit=3))
    agent.apply(manifest(limit=9))
    result = rollback(agent)
    assert result["to"] == 1
    (deployment,) = result["deployments"]
    assert [change["action"] for change in deployment["changes"]] == ["update"]
    first, _, last = history(agent)
    assert (last["revision"], last["current"], last["reason"]) == (3, True, "rollback to 1")
    assert last["digest"] == first["digest"]
    item = agent.item()
    assert (item["sync"], item["health"], item["revision"]["number"]) == ("Synced", "Healthy", 3)
    assert "limit: 3" in agent.call("describe", {"name": "shop"})["manifest"]
    assert rollback(agent)["to"] == 2, "and back again"


def test_a_rollback_needs_no_manifest_but_the_model_as_it_was(agent: Agent) -> None:
    agent.apply(manifest(limit=3))
    agent.apply(manifest(limit=9))
    model = agent.folder / "model.onnx"
    kept = model.read_bytes()
    model.write_bytes(b"another")
    with pytest.raises(OrchError) as caught:
        rollback(agent)
    assert caught.value.kind is Kind.CONFLICT
    assert str(caught.value).startswith(f"{model}: is not the file that was planned: its SHA-256 is ")
    model.unlink()
    with pytest.raises(OrchError, match="the file that was planned is gone"):
        rollback(agent)
    assert len(history(agent)) == 2, "a refusal is no attempt"
    model.write_bytes(kept)
    assert rollback(agent)["to"] == 1


def test_a_rollback_on_another_machine_is_refused(agent: Agent) -> None:
    agent.apply(manifest(limit=3))
    agent.apply(manifest(limit=9))
    agent.end(signal.SIGTERM)
    agent.start(STAND_IN_MACHINE="another machine")
    with pytest.raises(OrchError, match="was planned for a machine with other cores"):
        rollback(agent)


def test_a_rollback_to_cores_that_another_has_now_is_refused_by_its_name(agent: Agent) -> None:
    own = "  resources: {cpus: 1}"
    agent.apply(manifest(more=own))
    agent.apply(manifest())
    agent.apply(manifest("other", more=own))
    with pytest.raises(OrchError, match="its cores 0 are those of the deployment 'other' now"):
        rollback(agent)


def test_a_source_lets_be_what_was_rolled_back_and_follows_what_was_not(agent: Agent, tmp_path: Path) -> None:
    people = People(tmp_path)
    text = f"{{url: {people.bare}, branch: main}}"
    source = (
        f"apiVersion: orch/v1\nkind: Source\nmetadata: {{name: s}}\nspec: {{git: {text}, path: site, interval: 1h}}"
    )
    people.push({"site/shop.yaml": manifest(behaviour="MISSES"), "site/model.onnx": b""})
    agent.call("source_put", {"documents": [{"name": "s.yaml", "base": str(tmp_path), "text": source}]})
    agent.call("source_reconcile", {"name": "s"})
    people.push({"site/shop.yaml": manifest(http=a_free_address())})
    agent.call("source_reconcile", {"name": "s"})

    def held() -> list[str]:
        return list(agent.call("sources", {"names": ["s"]})["items"][0]["held"])

    with pytest.raises(OrchError, match="p99 61 ms"):
        rollback(agent)
    assert held() == []
    result = rollback(agent, trial=False)
    assert (result["to"], result["held_from"]) == (1, "s")
    assert held() == ["shop"]
    last = history(agent)[-1]
    assert (last["source"], last["commit"]) == ("s", history(agent)[0]["commit"])


def test_a_rollback_that_is_refused_leaves_what_runs(agent: Agent) -> None:
    agent.apply(manifest(behaviour="MISSES"))
    agent.apply(manifest(http=a_free_address()))
    pid = agent.item()["worker"]["pid"]
    with pytest.raises(OrchError, match="p99 61 ms over the SLO"):
        rollback(agent)
    assert agent.item()["worker"]["pid"] == pid
    assert history(agent)[-1]["reason"] == "rollback to 1: m: p99 61 ms over the SLO of 40 ms"


def test_the_plan_of_a_revision_can_be_asked_for(agent: Agent) -> None:
    agent.apply(manifest(limit=3))
    agent.apply(manifest(limit=9))
    limits = [
        agent.call("revision", {"name": "shop", "number": number})["plan"]["models"][0]["queue"]["limit"]
        for number in (1, 2, None)
    ]
    assert limits == [3, 9, 9]
    with pytest.raises(OrchError, match="no revision 7"):
        agent.call("revision", {"name": "shop", "number": 7})
    with pytest.raises(OrchError, match="must be the number of a revision"):
        agent.call("revision", {"name": "shop", "number": "last"})


def test_a_worker_that_takes_over_is_tried_beside_the_old_one_with_what_that_one_saw(agent: Agent) -> None:
    agent.apply(manifest())
    request = agent.request(manifest(http=a_free_address()))
    lines = [line for _, line in admin.stream(agent.layout.socket, "apply", request, timeout_s=20)]
    assert [line["message"] for line in lines if line.get("phase") == "trying"] == ["550 before"]


def test_a_worker_that_misses_its_slo_does_not_take_over_and_the_revision_says_why(agent: Agent) -> None:
    agent.apply(manifest())
    before = agent.item()
    address = a_free_address()
    request = agent.request(manifest(behaviour="MISSES", http=address))
    lines = admin.stream(agent.layout.socket, "apply", request, timeout_s=20)
    told: list[Any] = []
    with pytest.raises(OrchError, match="m: p99 61 ms over the SLO of 40 ms"):
        told.extend(line for _, line in lines)
    assert len([line for line in told if line.get("phase") == "trying"]) == 2, "once more against the old one now"
    after = agent.item()
    assert after["worker"]["pid"] == before["worker"]["pid"] == pid_that_serves(before["endpoint"]["http"])
    assert (after["sync"], after["health"], after["revision"]["number"]) == ("OutOfSync", "Degraded", 1)
    assert agent.workers() == [before["worker"]["pid"]]
    result = agent.apply(manifest(behaviour="MISSES", http=address), trial=False)
    assert result["deployments"][0]["revision"] == 3


def test_an_agent_that_is_killed_while_a_worker_is_tried_is_followed_by_one_that_finishes(agent: Agent) -> None:
    agent.apply(manifest())
    old = agent.item()["worker"]["pid"]
    request = agent.request(manifest(behaviour="TRIED", http=a_free_address()))
    lines = admin.stream(agent.layout.socket, "apply", request, timeout_s=20)
    eventually(lambda: next(lines)[1].get("phase") == "trying", "it is tried")
    agent.end(signal.SIGKILL)
    lines.close()  # type: ignore[attr-defined]
    (agent.layout.workers / "go-on").touch()
    agent.start()
    eventually(lambda: agent.item()["revision"]["number"] == 2, "the second revision is applied")
    eventually(lambda: old not in agent.workers(), "the old worker has gone")
    assert len(agent.workers()) == 1


def test_a_candidate_that_is_killed_while_it_is_tried_leaves_the_old_worker_serving(agent: Agent) -> None:
    agent.apply(manifest())
    (old,) = agent.workers()
    request = agent.request(manifest(behaviour="TRIED", http=a_free_address()))
    lines = admin.stream(agent.layout.socket, "apply", request, timeout_s=20)
    eventually(lambda: next(lines)[1].get("phase") == "trying", "it is tried")
    (candidate,) = set(agent.workers()) - {old}
    os.kill(candidate, signal.SIGKILL)
    with pytest.raises(OrchError, match=rf"the worker \(pid {candidate}\) was killed by SIGKILL"):
        list(lines)
    assert (agent.item()["worker"]["pid"], agent.workers()) == (old, [old])


def test_a_first_worker_that_cannot_hold_its_slo_serves_and_that_is_told(agent: Agent) -> None:
    request = agent.request(manifest(behaviour="UNFIT"))
    lines = [line for _, line in admin.stream(agent.layout.socket, "apply", request, timeout_s=20)]
    told = [(line["model"], line["message"]) for line in lines if line.get("phase") == "warning"]
    assert told == [("m", "one inference alone takes too long")]
    assert lines[-1]["deployments"][0]["ok"]
