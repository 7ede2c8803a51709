"""The disk takes no more bytes: a change is refused with the reason, what serves goes on, and later it is made."""

from __future__ import annotations

import resource

import pytest

from orchestrator.errors import OrchError
from tests.agent.conftest_agent import Agent, agent, manifest, pid_that_serves
from tests.faults.at_fault import limited

__all__ = ["agent"]


def test_an_agent_whose_disk_is_full_refuses_changes_and_goes_on_once_there_is_room(agent: Agent) -> None:
    agent.apply(manifest())
    url, worker = agent.item()["endpoint"]["http"], agent.item()["worker"]["pid"]
    assert agent.child is not None
    with limited(agent.child.pid, resource.RLIMIT_FSIZE, 0):
        with pytest.raises(OrchError):
            agent.apply(manifest(limit=9))
        assert pid_that_serves(url) == worker
        assert agent.item()["health"] == "Healthy"
    assert agent.apply(manifest(limit=9))
    assert pid_that_serves(url) == worker
