"""Asks the agent: where its socket is, and the calls that commands make."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.serving import admin

ANSWER_S = 10.0  # for what the agent knows without waiting for anybody


def agent(*, start: bool = False) -> Path:
    """Return the socket of the running agent; start one if asked, else raise OrchError UNAVAILABLE with what to do."""
    from orchestrator.agent.client import ensure_agent  # commands without an agent do not pay for it

    socket: Path = ensure_agent(os.environ, start=start)
    return socket


def workers_serve() -> bool:
    """Tell whether deployments serve, whether or not an agent runs."""
    from orchestrator.agent.client import workers_serve as serve  # as above

    return serve(os.environ)


def stop(*, workers: bool, timeout_s: float) -> None:
    """Stop the agent, with all deployments if asked, and wait until its process is gone; raise its OrchError."""
    from orchestrator.agent.client import stop_agent  # as above

    stop_agent(os.environ, workers=workers, timeout_s=timeout_s)


def ask(method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = ANSWER_S) -> Any:
    """Return the running agent's answer; raise its OrchError."""
    return admin.call(agent(), method, dict(params or {}), timeout_s=timeout_s)


def follow(path: Path, method: str, params: Mapping[str, Any], *, timeout_s: float) -> Iterator[tuple[str, Any]]:
    """Yield progress and the result; `timeout_s` bounds each silence.

    Raise the agent's OrchError; UNAVAILABLE, with what becomes of the work, where it ends amid that.
    """
    planning = method == "apply"  # until the first change is told; what is only planned stands nowhere
    try:
        for kind, value in admin.stream(path, method, dict(params), timeout_s=timeout_s):
            planning = planning and "change" not in value
            yield kind, value
    except OrchError as error:
        if error.kind is not Kind.UNAVAILABLE or error.problems[0].where != str(path):
            raise
        hint = "the next agent brings about what was begun, as orch status shows; repeat the command for the rest"
        if planning:
            hint = "it was still planning, and nothing was begun: repeat the command"
        raise OrchError(error.kind, [Problem(each.what, each.where, hint) for each in error.problems]) from None


def deployment_names(names: Sequence[str] | None) -> list[str] | None:
    """Return the deployments that NAME or NAME/MODEL arguments name, each once; None for all."""
    return list(dict.fromkeys(name.partition("/")[0] for name in names)) if names else None


def status_items(names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return the status of the deployments; of NAME/MODEL only that model. Raise OrchError for models not there."""
    answer = ask("status", {"names": deployment_names(names)})
    return [_only(item, names) for item in answer["items"]] if names else list(answer["items"])


def _only(item: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    deployment = item["metadata"]["name"]
    wanted = {name.partition("/")[2] for name in names if name.partition("/")[0] == deployment}
    if "" in wanted:
        return item
    there = [model["name"] for model in item["models"]]
    absent = sorted(wanted - set(there))
    if absent:
        what = f"{deployment} has no model {', '.join(absent)}"
        raise OrchError(Kind.NOT_FOUND, what, hint=f"its models are {', '.join(there)}")
    return item | {"models": [model for model in item["models"] if model["name"] in wanted]}
