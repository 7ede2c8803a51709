"""Prove several models at once: one worker serves all of them, each is loaded at its rate, each has its own test."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import ModelInfo
from orchestrator.planner import verdict as verdicts
from orchestrator.planner.steps import BLOCK_LEAST_S, Verify
from orchestrator.profiling.children import LoadChild
from orchestrator.profiling.host_counters import between, snapshot
from orchestrator.profiling.measurement import Host, Proof
from orchestrator.profiling.wire import LoadOrder, LoadReport
from orchestrator.runner.proof import (
    GENERATOR,
    LOAD_START_S,
    TAINTED_AGAIN_MAX,
    Clock,
    LoadOrderBase,
    Seen,
    Server,
    Stage,
    first_request,
    load_order,
    note,
    pause,
    served,
    the_proof,
    verdict,
)


def prove_together(
    steps: Mapping[str, Verify], stage: Stage, infos: Mapping[str, ModelInfo], seconds: float
) -> dict[str, Proof]:
    """Return a proof for each model of `steps`, all loaded at once for at most so many seconds.

    `stage.plan` is the whole deployment's. Ends when every test has decided, or when one has rejected: then the others
    are what they are by then. Raise OrchError FAILED where the plan cannot be served, CANCELLED when asked to stop.
    """
    with _loading(steps, stage, infos) as run:
        stopped = run.load(seconds)
    return {name: the_proof(step, run.seen[name], stopped) for name, step in steps.items()}


def loaded_together(
    steps: Mapping[str, Verify], stage: Stage, infos: Mapping[str, ModelInfo], seconds: float
) -> tuple[dict[str, Seen], Host]:
    """Return what is seen of each model in one block of so many seconds with all loaded, whatever their tests say."""
    with _loading(steps, stage, infos) as run:
        run.to_the_end = True
        host, _ = run.block(0, seconds, 0.0)
    return run.seen, host


@contextlib.contextmanager
def _loading(steps: Mapping[str, Verify], stage: Stage, infos: Mapping[str, ModelInfo]) -> Iterator[_Run]:
    """Serve the plan and warm it up, until the block is left."""
    plan = stage.plan
    with tempfile.TemporaryDirectory(prefix="orch-together-") as folder, served(plan, Path(folder), stage) as server:
        bases: dict[str, LoadOrderBase] = {}
        for model in plan.models:
            if model.name in steps:
                body = Path(folder) / f"body-{len(bases)}"
                headers = first_request(server, model, infos[model.name], body)
                bases[model.name] = LoadOrderBase(model.name, headers, body)
        yield _Run(steps, stage, server, bases)


@dataclass(slots=True)
class _Run:
    """The load on one worker, and what was seen of each model."""

    steps: Mapping[str, Verify]
    stage: Stage
    server: Server
    bases: Mapping[str, LoadOrderBase]
    to_the_end: bool = False
    """Note everything, also what comes after a test has decided."""
    seen: dict[str, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seen = {name: Seen() for name in self.steps}

    def load(self, seconds: float) -> str:
        """Run blocks until the tests decide, and return why it stopped."""
        began, number, again = time.monotonic(), 0, 0
        while True:
            spent = time.monotonic() - began
            length = min(self._block_s(), seconds - spent - LOAD_START_S)
            if length <= 0.1:
                return "the budget is spent"
            before = copy.deepcopy(self.seen)
            host, reports = self.block(number, length, spent)
            full = next((report.full for report in reports.values() if report.full), None)
            if full is not None:
                return f"{GENERATOR} ({full})"
            left = seconds - (time.monotonic() - began)
            if host.tainted() and again < TAINTED_AGAIN_MAX and left > verdicts.BLOCKS * (length + LOAD_START_S):
                self.seen = before  # whatever it showed, so that which blocks count does not depend on how they went
                again += 1
            else:
                for name, seen in self.seen.items():
                    seen.hosts.append(host)
                    seen.reports.append(reports[name])
                self.stage.progress(self._told())
            found = [verdict(step.test, self.seen[name]) for name, step in self.steps.items()]
            if "rejected" in found or all(found):
                return "decided" if all(found) else "a neighbour was rejected"
            number += 1
            pause(max(step.gap_s for step in self.steps.values()), self.stage.cancelled)

    def _block_s(self) -> float:
        """Return the length of a block that has enough requests of every model that is still undecided."""
        undecided = [step for name, step in self.steps.items() if verdict(step.test, self.seen[name]) is None]
        return max(BLOCK_LEAST_S, *(1.1 * step.test.block / step.rate_per_s for step in undecided), 0.0)

    def block(self, number: int, seconds: float, since_s: float) -> tuple[Host, dict[str, LoadReport]]:
        """Load all models at once for so many seconds, and note what became of their requests."""
        stop = threading.Event()
        stage = self.stage

        def cancelled() -> bool:
            return stop.is_set() or stage.cancelled()

        with contextlib.ExitStack() as stack:
            children = {
                name: stack.enter_context(LoadChild(self._order(name, number, seconds), cancelled, at_once=False))
                for name in self.steps
            }
            pause(LOAD_START_S, cancelled)  # until all of them wait: who starts beside a load disturbs it
            own = (self.server.pid, os.getpid(), *(child.pid for child in children.values()))
            before = snapshot(stage.allowed, own)
            pool = stack.enter_context(ThreadPoolExecutor(len(children)))
            try:
                futures = {
                    name: pool.submit(self._hear, name, child, Clock(number, since_s))
                    for name, child in children.items()
                }
                reports = {name: future.result() for name, future in futures.items()}
            except BaseException:
                stop.set()
                raise
            return between(before, snapshot(stage.allowed, own)), reports

    def _hear(self, name: str, child: LoadChild, clock: Clock) -> LoadReport:
        """Note the outcomes of one model until the block is over; a test that has decided hears no more."""
        step, seen = self.steps[name], self.seen[name]
        child.begin()
        for said in child.outcomes():
            if isinstance(said, LoadReport):
                return said
            for outcome in said:
                if self.to_the_end or verdict(step.test, seen) is None:
                    note(step.test, step.need.latency_s, outcome, clock, seen)
        raise OrchError(Kind.FAILED, "the load generator ended without a report", where=name)

    def _order(self, name: str, number: int, seconds: float) -> LoadOrder:
        step = self.steps[name]
        order = load_order(step, self.server, self.bases[name], number, seconds)
        seed = order.seed + 100_000 * sorted(self.steps).index(name)
        return order.model_copy(update={"seconds": max(0.1, seconds), "requests_max": None, "seed": seed})

    def _told(self) -> str:
        each = (f"{name} {seen.state.misses} late of {seen.state.answered}" for name, seen in sorted(self.seen.items()))
        return f"all at once: {', '.join(each)}"
