"""Has a worker that is about to take over show under load that it holds its SLO, and tells what one cannot hold."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from orchestrator.agent.supervisor import Worker
from orchestrator.agent.waiting import END_SEEN_S, ends_within
from orchestrator.errors import Kind, OrchError
from orchestrator.serving import admin

if TYPE_CHECKING:  # it imports this module
    from orchestrator.agent.reconcile import Course

ANSWER_TIMEOUT_S = 5.0  # for what a worker knows


async def seen(worker: Worker) -> dict[str, Any]:
    """Return what became of the requests of a worker lately, by model; nothing where it does not say."""
    with suppress(OrchError):  # it is of another version, or busy: then what replaces it is judged by its SLO alone
        told: dict[str, Any] = await admin.acall(worker.paths.control, "seen", timeout_s=ANSWER_TIMEOUT_S)
        return told
    return {}


async def hold(worker: Worker, old: Worker, before: dict[str, Any], course: Course) -> None:
    """Let the worker, which serves beside the old one, be tried; raise OrchError where it may not stay.

    `before` is what was seen of the old one. Once refused it is tried again and compared with what the old one has
    done meanwhile: where that missed its SLO as well, the machine has become slower.
    """
    if not course.trial:
        return
    try:
        await _try(worker, before, course)
    except OrchError as error:
        if error.kind is not Kind.FAILED or worker.ended.is_set() or old.ended.is_set():
            raise
        await _try(worker, await seen(old), course)


async def _try(worker: Worker, before: dict[str, Any], course: Course) -> None:
    try:
        async with asyncio.timeout_at(course.deadline):
            async for kind, value in admin.astream(worker.paths.control, "trial", {"before": before}):
                if kind == "progress":
                    course.tell(value["phase"], value["message"], value["model"])
    except TimeoutError:
        hint = "apply with a longer timeout"
        raise OrchError(Kind.DEADLINE, "the new worker was not tried in time", hint=hint) from None
    except OrchError as error:
        if error.kind is Kind.UNAVAILABLE and await ends_within(worker, END_SEEN_S):
            raise OrchError(Kind.FAILED, worker.how_it_ended()) from None
        raise


async def warn(worker: Worker, course: Course) -> None:
    """Tell which SLOs a first worker cannot hold whatever the load: there is nothing to go back to, so it stays."""
    with suppress(OrchError):
        told = await admin.acall(worker.paths.control, "trial", {"before": None}, timeout_s=ANSWER_TIMEOUT_S)
        for each in told["unfit"]:
            course.tell("warning", each["text"], each["model"])
