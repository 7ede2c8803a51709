"""The agent as its callers see it: a real process, real sockets, stand-in workers."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest_agent import Agent, eventually, manifest, pid_that_serves

from orchestrator.agent.client import ensure_agent, stop_agent, worker_environ, workers_serve
from orchestrator.errors import Kind, OrchError
from orchestrator.serving import admin


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def dead(pid: int) -> bool:
    from orchestrator.agent.process import identify

    return identify(pid) is None


def test_apply_starts_a_worker_that_serves_and_status_says_healthy(agent: Agent) -> None:
    result = agent.apply(manifest())
    (deployment,) = result["deployments"]
    assert (deployment["ok"], deployment["generation"], deployment["revision"]) == (True, 1, 1)
    assert [change["action"] for change in deployment["changes"]] == ["create"]
    item = agent.item()
    assert (item["sync"], item["health"]) == ("Synced", "Healthy")
    assert pid_that_serves(item["endpoint"]["http"]) == item["worker"]["pid"]
    assert {c["type"]: c["status"] for c in item["conditions"]} == {
        "Ready": "True",
        "Progressing": "False",
        "Degraded": "False",
        "Drifted": "False",
    }


def test_apply_twice_says_unchanged_and_touches_nothing(agent: Agent) -> None:
    agent.apply(manifest())
    before = agent.item()
    result = agent.apply(manifest())
    assert [change["action"] for change in result["deployments"][0]["changes"]] == ["unchanged"]
    after = agent.item()
    assert (after["worker"], after["metadata"], after["revision"]) == (
        before["worker"],
        before["metadata"],
        before["revision"],
    )
    assert len(agent.call("describe", {"name": "shop"})["revisions"]) == 1


def test_an_apply_tells_what_the_plan_warns_of_once(agent: Agent) -> None:
    """Seen to create a model that cannot hold its SLO without a word."""
    warned = manifest().replace("{STAND_IN:", '{WARNED: "the SLO cannot be held on this machine", STAND_IN:')
    for _ in ("created", "unchanged"):
        lines = [line for _, line in admin.stream(agent.layout.socket, "apply", agent.request(warned), timeout_s=20)]
        told = [
            (line["deployment"], line["model"], line["message"]) for line in lines if line.get("phase") == "warning"
        ]
        assert told == [("shop", "m", "the SLO cannot be held on this machine")]


def test_the_log_of_requests_is_switched_by_the_worker_that_runs(agent: Agent) -> None:
    agent.apply(manifest())
    told = agent.call("requests", {"name": "shop", "on": True})
    assert told["on"]
    assert Path(told["path"]) == Path(agent.call("describe", {"name": "shop"})["requests"])


def test_a_capacity_that_a_bench_found_reaches_the_worker_that_runs(agent: Agent) -> None:
    agent.apply(manifest())
    assert agent.call("benched", {"name": "shop", "model": "digits", "capacity_per_s": 72.0}) == {"ok": True}
    with pytest.raises(OrchError, match="no model 'x'"):
        agent.call("benched", {"name": "shop", "model": "x", "capacity_per_s": 72.0})


def test_a_change_of_the_queue_is_made_in_place(agent: Agent) -> None:
    agent.apply(manifest())
    pid = agent.item()["worker"]["pid"]
    result = agent.apply(manifest(limit=9))
    assert [change["action"] for change in result["deployments"][0]["changes"]] == ["update"]
    item = agent.item()
    assert (item["worker"]["pid"], item["metadata"]["generation"], item["sync"]) == (pid, 2, "Synced")


def test_a_change_of_the_address_replaces_the_worker_and_the_old_one_ends(agent: Agent) -> None:
    agent.apply(manifest())
    old = agent.item()["worker"]["pid"]
    address = f"127.0.0.1:{free_port()}"
    agent.apply(manifest(http=address))
    item = agent.item()
    assert item["endpoint"]["http"] == f"http://{address}"
    assert item["worker"]["pid"] != old
    assert pid_that_serves(item["endpoint"]["http"]) == item["worker"]["pid"]
    assert agent.workers() == [item["worker"]["pid"]]


def kept_regions(agent: Agent) -> Path:
    """Return the file in which the worker that serves keeps its regions of shared memory."""
    arguments = Path(f"/proc/{agent.item()['worker']['pid']}/cmdline").read_bytes().split(b"\0")
    return Path(os.fsdecode(arguments[arguments.index(b"--regions") + 1]))


def test_the_workers_of_a_deployment_keep_shared_memory_in_one_file_that_ends_with_it(agent: Agent) -> None:
    agent.apply(manifest())
    kept = kept_regions(agent)
    kept.write_text("[]")
    agent.apply(manifest(http=f"127.0.0.1:{free_port()}"))
    assert kept_regions(agent) == kept
    assert kept.exists()
    agent.call("delete", {"names": ["shop"]})
    assert not kept.exists()


def test_a_refused_change_leaves_the_old_plan_serving_and_is_told(agent: Agent) -> None:
    agent.apply(manifest())
    pid = agent.item()["worker"]["pid"]
    with pytest.raises(OrchError, match="shop: the engine refuses") as caught:
        agent.apply(manifest(behaviour="REFUSE"))
    assert caught.value.kind is Kind.FAILED
    item = agent.item()
    assert (item["sync"], item["health"], item["worker"]["pid"]) == ("OutOfSync", "Degraded", pid)
    assert item["revision"]["number"] == 1
    revisions = agent.call("describe", {"name": "shop"})["revisions"]
    assert [(one["result"], one["reason"]) for one in revisions] == [
        ("applied", None),
        ("failed", "the engine refuses"),
    ]
    assert agent.apply(manifest())["deployments"][0]["ok"]
    assert (agent.item()["sync"], agent.item()["health"]) == ("Synced", "Healthy")


def test_a_replacement_that_cannot_run_leaves_the_old_worker_serving(agent: Agent) -> None:
    agent.apply(manifest())
    pid = agent.item()["worker"]["pid"]
    with pytest.raises(OrchError, match="this plan cannot run"):
        agent.apply(manifest(behaviour="CANNOT", http=f"127.0.0.1:{free_port()}"))
    assert agent.item()["worker"]["pid"] == pid
    assert agent.workers() == [pid]


def test_a_plan_that_cannot_run_is_shown_with_its_reason_and_not_tried_again(agent: Agent) -> None:
    with pytest.raises(OrchError, match="this plan cannot run") as caught:
        agent.apply(manifest(behaviour="CANNOT"))
    assert caught.value.problems[0].hint == "change it"
    item = agent.item()
    assert (item["health"], item["worker"]) == ("Degraded", {"pid": None, "restarts": 0, "started": None})
    assert item["conditions"][0]["message"] == "this plan cannot run"


def test_a_worker_that_dies_at_once_is_a_crash_loop_with_the_end_of_its_log(agent: Agent) -> None:
    with pytest.raises(OrchError, match="exit code 7"):
        agent.apply(manifest(behaviour="CRASH"))
    item = eventually(
        lambda: next((i for i in [agent.item()] if i["conditions"][2]["reason"] == "CrashLoop"), None), "a crash loop"
    )
    assert item["health"] == "Degraded"
    assert "out of luck" in item["conditions"][2]["message"]
    assert item["worker"]["restarts"] >= 2
    events = agent.call("events", {"name": "shop", "after": 0, "limit": 100})["events"]
    assert {"WorkerDied", "CrashLoop", "RevisionFailed"} <= {event["reason"] for event in events}
    died = next(event["message"] for event in events if event["reason"] == "WorkerDied")
    first, *tail = died.splitlines()
    assert re.fullmatch(
        r"the worker \(pid \d+\) ended with exit code 7; starting it again( in [\d.]+ s)?; its log ends:", first
    )
    assert any("out of luck" in line for line in tail)


def test_a_killed_worker_is_started_again_on_the_same_socket(agent: Agent) -> None:
    agent.apply(manifest())
    item = agent.item()
    os.kill(item["worker"]["pid"], signal.SIGKILL)
    served = pid_that_serves(item["endpoint"]["http"])  # waits in the backlog, is never refused
    assert served != item["worker"]["pid"]
    after = eventually(lambda: next((i for i in [agent.item()] if i["health"] == "Healthy"), None), "healthy again")
    assert (after["worker"]["pid"], after["worker"]["restarts"]) == (served, 1)


def test_a_worker_that_hangs_is_ended_and_started_again(agent: Agent) -> None:
    agent.end(signal.SIGTERM)
    agent.start(STAND_IN_PATIENCE_S="0.5")
    agent.apply(manifest())
    item = agent.item()
    os.kill(item["worker"]["pid"], signal.SIGSTOP)
    assert pid_that_serves(item["endpoint"]["http"]) != item["worker"]["pid"]
    after = eventually(lambda: next((i for i in [agent.item()] if i["health"] == "Healthy"), None), "healthy again")
    assert after["worker"]["restarts"] == 1
    events = agent.call("events", {"name": "shop", "after": 0, "limit": 100})["events"]
    told = {event["reason"]: event["message"] for event in events}
    assert f"worker pid {item['worker']['pid']} has not answered for" in told["WorkerHung"]
    assert "did not answer and was ended; starting it again" in told["WorkerDied"]


def test_an_apply_to_a_worker_that_hangs_is_made_once_it_was_started_again(agent: Agent) -> None:
    agent.end(signal.SIGTERM)
    agent.start(STAND_IN_PATIENCE_S="0.5")
    agent.apply(manifest())
    pid = agent.item()["worker"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    lines = [
        line for _, line in admin.stream(agent.layout.socket, "apply", agent.request(manifest(limit=9)), timeout_s=20)
    ]
    told = [line["message"] for line in lines if line.get("phase") == "waiting"]
    assert told == [f"the worker (pid {pid}) does not answer"]
    assert [change["action"] for change in lines[-1]["deployments"][0]["changes"]] == ["update"]
    item = agent.item()
    assert (item["sync"], item["health"], item["worker"]["restarts"]) == ("Synced", "Healthy", 1)


def test_a_worker_that_starts_is_not_taken_for_one_that_hangs(agent: Agent) -> None:
    agent.end(signal.SIGTERM)
    agent.start(STAND_IN_PATIENCE_S="0.5")
    with pytest.raises(OrchError, match="not ready in time"):
        agent.apply(manifest(behaviour="DEAF"), timeout_s=4)
    (agent.layout.workers / "go-on").touch()
    item = eventually(lambda: next((i for i in [agent.item()] if i["health"] == "Healthy"), None), "it is ready")
    assert item["worker"]["restarts"] == 0


def test_a_change_that_its_worker_does_not_finish_says_how_the_worker_ended(agent: Agent) -> None:
    agent.apply(manifest())
    pid = agent.item()["worker"]["pid"]
    lines = admin.stream(agent.layout.socket, "apply", agent.request(manifest(behaviour="HANG")), timeout_s=20)
    eventually(lambda: next(lines)[1].get("phase") == "compiling", "it compiles")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(OrchError, match=rf"the worker \(pid {pid}\)( was killed by SIGKILL| ended)"):
        list(lines)
    item = eventually(lambda: next((i for i in [agent.item()] if i["worker"]["pid"]), None), "started again")
    assert item["worker"]["pid"] != pid


def test_workers_outlive_a_killed_agent_and_the_next_one_adopts_them(agent: Agent) -> None:
    agent.apply(manifest())
    item = agent.item()
    agent.end(signal.SIGKILL)
    assert pid_that_serves(item["endpoint"]["http"]) == item["worker"]["pid"]
    agent.start()
    assert agent.item() == item
    os.kill(item["worker"]["pid"], signal.SIGKILL)  # the new agent has the socket, and sees who is not its child
    assert pid_that_serves(item["endpoint"]["http"]) != item["worker"]["pid"]


def test_a_worker_that_died_while_no_agent_ran_is_started_by_the_next(agent: Agent) -> None:
    agent.apply(manifest())
    pid = agent.item()["worker"]["pid"]
    agent.end(signal.SIGTERM)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: dead(pid), "the worker is gone")
    agent.start()
    item = eventually(lambda: next((i for i in [agent.item()] if i["health"] == "Healthy"), None), "healthy again")
    assert item["worker"]["pid"] != pid


def test_after_a_reboot_on_another_machine_it_is_planned_anew(agent: Agent) -> None:
    agent.apply(manifest())
    agent.call("stop", {"workers": False})
    assert agent.child is not None
    agent.child.wait(20)
    for pid in agent.workers():
        os.kill(pid, signal.SIGKILL)
        eventually(lambda gone=pid: dead(gone), "the worker is gone")
    with closing(sqlite3.connect(agent.layout.database)) as connection, connection:
        connection.execute("UPDATE workers SET boot = 'the one before'")
    agent.start(STAND_IN_MACHINE="another machine")
    item = eventually(lambda: next((i for i in [agent.item()] if i["health"] == "Healthy"), None), "healthy again")
    assert (item["sync"], item["metadata"]["generation"]) == ("Synced", 2)
    assert agent.call("plans")["shop"]["fingerprint"] == "another machine"


def test_a_worker_that_was_adopted_while_it_started_gives_its_socket_back_later(agent: Agent) -> None:
    with pytest.raises(OrchError, match="not ready in time"):
        agent.apply(manifest(behaviour="STARTS_LATE"), timeout_s=0.3)
    agent.end(signal.SIGKILL)
    agent.start()
    (agent.layout.workers / "go-on").touch()
    item = eventually(lambda: next((i for i in [agent.item()] if i["health"] == "Healthy"), None), "it is ready")
    os.kill(item["worker"]["pid"], signal.SIGKILL)
    assert pid_that_serves(item["endpoint"]["http"]) != item["worker"]["pid"]


def test_an_apply_right_after_a_death_lets_the_restarted_worker_live(agent: Agent) -> None:
    agent.apply(manifest())
    item = agent.item()
    os.kill(item["worker"]["pid"], signal.SIGKILL)
    served = pid_that_serves(item["endpoint"]["http"])
    result = agent.apply(manifest())
    assert [change["action"] for change in result["deployments"][0]["changes"]] == ["unchanged"]
    assert agent.item()["worker"]["pid"] == served


def test_an_address_of_another_deployment_is_refused_by_its_name(agent: Agent) -> None:
    address = f"127.0.0.1:{free_port()}"
    agent.apply(manifest("one", http=address))
    with pytest.raises(OrchError, match=f"{address} is taken by the deployment 'one'"):
        agent.apply(manifest("two", http=address))


def test_a_worker_that_the_store_does_not_know_is_ended(agent: Agent) -> None:
    agent.apply(manifest())
    (pid,) = agent.workers()
    agent.end(signal.SIGKILL)
    for part in agent.layout.root.glob("state.db*"):
        part.unlink()
    agent.start()
    eventually(lambda: dead(pid), "the stray worker is gone")
    assert agent.call("status")["items"] == []
    reasons = [event["reason"] for event in agent.call("events", {"name": None, "after": 0, "limit": 10})["events"]]
    assert reasons == ["StrayWorker"]


def test_a_damaged_store_is_put_aside_and_rebuilt_without_touching_workers(agent: Agent) -> None:
    agent.apply(manifest(limit=3))
    before = agent.item()
    agent.end(signal.SIGKILL)
    for part in agent.layout.root.glob("state.db-*"):
        part.unlink()
    agent.layout.database.write_bytes(b"no database" * 1000)
    agent.start()
    after = agent.item()
    assert (after["worker"]["pid"], after["sync"], after["health"]) == (before["worker"]["pid"], "Synced", "Healthy")
    assert len(list(agent.layout.root.glob("state.db.damaged-*"))) == 1
    assert after["worker"] == {**before["worker"], "started": "2026-01-01T00:00:00.000Z"}, "as the worker says"
    assert after["metadata"]["created"] == before["metadata"]["created"]
    assert "limit: 3" in agent.call("describe", {"name": "shop"})["manifest"]
    result = agent.apply(manifest(limit=3))
    assert [change["action"] for change in result["deployments"][0]["changes"]] == ["unchanged"]


def test_a_taken_port_is_refused_with_who_holds_it(agent: Agent) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(OrchError, match=f"port {port} is taken by pid {os.getpid()}") as caught:
            agent.apply(manifest(http=f"127.0.0.1:{port}"))
    assert caught.value.problems[0].hint == "free it, or change spec.endpoint.http"
    assert agent.item()["health"] == "Missing"


def test_two_applies_at_once_are_made_one_after_the_other(agent: Agent) -> None:
    agent.apply(manifest())
    first: list[Any] = []
    thread = threading.Thread(target=lambda: first.append(agent.apply(manifest(behaviour="HANG"))))
    thread.start()
    eventually(lambda: agent.item()["metadata"]["generation"] == 2, "the first is on its way")
    lines = admin.stream(agent.layout.socket, "apply", agent.request(manifest(limit=9)), timeout_s=20)
    assert next(lines)[1]["phase"] == "waiting"
    assert agent.item()["metadata"]["generation"] == 2
    (agent.layout.workers / "go-on").touch()
    *_, (kind, last) = lines
    thread.join()
    assert first[0]["deployments"][0]["generation"] == 2
    assert (kind, last["deployments"][0]["generation"]) == ("result", 3)


def test_an_apply_goes_on_when_its_caller_has_gone(agent: Agent) -> None:
    agent.apply(manifest())
    lines = admin.stream(agent.layout.socket, "apply", agent.request(manifest(behaviour="HANG")), timeout_s=20)
    eventually(lambda: next(lines)[1].get("phase") == "compiling", "it compiles")
    lines.close()  # type: ignore[attr-defined]
    (agent.layout.workers / "go-on").touch()
    eventually(lambda: agent.item()["revision"]["number"] == 2, "the second revision is applied")


def test_an_agent_that_is_killed_amid_an_apply_is_followed_by_one_that_finishes_it(agent: Agent) -> None:
    agent.apply(manifest())
    lines = admin.stream(agent.layout.socket, "apply", agent.request(manifest(behaviour="HANG")), timeout_s=20)
    eventually(lambda: next(lines)[1].get("phase") == "compiling", "it compiles")
    agent.end(signal.SIGKILL)
    lines.close()  # type: ignore[attr-defined]
    (agent.layout.workers / "go-on").touch()
    agent.start()
    eventually(lambda: agent.item()["revision"]["number"] == 2, "the second revision is applied")
    assert agent.item()["sync"] == "Synced"


def test_an_agent_that_is_killed_while_it_measures_leaves_what_serves_and_the_apply_to_be_repeated(
    agent: Agent,
) -> None:
    agent.apply(manifest())
    lines = admin.stream(agent.layout.socket, "apply", agent.request(measured("for ever")), timeout_s=20)
    eventually(lambda: next(lines)[1].get("phase") == "measuring", "it measures")
    agent.end(signal.SIGKILL)
    lines.close()  # type: ignore[attr-defined]
    agent.start()
    assert (agent.item()["revision"]["number"], agent.item()["sync"]) == (1, "Synced")
    assert agent.apply(manifest(limit=9))["deployments"][0]["ok"]


def test_an_apply_that_is_not_ready_in_time_fails_and_says_that_it_goes_on(agent: Agent) -> None:
    with pytest.raises(OrchError, match="not ready in time") as caught:
        agent.apply(manifest(behaviour="STARTS_FOREVER"), timeout_s=0.5)
    assert caught.value.kind is Kind.DEADLINE
    assert agent.item()["worker"]["pid"] is not None
    assert agent.apply(manifest())["deployments"][0]["ok"]


def measured(text: str) -> str:
    return manifest().replace('STAND_IN: ""', f'MEASURED: "{text}"')


def test_what_is_measured_is_told_while_it_is_and_locked_reaches_the_planner(agent: Agent) -> None:
    request = agent.request(measured("at once"), locked=True)
    lines = [line for _, line in admin.stream(agent.layout.socket, "apply", request, timeout_s=20)]
    told = [line["message"] for line in lines if line.get("phase") == "measuring"]
    assert told == ["locked: True"]
    assert lines[-1]["deployments"][0]["ok"] is True


def test_measuring_that_does_not_end_is_given_up_and_what_serves_goes_on(agent: Agent) -> None:
    agent.apply(manifest())
    before = agent.item()["worker"]["pid"]
    with pytest.raises(OrchError, match="planning did not end in time"):
        agent.apply(measured("for ever"), timeout_s=0.3)
    assert agent.item()["worker"]["pid"] == before
    assert agent.apply(manifest(limit=9))["deployments"][0]["ok"] is True, "the next one has its turn"


def test_an_agent_that_is_stopped_while_it_measures_ends(agent: Agent) -> None:
    lines = admin.stream(agent.layout.socket, "apply", agent.request(measured("for ever")), timeout_s=20)
    assert any(line.get("phase") == "measuring" for _, line in itertools.islice(lines, 2))
    assert agent.end(signal.SIGTERM) == 0
    lines.close()


@contextmanager
def measuring(agent: Agent, name: str, more: str = "") -> Iterator[Callable[[], Any]]:
    """Apply a deployment that is measured until the function yielded is called, which returns what came of it."""
    lasting = agent.folder / f"{name}-is-measured"
    lasting.touch()
    text = manifest(name, more=more).replace('STAND_IN: ""', f'MEASURED: "{lasting}"')
    lines = admin.stream(agent.layout.socket, "apply", agent.request(text), timeout_s=20)
    next(line for _, line in lines if line.get("phase") == "measuring")

    def finish() -> Any:
        lasting.unlink()
        *_, (_, last) = lines
        return last

    try:
        yield finish
    finally:
        lasting.unlink(missing_ok=True)
        lines.close()  # type: ignore[attr-defined]


def test_what_is_measured_keeps_nobody_else_waiting(agent: Agent) -> None:
    agent.apply(manifest("served"))
    with measuring(agent, "shop") as finish:
        assert agent.apply(manifest("other"))["deployments"][0]["ok"]
        assert agent.call("delete", {"names": ["served"]}) == {"deleted": ["served"]}
        assert agent.item("other")["health"] == "Healthy"
        assert finish()["deployments"][0]["ok"]


def test_what_is_planned_for_the_first_time_is_shown_with_what_is_being_tried(agent: Agent) -> None:
    with measuring(agent, "shop") as finish:
        item = eventually(
            lambda: next((i for i in [agent.item()] if "locked: False" in i["conditions"][1]["message"]), None), "told"
        )
        condition = item["conditions"][1]
        assert (condition["type"], condition["status"], condition["reason"]) == ("Progressing", "True", "Planning")
        assert (item["health"], item["sync"], item["worker"]["pid"]) == ("Progressing", "OutOfSync", None)
        assert [(model["name"], model["state"]) for model in item["models"]] == [("m", "Planning")]
        assert [one["metadata"]["name"] for one in agent.call("status")["items"]] == ["shop"]
        with pytest.raises(OrchError, match="still being planned"):
            agent.call("describe", {"name": "shop"})
        finish()
    assert agent.item()["health"] == "Healthy"


def test_two_applies_of_what_is_measured_are_made_one_after_the_other(agent: Agent) -> None:
    with measuring(agent, "shop") as finish:
        lines = admin.stream(agent.layout.socket, "apply", agent.request(manifest(limit=9)), timeout_s=20)
        assert next(lines)[1]["phase"] == "waiting"
        assert finish()["deployments"][0]["generation"] == 1
        *_, (_, last) = lines
        assert last["deployments"][0]["generation"] == 2


def test_cores_that_another_deployment_took_meanwhile_are_not_given_twice(agent: Agent) -> None:
    own = "  resources: {cpus: 1}"
    with measuring(agent, "shop", more=own) as finish:
        agent.apply(manifest("other", more=own))
        assert finish()["deployments"][0]["ok"]
    plans = agent.call("plans")
    assert sorted(plan["cores"] for plan in plans.values()) == [[0], [1]]


def test_a_deployment_that_is_deleted_while_it_is_planned_is_not_made(agent: Agent) -> None:
    with measuring(agent, "shop") as finish:
        assert agent.call("delete", {"names": ["shop"]}) == {"deleted": ["shop"]}
        with pytest.raises(OrchError, match="shop: it was deleted meanwhile") as caught:
            finish()
    assert caught.value.kind is Kind.CONFLICT
    assert agent.call("status")["items"] == []
    assert agent.apply(manifest())["deployments"][0]["ok"], "the next one has its turn"


def test_a_change_of_what_was_deleted_while_it_was_planned_is_refused(agent: Agent) -> None:
    agent.apply(manifest())
    with measuring(agent, "shop") as finish:
        agent.call("delete", {"names": ["shop"]})
        with pytest.raises(OrchError, match="deleted meanwhile"):
            finish()
    assert (agent.workers(), agent.call("status")["items"]) == ([], [])


def test_delete_ends_the_worker_and_forgets_the_deployment(agent: Agent) -> None:
    agent.apply(manifest())
    assert agent.call("delete", {"names": ["shop"]}) == {"deleted": ["shop"]}
    assert (agent.workers(), agent.call("status")["items"]) == ([], [])
    with pytest.raises(OrchError, match="no deployment 'shop'"):
        agent.call("describe", {"name": "shop"})
    with pytest.raises(OrchError, match="no deployment 'shop'"):
        agent.call("delete", {"names": ["shop"]})


def test_prune_deletes_what_the_same_file_no_longer_holds(agent: Agent) -> None:
    agent.apply(manifest("one"), manifest("two"))
    result = agent.apply(manifest("two"), prune=True)
    assert result["pruned"] == ["one"]
    assert [item["metadata"]["name"] for item in agent.call("status")["items"]] == ["two"]


def test_all_deployments_are_tried_when_one_fails(agent: Agent) -> None:
    with pytest.raises(OrchError, match="bad: this plan cannot run"):
        agent.apply(manifest("bad", behaviour="CANNOT"), manifest("good"))
    assert agent.item("good")["health"] == "Healthy"


def test_nothing_is_touched_when_one_cannot_be_planned(agent: Agent) -> None:
    unplannable = manifest("bad").replace("STAND_IN", "UNPLANNABLE")
    with pytest.raises(OrchError, match="no device for this"):
        agent.apply(manifest("good"), unplannable)
    assert agent.call("status")["items"] == []


def test_another_plan_than_the_one_seen_is_refused(agent: Agent) -> None:
    with pytest.raises(OrchError, match="not 0123456789ab") as caught:
        agent.apply(manifest(), plan="0123456789ab")
    assert caught.value.kind is Kind.CONFLICT


def test_manifest_errors_of_all_documents_come_at_once(agent: Agent) -> None:
    with pytest.raises(OrchError) as caught:
        agent.apply(manifest("one", limit=-1), manifest("two").replace("model.onnx", "absent.onnx"))
    assert len(caught.value.problems) == 2


def test_events_of_a_worker_are_kept_once(agent: Agent) -> None:
    agent.apply(manifest())
    agent.item()
    agent.end(signal.SIGKILL)
    agent.start()
    agent.item()
    events = agent.call("events", {"name": "shop", "after": 0, "limit": 100})["events"]
    assert [event["count"] for event in events if event["reason"] == "Born"] == [1]


def test_a_second_agent_says_who_runs(agent: Agent) -> None:
    environ = worker_environ({**os.environ, "ORCH_HOME": str(agent.layout.root)})
    second = subprocess.run(
        [sys.executable, "-m", "orchestrator.agent"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert second.returncode == 1
    assert agent.child is not None
    assert f"an agent runs already, pid {agent.child.pid}" in second.stderr


def test_stop_ends_the_workers_too_when_told_so(agent: Agent) -> None:
    agent.apply(manifest())
    agent.call("stop", {"workers": True})
    assert agent.child is not None
    assert agent.child.wait(20) == 0
    assert agent.workers() == []
    agent.start()
    item = eventually(lambda: next((i for i in [agent.item()] if i["health"] == "Healthy"), None), "started again")
    assert item["worker"]["restarts"] == 0


def test_who_stops_the_agent_hears_of_it_when_the_process_is_gone(agent: Agent) -> None:
    assert agent.child is not None
    with measuring(agent, "shop") as finish:
        assert stop_agent({"ORCH_HOME": str(agent.layout.root)}, workers=False, timeout_s=20) == agent.child.pid
        assert dead(agent.child.pid)
        with pytest.raises(OrchError, match="shop: the agent is being stopped"):
            finish()


def test_an_agent_that_does_not_end_in_time_is_named(agent: Agent) -> None:
    assert agent.child is not None
    agent.apply(manifest())
    stream = admin.stream(agent.layout.socket, "apply", agent.request(manifest(behaviour="HANG")), timeout_s=20)
    eventually(lambda: next(stream)[1].get("phase") == "compiling", "it compiles")
    with pytest.raises(OrchError, match=f"the agent \\(pid {agent.child.pid}\\) has not ended within 0.5 s"):
        stop_agent({"ORCH_HOME": str(agent.layout.root)}, workers=False, timeout_s=0.5)
    stream.close()  # type: ignore[attr-defined]


def test_stop_ends_also_the_workers_of_a_change_under_way(agent: Agent) -> None:
    agent.apply(manifest())
    text = manifest(behaviour="STARTS_FOREVER", http=f"127.0.0.1:{free_port()}")
    stream = admin.stream(agent.layout.socket, "apply", agent.request(text), timeout_s=20)
    eventually(lambda: next(stream)[1].get("phase") == "starting", "the replacement starts")
    eventually(lambda: len(agent.workers()) == 2, "the replacement runs")
    stop_agent({"ORCH_HOME": str(agent.layout.root)}, workers=True, timeout_s=20)
    assert agent.workers() == []
    stream.close()  # type: ignore[attr-defined]


def test_after_a_kill_the_next_command_finds_everything_again(agent: Agent) -> None:
    agent.apply(manifest())
    item = agent.item()
    agent.end(signal.SIGKILL)
    environ = {**os.environ, "ORCH_HOME": str(agent.layout.root)}
    path = ensure_agent(environ, start=False)
    try:
        assert admin.call(path, "status", timeout_s=10)["items"] == [item]
    finally:
        admin.call(path, "stop", {"workers": True}, timeout_s=10)
    with pytest.raises(OrchError, match="no agent runs"):
        eventually(lambda: not ensure_agent(environ, start=False), "the agent has ended of its own will")


def test_an_agent_may_be_started_while_the_last_one_is_ending(agent: Agent) -> None:
    agent.apply(manifest())
    agent.call("stop", {"workers": False})
    agent.start()
    assert agent.item()["health"] == "Healthy"


def test_sigterm_ends_the_agent_alone(agent: Agent) -> None:
    agent.apply(manifest())
    item = agent.item()
    assert agent.end(signal.SIGTERM) == 0
    assert pid_that_serves(item["endpoint"]["http"]) == item["worker"]["pid"]


def test_nothing_in_the_state_folder_is_for_other_users(agent: Agent) -> None:
    agent.apply(manifest())
    parts = [part for part in agent.layout.root.rglob("*") if part != agent.layout.log]  # the test opened that one
    assert parts
    assert {oct(part.stat().st_mode & 0o077) for part in parts} == {"0o0"}


def test_no_agent_is_said_with_what_to_do(agent: Agent) -> None:
    environ = {"ORCH_HOME": str(agent.folder / "other")}
    with pytest.raises(OrchError, match="no agent runs"):
        ensure_agent(environ, start=False)
    assert not (agent.folder / "other").exists()


def test_ensure_agent_starts_one_and_finds_it_again(agent: Agent) -> None:
    environ = {**os.environ, "ORCH_HOME": str(agent.folder / "other")}
    path = ensure_agent(environ, start=True)
    try:
        first = admin.call(path, "version", timeout_s=10)
        ensure_agent(environ, start=True)
        assert admin.call(path, "version", timeout_s=10)["pid"] == first["pid"]
    finally:
        admin.call(path, "stop", {"workers": True}, timeout_s=10)
    eventually(lambda: dead(first["pid"]), "the agent has ended")


def test_a_relative_state_folder_is_the_same_for_the_agent(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(agent.folder)
    path = ensure_agent({**os.environ, "ORCH_HOME": "here"}, start=True)
    assert path == agent.folder / "here" / "agent.sock"
    admin.call(path, "stop", {"workers": True}, timeout_s=10)


def test_workers_that_no_agent_keeps_are_told_from_none(agent: Agent) -> None:
    environ = {"ORCH_HOME": str(agent.layout.root)}
    agent.apply(manifest())
    agent.end(signal.SIGTERM)
    assert workers_serve(environ)
    agent.start()
    agent.call("stop", {"workers": True})
    assert agent.child is not None
    assert agent.child.wait(20) == 0
    assert not workers_serve(environ)
    assert not workers_serve({"ORCH_HOME": str(agent.folder / "other")})


def test_the_agent_never_imports_openvino(agent: Agent) -> None:
    agent.apply(manifest())
    assert agent.child is not None
    assert "openvino" not in Path(f"/proc/{agent.child.pid}/maps").read_text()
