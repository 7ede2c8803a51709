"""Waits for workers: until one answers, or has ended, and no longer than allowed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from orchestrator.agent.supervisor import Unit, Worker
from orchestrator.agent.turns import Report
from orchestrator.errors import Kind, OrchError

RESTART_WAIT_S = 60.0  # a worker that starts again is not ended for a change that it can make itself
END_SEEN_S = 1.0  # from a connection that breaks off to the news that the process has ended
READY_POLL_MAX_S = 0.25


def serves(unit: Unit) -> bool:
    """Tell whether a worker serves the deployment and is to go on."""
    return unit.worker is not None and unit.worker.ready_at is not None and not unit.worker.retiring


async def until_known(unit: Unit, report: Report, deadline: float) -> None:
    """Wait, a while at most, until the worker answers and serves: it may have died, or hang and be started again.

    Raise UNAVAILABLE when a worker that has served does not answer for all that time.
    """
    loop = asyncio.get_running_loop()
    until = min(deadline, loop.time() + RESTART_WAIT_S)
    silent: set[Worker] = set()
    while (worker := unit.worker) is not None and not unit.deaths.looping:
        with suppress(OrchError):
            await worker.status()
            if worker.ready_at is not None:
                return
        if _fell_silent(worker) and worker not in silent:
            silent.add(worker)
            report({"deployment": unit.name, "model": None, "phase": "waiting", "message": _silent(worker)})
        if loop.time() > until:
            break
        await ends_within(worker, READY_POLL_MAX_S)
    if worker is not None and _fell_silent(worker):
        hint = f"orch logs {unit.name}; it is started again when it stays so"
        raise OrchError(Kind.UNAVAILABLE, _silent(worker), where=unit.name, hint=hint)


def _fell_silent(worker: Worker) -> bool:
    return worker.ready_at is not None and worker.silent_since is not None and not worker.ended.is_set()


def _silent(worker: Worker) -> str:
    return f"the worker (pid {worker.identity.pid}) does not answer"


async def ends_within(worker: Worker, seconds: float) -> bool:
    """Tell whether the worker ended within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await worker.ended.wait()
    except TimeoutError:
        return False
    return True
