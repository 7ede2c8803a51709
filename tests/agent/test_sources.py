"""Sources as callers see them: a real agent, real Git, stand-in workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest_agent import Agent, eventually, manifest, pid_that_serves
from repositories import People

from orchestrator.errors import OrchError

MODEL = {"site/model.onnx": b""}  # an empty file names no others


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path)


@pytest.fixture
def site(agent: Agent, people: People) -> Iterator[Site]:
    yield Site(agent, people)


class Site:
    """An agent that follows the repository of these people."""

    def __init__(self, agent: Agent, people: People) -> None:
        self.agent, self.people = agent, people

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
        return [event["reason"] for event in self.agent.call("events", {"name": "source/shop"})["events"]]

    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.agent.call("status")["items"]]


def test_a_commit_is_served_and_status_says_of_which_commit(site: Site) -> None:
    commit = site.people.push({"site/shop.yaml": manifest(), **MODEL}, "Open the shop")
    site.follow()
    assert "1 changed" in site.reconcile()
    item, source = site.agent.item(), site.item()
    assert (item["health"], item["sync"]) == ("Healthy", "Synced")
    assert item["revision"] == {"number": 1, "source": "git", "commit": commit, "from": "shop"}
    assert source["lastAppliedRevision"] == source["lastAttemptedRevision"] == f"main@{commit}"
    assert (source["health"], source["deployments"]) == ("Healthy", ["shop"])
    assert source["applied"]["author"] == "Ada <ada@example.com>"
    assert source["applied"]["subject"] == "Open the shop"
    assert site.reasons() == ["Created", "Fetched", "Applied"]
