"""The control methods about trials: what became of requests lately, and whether what serves may stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from orchestrator.errors import Kind, OrchError
from orchestrator.runner.trial import Judgement
from orchestrator.runner.trying import loads_from_json, loads_to_json, refusal
from orchestrator.runner.worker import Progress, Worker

Json = dict[str, Any]


def seen(worker: Worker) -> Json:
    """Return what became of requests in the last ten seconds, by model."""
    return loads_to_json(worker.seen())


def trial(worker: Worker, params: Json) -> Callable[[Progress], Json]:
    """Return what tries the models as they serve, and raises FAILED where one may not stay; it blocks.

    `before` is what `seen` returned of the worker before; null: only what fits no SLO at all is named, as `unfit`.
    """
    before = params.get("before")
    if before is None:
        return lambda _progress: {"unfit": [asdict(each) for each in worker.unfit()]}
    try:
        loads = loads_from_json(before)
    except (AttributeError, TypeError) as error:
        raise OrchError(Kind.INVALID, f"not what a worker has seen: {error}") from None

    def run(progress: Progress) -> Json:
        said: list[Judgement] = worker.try_all(loads, progress)
        refused = refusal(said, lambda model, _phase, text: progress(model, "refused", text))  # it may be tried again
        if refused is not None:
            raise refused
        return {"ok": True}

    return run
