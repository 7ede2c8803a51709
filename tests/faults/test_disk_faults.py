"""The disk takes no more bytes: a change is refused with the reason, what serves goes on, and later it is made."""

from __future__ import annotations

import contextlib
import resource
import signal
from pathlib import Path

import pytest

from orchestrator.errors import OrchError
from orchestrator.serving import log_file
from tests.agent.conftest_agent import Agent, agent, manifest, pid_that_serves
from tests.faults.at_fault import WAIT_S, SimulatedWorker, eventually, limited

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


def test_an_agent_whose_disk_is_full_since_the_apply_tells_the_status(agent: Agent) -> None:
    """What it would keep of a status, conditions and events, it tries to keep again with the next one."""
    agent.apply(manifest())
    assert agent.child is not None
    with limited(agent.child.pid, resource.RLIMIT_FSIZE, 0):
        item = agent.item()
    assert (item["health"], item["sync"]) == ("Healthy", "Synced")


def test_an_agent_whose_disk_is_full_ends_when_it_is_stopped_with_its_workers(agent: Agent) -> None:
    agent.apply(manifest())
    assert agent.child is not None
    with contextlib.suppress(ProcessLookupError), limited(agent.child.pid, resource.RLIMIT_FSIZE, 0):
        with pytest.raises(OrchError, match="cannot keep the state"):
            agent.call("stop", {"workers": True})
        agent.child.wait(WAIT_S)  # the limit cannot be taken back from a process that has gone
    assert agent.child.returncode is not None


def test_a_worker_whose_log_is_full_goes_on_in_a_new_one_while_it_serves(tmp_path: Path) -> None:
    with SimulatedWorker(tmp_path / "state") as worker:
        status = worker.until_state("Serving")
        with worker.log.open("ab") as log:
            log.write(b"x" * log_file.MAX_BYTES)
        eventually(log_file.older(worker.log, 1).exists, "the full log is put aside")
        assert worker.log.stat().st_size < log_file.MAX_BYTES
        assert worker.call("status")["pid"] == status["pid"]
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(WAIT_S) == 0
        assert "stopped" in worker.log.read_text()
