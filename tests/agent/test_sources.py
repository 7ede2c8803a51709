"""Sources as callers see them: a real agent, real Git, stand-in workers."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest_agent import WAIT_S, Agent, eventually, manifest
from repositories import People

from orchestrator.errors import OrchError
from orchestrator.serving import admin

MODEL = {"site/model.onnx": b""}  # an empty file names no others


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """The agent of all tests that do not end it."""
    made = Agent(tmp_path_factory.mktemp("shared"))
    try:
        made.start()
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def site(shared: Agent, tmp_path: Path) -> Iterator[Site]:
    made = Site(shared, People(tmp_path))
    yield made
    for source in shared.call("sources")["items"]:
        shared.call("source_delete", {"name": source["metadata"]["name"]})
    shared.call("delete", {"names": made.names()})


@pytest.fixture
def own(agent: Agent, tmp_path: Path) -> Site:
    """A site with an agent of its own, which may be killed."""
    return Site(agent, People(tmp_path))


class Site:
    """An agent that follows the repository of these people."""

    def __init__(self, agent: Agent, people: People) -> None:
        self.agent, self.people = agent, people
        self.begin = agent.call("events")["last"]

    def source(self, more: str = "", place: str | None = None) -> str:
        place = place or f"git: {{url: {self.people.bare}, branch: main}}"
        return f"""
apiVersion: orch/v1
kind: Source
metadata: {{name: shop}}
spec:
  {place}
  path: site
  interval: 1h
{more}"""

    def follow(self, more: str = "", place: str | None = None) -> None:
        document = {"name": "source.yaml", "base": str(self.agent.folder), "text": self.source(more, place)}
        self.agent.call("source_put", {"documents": [document]})

    def reconcile(self, **more: Any) -> str:
        return str(self.agent.call("source_reconcile", {"name": "shop", **more})["text"])

    def fails(self, **more: Any) -> OrchError:
        with pytest.raises(OrchError) as caught:
            self.reconcile(**more)
        return caught.value

    def item(self) -> dict[str, Any]:
        return dict(self.agent.call("sources", {"names": ["shop"]})["items"][0])

    def reasons(self) -> list[str]:
        events = self.agent.call("events", {"name": "source/shop", "after": self.begin})["events"]
        return [event["reason"] for event in events for _ in range(event["count"])]

    def wake(self) -> None:
        """Have the source looked at, as when its interval is over."""
        self.agent.call("source_suspend", {"name": "shop", "on": False})

    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.agent.call("status")["items"]]


def test_a_commit_is_served_and_status_says_of_which_commit(site: Site) -> None:
    commit = site.people.push({"site/shop.yaml": manifest(), **MODEL}, "Open the shop")
    site.follow()
    assert "1 unchanged" in site.reconcile(), "the first look has taken it already"
    item, source = site.agent.item(), site.item()
    assert (item["health"], item["sync"]) == ("Healthy", "Synced")
    assert item["revision"] == {"number": 1, "source": "git", "commit": commit, "from": "shop"}
    assert source["lastAppliedRevision"] == source["lastAttemptedRevision"] == f"main@{commit}"
    assert (source["health"], source["deployments"]) == ("Healthy", ["shop"])
    assert source["applied"]["author"] == "Ada <ada@example.com>"
    assert source["applied"]["subject"] == "Open the shop"
    assert site.reasons() == ["Created", "Fetched", "Applied"]


def test_a_bad_commit_leaves_the_last_good_one_and_is_told_with_its_line_and_author(site: Site) -> None:
    good = site.people.push({"site/shop.yaml": manifest(), **MODEL})
    site.follow()
    site.reconcile()
    bad = site.people.push({"site/shop.yaml": manifest().replace("device: CPU", "device: PCU")}, "Typo")
    error = site.fails()
    (problem,) = error.problems
    assert problem.where == "site/shop.yaml:10:15"
    assert "did you mean" in str(problem.hint)
    assert f"(commit {bad[:8]} by Ada <ada@example.com>)" in problem.what
    source = site.item()
    assert (source["health"], source["reason"]) == ("Degraded", "CommitFailed")
    assert source["lastAppliedRevision"] == f"main@{good}"
    assert source["lastAttemptedRevision"] == f"main@{bad}"
    (fault,) = source["attempted"]["faults"]
    assert (fault["file"], fault["line"], fault["author"]) == ("site/shop.yaml", 10, "Ada <ada@example.com>")
    assert [each["status"] for each in source["conditions"]] == ["False", "False", "True"]
    assert (site.agent.item()["health"], site.agent.item()["revision"]["commit"]) == ("Healthy", good)


def test_a_commit_of_which_one_deployment_fails_is_taken_back_as_a_whole(site: Site) -> None:
    good = site.people.push({"site/a.yaml": manifest("a"), "site/b.yaml": manifest("b"), **MODEL})
    site.follow()
    site.reconcile()
    pids = {name: site.agent.item(name)["worker"]["pid"] for name in ("a", "b")}
    files = {"site/a.yaml": manifest("a", limit=9), "site/b.yaml": manifest("b", behaviour="REFUSE")}
    site.people.push({**files, "site/aa.yaml": manifest("aa")}, "Half good")
    error = site.fails()
    assert error.problems[0].where == "site/b.yaml:4:18"
    assert "b: the engine refuses" in error.problems[0].what
    assert site.names() == ["a", "b"]
    for name, pid in pids.items():
        item = site.agent.item(name)
        assert (item["health"], item["sync"], item["worker"]["pid"]) == ("Healthy", "Synced", pid)
        assert item["revision"]["commit"] == good


def test_a_commit_that_failed_is_not_tried_again_until_something_changed(site: Site) -> None:
    site.people.push({"site/shop.yaml": manifest(behaviour="CANNOT"), **MODEL})
    site.follow()
    site.fails()
    tries = site.reasons().count("Failed")
    site.wake()
    site.agent.apply(manifest("other"))
    site.wake()
    eventually(lambda: site.reasons().count("Failed") > tries, "what else runs here decides whether it can run")
    site.wake()
    site.people.push({"site/shop.yaml": manifest()})
    site.wake()
    eventually(lambda: site.item()["health"] == "Healthy", "another commit is tried")
    assert site.reasons().count("Failed") == tries + 1


def test_what_the_planner_refuses_is_told_with_its_line(site: Site) -> None:
    text = manifest().replace("STAND_IN", "UNPLANNABLE")
    site.people.push({"site/shop.yaml": text, **MODEL})
    site.follow()
    assert site.fails().problems[0].where == "site/shop.yaml:12:33"


def test_what_a_worker_says_of_a_model_is_told_with_the_models_line(site: Site) -> None:
    site.people.push({"site/shop.yaml": manifest(), **MODEL})
    site.follow()
    site.reconcile()
    with socket.socket() as probe:  # another address needs another worker, which is tried
        probe.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*probe.getsockname())
    site.people.push({"site/shop.yaml": manifest(behaviour="MISSES", http=address), **MODEL})
    (problem,) = site.fails().problems
    assert problem.where is not None
    assert problem.where.startswith("site/shop.yaml:")
    assert "shop/m: p99 61 ms over the SLO of 40 ms" in problem.what


def test_drift_is_repaired_and_told(site: Site) -> None:
    commit = site.people.push({"site/shop.yaml": manifest(), **MODEL})
    site.follow()
    site.reconcile()
    told = list(
        admin.stream(site.agent.layout.socket, "apply", site.agent.request(manifest(limit=3)), timeout_s=WAIT_S)
    )
    assert [line["message"] for kind, line in told if kind == "progress" and line.get("phase") == "warning"] == [
        "belongs to the source 'shop', which changes it back; to keep it: orch source suspend shop"
    ]
    assert site.agent.item()["revision"]["source"] == "file"
    site.wake()
    eventually(lambda: site.agent.item()["revision"]["commit"] == commit, "what was applied by hand is taken back")
    assert site.agent.call("describe", {"name": "shop"})["plan"]["models"][0]["queue"]["limit"] == 8
    site.agent.call("delete", {"names": ["shop"]})
    site.wake()
    eventually(lambda: site.names() == ["shop"], "what was deleted by hand is there again")
    eventually(lambda: site.reasons().count("DriftRepaired") == 2, "both are told")


def test_model_files_that_are_gone_are_brought_back_at_the_next_look_and_what_serves_from_them_too(site: Site) -> None:
    site.people.push({"site/shop.yaml": manifest(behaviour="NEEDS_MODEL"), **MODEL})
    site.follow()
    site.reconcile()
    model = Path(site.agent.call("describe", {"name": "shop"})["plan"]["models"][0]["source"])
    shutil.rmtree(model.parent)
    os.kill(site.agent.item()["worker"]["pid"], signal.SIGKILL)
    eventually(lambda: site.agent.item()["health"] != "Healthy", "it does not run")
    site.wake()
    eventually(lambda: site.agent.item()["health"] == "Healthy", "it runs again")
    assert model.is_file()
    eventually(lambda: "DriftRepaired" in site.reasons(), "it is told")
    assert site.item()["health"] == "Healthy"


def test_a_source_of_which_a_deployment_is_missing_says_which(site: Site) -> None:
    site.people.push({"site/a.yaml": manifest("a"), "site/b.yaml": manifest("b"), **MODEL})
    site.follow()
    site.reconcile()
    site.agent.call("delete", {"names": ["b"]})
    source = site.item()
    assert (source["health"], source["reason"]) == ("Degraded", "DeploymentFailed")
    assert "not all of it runs: b: Missing" in source["message"]
    site.wake()
    eventually(lambda: site.item()["health"] == "Healthy", "it is there again")


def test_what_a_commit_no_longer_has_is_deleted_but_never_everything(site: Site) -> None:
    files = {"site/a.yaml": manifest("a"), "site/b.yaml": manifest("b")}
    site.people.push({**files, **MODEL})
    site.follow()
    site.reconcile()
    site.people.push({"site/b.yaml": None})
    assert "1 removed" in site.reconcile()
    assert site.names() == ["a"]
    site.people.push({"site/a.yaml": None, "site/c.yaml": manifest("c")})
    error = site.fails()
    assert "would remove the one deployment of this source (a)" in error.problems[0].what
    assert "--prune-all" in str(error.problems[0].hint)
    site.people.push({"site/c.yaml": None})
    assert "site: there is no manifest in this folder" in str(site.fails())
    site.people.push({"site/model.onnx": None, "README": "moved"})
    assert "no folder 'site'" in site.fails().problems[0].what
    assert site.names() == ["a"]
    site.people.push({"site/c.yaml": manifest("c"), **MODEL})
    assert "1 changed, 1 removed" in site.reconcile(prune_all=True)
    assert site.names() == ["c"]


def test_a_deployment_that_is_renamed_takes_its_address_over_and_gives_it_back_when_it_cannot_run(site: Site) -> None:
    address = f"127.0.0.1:{free_port()}"
    site.people.push({"site/a.yaml": manifest("a", http=address), "site/z.yaml": manifest("z"), **MODEL})
    site.follow()
    site.reconcile()
    site.people.push({"site/a.yaml": manifest("b", http=address, behaviour="CANNOT")})
    assert "this plan cannot run" in str(site.fails())
    eventually(lambda: site.agent.item("a")["health"] == "Healthy", "the old one is back")
    assert site.names() == ["a", "z"]
    site.people.push({"site/a.yaml": manifest("b", http=address)})
    assert "1 changed, 1 unchanged, 1 removed" in site.reconcile()
    assert site.names() == ["b", "z"]
    assert site.agent.item("b")["endpoint"]["http"] == f"http://{address}"


def test_a_remote_that_is_gone_or_lost_its_branch_changes_nothing_and_is_told(site: Site) -> None:
    site.people.push({"site/shop.yaml": manifest(), **MODEL})
    site.follow()
    site.reconcile()
    away = site.people.bare.with_name("away.git")
    site.people.bare.rename(away)
    site.fails()
    source = site.item()
    assert (source["health"], source["reason"], source["remote"]["answers"]) == ("Degraded", "RemoteFailed", False)
    assert site.agent.item()["health"] == "Healthy"
    away.rename(site.people.bare)
    site.reconcile()
    assert site.item()["health"] == "Healthy"
    site.people.rename_branch("main", "other")
    assert "main" in str(site.fails())
    assert site.names() == ["shop"]
    assert {"RemoteFailed", "RemoteBack"} <= set(site.reasons())


def test_a_model_that_did_not_change_is_not_touched_by_another_commit(site: Site) -> None:
    site.people.push({"site/shop.yaml": manifest(), **MODEL})
    site.follow()
    site.reconcile()
    first = site.agent.call("describe", {"name": "shop"})
    site.people.push({"site/shop.yaml": "# reviewed" + manifest()})
    assert "1 unchanged" in site.reconcile()
    second = site.agent.call("describe", {"name": "shop"})
    assert second["plan"] == first["plan"]
    assert second["status"]["worker"] == first["status"]["worker"]
    assert second["manifest"].startswith("# reviewed")
    site.people.push({"site/model.onnx": b"\x08\x01"})
    site.reconcile()
    third = site.agent.call("describe", {"name": "shop"})
    kept = [Path(each["plan"]["models"][0]["source"]) for each in (first, third)]
    assert kept[0] != kept[1]
    assert [path.read_bytes() for path in kept] == [b"", b"\x08\x01"], "the one before is there for a rollback"


def test_an_agent_killed_amid_a_commit_is_followed_by_one_that_finishes_it(own: Site) -> None:
    own.people.push({"site/a.yaml": manifest("a"), "site/b.yaml": manifest("b"), **MODEL})
    own.follow()
    own.reconcile()
    files = {"site/a.yaml": manifest("a", limit=9), "site/b.yaml": manifest("b", behaviour="HANG")}
    commit = own.people.push(files)
    own.wake()
    eventually(lambda: own.agent.item("a")["revision"]["commit"] == commit, "the first one is changed")
    own.agent.end(signal.SIGKILL)
    (own.agent.layout.workers / "go-on").touch()
    own.agent.start()
    eventually(lambda: own.item()["lastAppliedRevision"] == f"main@{commit}", "the next agent finishes it")
    assert [own.agent.item(name)["revision"]["commit"] for name in ("a", "b")] == [commit, commit]


def test_an_agent_that_is_stopped_amid_a_commit_leaves_it_to_the_next(own: Site) -> None:
    own.people.push({"site/a.yaml": manifest("a"), "site/b.yaml": manifest("b"), **MODEL})
    own.follow(f"  model_roots: [{own.agent.folder}]")
    own.reconcile()
    measured = own.agent.folder / "measured"
    measured.touch()
    commit = own.people.push({"site/b.yaml": manifest("b", behaviour=str(measured)).replace("STAND_IN", "MEASURED")})
    own.wake()
    eventually(lambda: (own.item()["attempted"] or {}).get("result") == "running", "it is being measured")
    own.agent.call("stop", {"workers": False})
    assert own.agent.child is not None
    own.agent.child.wait(WAIT_S)
    measured.unlink()
    own.agent.start()
    eventually(lambda: own.item()["lastAppliedRevision"] == f"main@{commit}", "the next agent finishes it")
    assert "Failed" not in own.reasons()


def test_an_agent_killed_amid_a_commit_that_cannot_be_leaves_the_one_before(own: Site) -> None:
    good = own.people.push({"site/a.yaml": manifest("a"), "site/b.yaml": manifest("b"), **MODEL})
    own.follow()
    own.reconcile()
    files = {"site/a.yaml": manifest("a", limit=9), "site/b.yaml": manifest("b", behaviour="HANG")}
    own.people.push(files)
    own.wake()
    eventually(lambda: own.agent.item("a")["metadata"]["generation"] == 2, "the first one is changed")
    own.agent.end(signal.SIGKILL)
    bad = own.people.push({"site/b.yaml": manifest("b", behaviour="REFUSE")})
    (own.agent.layout.workers / "go-on").touch()
    own.agent.start()
    eventually(lambda: own.item()["attempted"]["commit"] == bad, "the next commit is tried")
    eventually(lambda: own.item()["attempted"]["result"] == "failed", "it fails")
    assert own.agent.call("describe", {"name": "a"})["plan"]["models"][0]["queue"]["limit"] == 8
    assert own.agent.item("a")["revision"]["commit"] == good


def test_a_deployment_planned_anew_after_a_reboot_keeps_its_files(own: Site) -> None:
    own.people.push({"site/shop.yaml": manifest(), **MODEL})
    own.follow()
    own.reconcile()
    before = own.agent.call("describe", {"name": "shop"})["plan"]
    own.agent.end(signal.SIGKILL)
    for pid in own.agent.workers():
        os.kill(pid, signal.SIGKILL)
    with closing(sqlite3.connect(own.agent.layout.database)) as connection:
        connection.execute("UPDATE workers SET boot = 'another'")
        connection.commit()
    own.agent.start(STAND_IN_MACHINE="another machine")
    plan = lambda: own.agent.call("describe", {"name": "shop"})["plan"]  # noqa: E731
    eventually(lambda: plan()["fingerprint"] == "another machine", "it is planned anew")
    assert plan()["models"] == before["models"]


def test_a_suspended_source_takes_nothing_until_it_is_resumed(site: Site) -> None:
    site.people.push({"site/shop.yaml": manifest(), **MODEL})
    site.follow()
    site.reconcile()
    assert site.agent.call("source_suspend", {"name": "shop", "on": True})["health"] == "Suspended"
    site.people.push({"site/shop.yaml": manifest(limit=9)})
    assert "suspended" in str(site.fails())
    site.wake()
    eventually(lambda: "1 unchanged" in site.reconcile(), "resumed")
    assert site.agent.call("describe", {"name": "shop"})["plan"]["models"][0]["queue"]["limit"] == 9


def test_a_deployment_rolled_back_by_hand_is_left_alone_until_the_source_is_resumed(site: Site) -> None:
    site.people.push({"site/shop.yaml": manifest(), **MODEL})
    site.follow()
    site.reconcile()
    site.people.push({"site/shop.yaml": manifest(limit=9)})
    site.reconcile()
    site.agent.call("rollback", {"name": "shop", "to": 1, "trial": False})
    assert site.item()["held"] == ["shop"]
    site.reconcile()
    assert site.agent.call("describe", {"name": "shop"})["plan"]["models"][0]["queue"]["limit"] == 8
    site.wake()
    eventually(lambda: "DriftRepaired" in site.reasons(), "resuming ends it")
    assert site.agent.call("describe", {"name": "shop"})["plan"]["models"][0]["queue"]["limit"] == 9


def test_a_deployment_of_another_source_is_not_taken_from_it(site: Site) -> None:
    site.people.push({"site/shop.yaml": manifest(), **MODEL})
    site.follow()
    site.reconcile()
    text = site.source().replace("{name: shop}", "{name: rival}")
    site.agent.call("source_put", {"documents": [{"name": "s.yaml", "base": str(site.agent.folder), "text": text}]})
    with pytest.raises(OrchError, match="belongs to the source 'shop'"):
        site.agent.call("source_reconcile", {"name": "rival"})
    assert site.agent.item()["revision"]["from"] == "shop"


@pytest.mark.parametrize("kept", [True, False])
def test_deleting_a_source_deletes_its_deployments_unless_told_otherwise(site: Site, kept: bool) -> None:
    site.people.push({"site/shop.yaml": manifest(), **MODEL})
    site.follow()
    site.reconcile()
    site.agent.call("source_delete", {"name": "shop", "keep_deployments": kept})
    assert site.agent.call("sources")["items"] == []
    assert site.names() == (["shop"] if kept else [])
    assert (site.agent.layout.root / "sources" / "shop").exists() == kept  # what it serves from stays
    if kept:
        assert site.agent.item()["revision"]["source"] == "file"


def test_models_that_were_kept_with_deployments_go_once_these_are_deleted(own: Site) -> None:
    own.people.push({"site/shop.yaml": manifest(), **MODEL})
    own.follow()
    own.reconcile()
    own.agent.call("source_delete", {"name": "shop", "keep_deployments": True})
    left = own.agent.layout.root / "sources" / "shop"
    own.agent.end(signal.SIGTERM)
    own.agent.start()
    own.agent.call("sources")
    assert list(left.glob("models/*/model.onnx")), "it is served from there"
    own.agent.call("delete", {"names": ["shop"]})
    own.agent.end(signal.SIGTERM)
    own.agent.start()
    eventually(lambda: not left.exists(), "nothing needs it any more")


def test_a_folder_is_followed_as_a_repository_is(site: Site) -> None:
    folder = site.agent.folder / "plain"
    (folder / "site").mkdir(parents=True)
    (folder / "site/model.onnx").touch()
    (folder / "site/shop.yaml").write_text(manifest())
    site.follow(place=f"folder: {folder}")
    site.reconcile()
    assert site.agent.item()["revision"]["source"] == "folder"
    (folder / "site/shop.yaml").write_text(manifest(limit=9))
    limits = lambda: site.agent.call("describe", {"name": "shop"})["plan"]["models"][0]["queue"]["limit"]  # noqa: E731
    eventually(lambda: limits() == 9, "a change is seen")


def test_a_repository_may_not_hold_sources_or_reach_outside(site: Site) -> None:
    site.people.push({"site/shop.yaml": manifest(), "site/source.yaml": site.source(), **MODEL})
    site.follow()
    assert "a source cannot hold sources" in str(site.fails())
    site.people.push({"site/source.yaml": None, "site/shop.yaml": manifest().replace("model.onnx", "/etc/hostname")})
    error = site.fails()
    assert "outside of the repository" in str(error)
    site.people.push({"site/shop.yaml": manifest().replace("model.onnx", "../models/gone.onnx")})
    assert "there is no file models/gone.onnx" in str(site.fails()), "paths are those of the repository"
    site.people.push({"site/shop.yaml": manifest().replace("model.onnx", "/etc/hostname")})
    error = site.fails()
    assert error.problems[0].where == "site/shop.yaml:9:15"


@pytest.mark.parametrize(("locks", "fails"), [("hint", False), ("refuse", True)])
def test_what_no_lock_holds_is_measured_planned_by_rule_or_refused(site: Site, locks: str, fails: bool) -> None:
    site.people.push({"site/shop.yaml": manifest().replace("STAND_IN", "MEASURED").replace('""', "for ever"), **MODEL})
    site.follow(f"  locks: {locks}")
    if fails:
        assert "no lock holds it" in str(site.fails())
    else:
        assert "1 unchanged" in site.reconcile()


def test_a_source_is_created_changed_and_left_alone_by_applying_its_manifest(site: Site) -> None:
    def put(text: str) -> str:
        document = {"name": "s.yaml", "base": str(site.agent.folder), "text": text}
        return str(site.agent.call("source_put", {"documents": [document]})["sources"][0]["action"])

    site.people.push({"site/shop.yaml": manifest(), **MODEL})
    text = site.source()
    assert [put(each) for each in (text, text, text.replace("1h", "2h"))] == ["create", "unchanged", "update"]
    assert site.item()["metadata"]["generation"] == 2


def test_everything_wrong_with_a_source_is_told_at_once_and_no_secret_with_it(site: Site) -> None:
    text = site.source().replace(f"url: {site.people.bare}", "url: https://ada:hush@example.com/x.git, token_file: t")
    with pytest.raises(OrchError) as caught:
        site.agent.call("source_put", {"documents": [{"name": "s.yaml", "base": "/", "text": text}]})
    assert "hush" not in str(caught.value)
    assert "before the @" in str(caught.value)
    with pytest.raises(OrchError, match="there is no source 'gone'"):
        site.agent.call("source_reconcile", {"name": "gone"})


def test_a_push_that_the_server_tells_of_is_live_without_waiting_for_the_interval(site: Site) -> None:
    site.people.push({"site/shop.yaml": manifest(), **MODEL})
    (site.agent.folder / "secret").write_text("hush\n")
    address = f"127.0.0.1:{free_port()}"
    site.follow(f"  webhook: {{secret_file: secret, listen: '{address}'}}")
    site.reconcile()
    commit = site.people.push({"site/shop.yaml": manifest(limit=9)})
    assert tell(address, b"guess") == 401
    assert tell(address, b"hush") == 202
    eventually(lambda: site.item()["lastAppliedRevision"] == f"main@{commit}", "it is live")
    (site.agent.folder / "secret").write_text("another\n")
    assert (tell(address, b"hush"), tell(address, b"another")) == (401, 202)


def test_an_address_for_pushes_that_is_taken_is_told_and_tried_again(site: Site) -> None:
    (site.agent.folder / "secret").write_text("hush")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        site.follow(f"  webhook: {{secret_file: secret, listen: '{address}'}}")
        events = site.agent.call("events", {"name": "source/shop", "after": site.begin})["events"]
        told = [each["message"] for each in events if each["reason"] == "WebhookFailed"]
        what = f"{address}: cannot listen for webhooks: Address already in use"
        assert f"nobody can tell of a push, so it is polled: {what}; it is tried again" in told
        assert listening(site.item()) == ("False", "WebhookFailed")
    site.follow(f"  webhook: {{secret_file: secret, listen: '{address}'}}")
    assert listening(site.item()) == ("True", "Listening")
    assert tell(address, b"hush") == 202


def listening(item: dict[str, Any]) -> tuple[str, str]:
    """Return the status and the reason of the condition that tells whether pushes are heard of."""
    (found,) = (each for each in item["conditions"] if each["type"] == "Listening")
    return found["status"], found["reason"]


def tell(address: str, secret: bytes) -> int:
    """Tell of a push as GitHub does, and return the answer's status."""
    body = b'{"ref": "refs/heads/main"}'
    signature = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": signature, "X-GitHub-Event": "push", "Content-Type": "application/json"}
    host, _, port = address.partition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=WAIT_S)) as connection:
        connection.request("POST", "/hooks/shop", body, headers)
        return connection.getresponse().status


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_sources_outlive_a_damaged_store(own: Site) -> None:
    commit = own.people.push({"site/shop.yaml": manifest(), **MODEL})
    own.follow()
    own.reconcile()
    pid = own.agent.item()["worker"]["pid"]
    own.agent.end(signal.SIGKILL)
    for suffix in ("", "-wal", "-shm"):
        own.agent.layout.database.with_name(f"state.db{suffix}").write_bytes(b"no database" * 999)
    own.agent.start()
    eventually(lambda: own.item()["lastAppliedRevision"] == f"main@{commit}", "it is followed again")
    assert (own.agent.item()["worker"]["pid"], own.agent.item()["revision"]["from"]) == (pid, "shop")


def test_more_sources_than_an_agent_follows_are_refused(site: Site) -> None:
    texts = [site.source().replace("{name: shop}", f"{{name: s{number}}}") for number in range(33)]
    documents = [{"name": "s.yaml", "base": "/", "text": text} for text in texts]
    with pytest.raises(OrchError, match="33 sources, and an agent follows at most 32"):
        site.agent.call("source_put", {"documents": documents})
    assert site.agent.call("sources")["items"] == []


def test_more_manifests_or_deployments_than_a_source_may_hold_are_refused(site: Site) -> None:
    site.people.push({f"site/{number}.yaml": "" for number in range(1001)})
    site.follow()
    assert "1001 manifests, and a source has at most 1000" in str(site.fails())
    text = "---".join(manifest(f"d{number}") for number in range(201))
    site.people.push({f"site/{number}.yaml": None for number in range(1001)} | {"site/all.yaml": text, **MODEL})
    assert "201 deployments, and a source has at most 200" in str(site.fails())
    assert site.names() == []


def test_an_idle_agent_that_follows_a_repository_reads_no_yaml() -> None:
    code = """
import sys
from pathlib import Path
import orchestrator.agent.__main__
from orchestrator.agent.source_place import open_place
from orchestrator.agent.source_state import SourcePlan
open_place(Path("git"), SourcePlan(url="/srv/shop.git"))
print(sorted({"yaml", "numpy", "orchestrator.manifest.spec"} & sys.modules.keys()))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"
