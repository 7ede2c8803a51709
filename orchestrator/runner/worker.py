"""The pools of one deployment: built as planned, checked, changed without dropping a request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from orchestrator.backend.base import Actual, Backend, CompiledModel, CompileRequest
from orchestrator.errors import Kind, OrchError
from orchestrator.planner.diff import Change, diff
from orchestrator.planner.plan import DeploymentPlan, ModelPlan
from orchestrator.runner.check import Checked, check
from orchestrator.runner.inline import try_inline
from orchestrator.runner.inline_pool import InlinePool
from orchestrator.runner.pool import Pool, PoolSettings
from orchestrator.runner.repair import Repairs

DRAIN_TIMEOUT_S = 30.0  # for the requests that an old pool has admitted
TICK_S = 0.05
CLOSE_TIMEOUT_S = 5.0  # for a pool that is being built when the worker is closed
log = logging.getLogger("orch.worker")

Progress = Callable[[str, str, str], None]
"""Takes model, phase (compiling, checking, created, replaced, updated, draining, deleted, failed) and a message.

Of what the worker does by itself: rebuilding, rebuilt and rebuild-failed too.
"""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as it runs: its plan, what was read back, the check, and the pool that answers."""

    plan: ModelPlan
    actual: Actual
    checked: Checked
    pool: Pool


class Worker:
    """Holds a deployment's pools. `apply` may block for minutes (compiling); everything else is quick."""

    def __init__(
        self,
        backend: Backend,
        *,
        on_change: Callable[[Mapping[str, ServedModel]], None] = lambda _served: None,
        on_repair: Progress = lambda _model, _phase, _message: None,
        repairs: bool = True,
    ) -> None:
        """Store the parts; with `repairs` bad pools are built anew, and `on_repair` is told of it, on any thread."""
        self._backend = backend
        self._on_change = on_change
        self._on_repair = _unfailing(on_repair)
        self._repairing = repairs
        self.repairs = Repairs(self._rebuild, self._on_repair)
        self._applying = threading.Lock()
        self._swapping = threading.Lock()  # held for an instant: between the last look and the swap nobody closes
        self._stopped = threading.Event()
        self._ticker: threading.Thread | None = None
        self.plan: DeploymentPlan | None = None
        self.served: Mapping[str, ServedModel] = {}
        self._retiring: set[Pool] = set()

    def start(self) -> None:
        """Start the clockwork: it expires requests, finds failed inferences, tries idle pools, has bad ones rebuilt."""
        self._ticker = threading.Thread(target=self._tick, name="orch-tick", daemon=True)
        self._ticker.start()

    def _tick(self) -> None:
        while not self._stopped.wait(TICK_S):
            for pool in (*(served.pool for served in self.served.values()), *tuple(self._retiring)):
                _look_after(pool)
            if self._repairing:
                self.repairs.look({name: served.pool for name, served in self.served.items()})

    def apply(self, plan: DeploymentPlan, progress: Progress) -> tuple[Change, ...]:
        """Make the pools as `plan` says, all or nothing; raise OrchError and keep what runs when a model fails.

        New pools are built and checked beside the old ones, then all are swapped at once, then the old ones drain.
        """
        progress = _unfailing(progress)
        with self._applying:
            changes = tuple(change for change in diff(self.plan, plan) if change.model is not None)
            planned = {model.name: model for model in plan.models}
            built = self._build_all(changes, planned, progress)
            gone = self._swap(plan, planned, built)
            self._on_change(self.served)
            for served in gone:
                served.pool.refuse()  # only now: who is refused asks for the successor
            self._report(changes, progress)
        for served in gone:
            self._retire(served, progress)
        return changes

    def _swap(
        self, plan: DeploymentPlan, planned: Mapping[str, ModelPlan], built: Mapping[str, ServedModel]
    ) -> list[ServedModel]:
        """Put the new pools in their places, and return the old ones; raise UNAVAILABLE when closed meanwhile."""
        with self._swapping:
            closed = self._stopped.is_set()
            if not closed:
                old = self.served
                gone = [served for name, served in old.items() if name in built or name not in planned]
                self._retiring.update(served.pool for served in gone)
                self.served = {name: built.get(name) or self._updated(name, planned[name]) for name in planned}
                self.plan = plan
        if closed:
            _close(built.values())
            raise OrchError(Kind.UNAVAILABLE, "the worker was closed", where=plan.name)
        return gone

    def _build_all(
        self, changes: tuple[Change, ...], planned: Mapping[str, ModelPlan], progress: Progress
    ) -> dict[str, ServedModel]:
        built: dict[str, ServedModel] = {}
        failures: list[OrchError] = []
        try:
            for change in changes:
                if change.action not in ("create", "replace") or change.model is None:
                    continue
                try:
                    built[change.model] = self._build(planned[change.model], progress)
                except OrchError as error:
                    progress(change.model, "failed", str(error))
                    failures.append(error)
        except BaseException:
            _close(built.values())
            raise
        if failures:
            _close(built.values())
            raise OrchError(Kind.FAILED, [problem for failure in failures for problem in failure.problems])
        return built

    def _build(self, plan: ModelPlan, progress: Progress) -> ServedModel:
        progress(plan.name, "compiling", f"for {plan.device}")
        compiled = self._backend.compile(compile_request(plan))
        try:
            actual = compiled.actual()
            progress(plan.name, "checking", f"on {', '.join(actual.execution_devices)}")
            checked = check(compiled, plan.name, batch=plan.batch)
            pool = self._pool(plan, compiled, actual, checked)
            pool.start()
        except BaseException:
            compiled.close()
            raise
        return ServedModel(plan, actual, checked, pool)

    def _pool(self, plan: ModelPlan, compiled: CompiledModel, actual: Actual, checked: Checked) -> Pool:
        how = try_inline(self._backend, compile_request(plan), plan, compiled, checked)
        if how is not None:
            return InlinePool(
                plan.name,
                compiled,
                settings(plan),
                how,
                version=plan.version,
                service_s=checked.service_s,
                probe=checked.inputs,
            )
        return Pool(
            plan.name,
            compiled,
            settings(plan),
            version=plan.version,
            requests=plan.requests or actual.optimal_requests,
            batch=plan.batch,
            service_s=checked.service_s,
            probe=checked.inputs,
        )

    def _updated(self, name: str, plan: ModelPlan) -> ServedModel:
        served = self.served[name]
        if served.plan == plan:
            return served
        served.pool.version = plan.version
        served.pool.reconfigure(settings(plan))
        return ServedModel(plan, served.actual, served.checked, served.pool)

    def _rebuild(self, name: str, bad: Pool) -> bool:
        """Build the model anew beside its bad pool, check it, and swap; raise OrchError and keep what there is.

        False when it was replaced meanwhile, or is well again.
        """
        with self._applying:
            served = self.served.get(name)
            if self.plan is None or served is None or served.pool is not bad or bad.healthy:
                return False
            built = {name: self._build(served.plan, self._on_repair)}
            gone = self._swap(self.plan, {model.name: model for model in self.plan.models}, built)
            self._on_change(self.served)
            bad.refuse()
        for old in gone:
            self._retire(old, self._on_repair)
        return True

    def _report(self, changes: tuple[Change, ...], progress: Progress) -> None:
        phases = {"create": "created", "replace": "replaced", "update": "updated", "delete": "deleted"}
        for change in changes:
            if change.model is not None and change.action in phases:
                # The cause of a creation, that no pool is running, has ended with it.
                cause = "no pool ran before" if change.action == "create" else change.cause
                progress(change.model, phases[change.action], cause)

    def _retire(self, served: ServedModel, progress: Progress) -> None:
        progress(served.plan.name, "draining", "finishing what the old pool has admitted")
        served.pool.drain(DRAIN_TIMEOUT_S)
        served.pool.close()
        self._retiring.discard(served.pool)

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests everywhere, and tell whether the admitted ones ended within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        for served in self.served.values():
            served.pool.refuse()
        drained = [served.pool.drain(max(0.0, deadline - time.monotonic())) for served in self.served.values()]
        return all(drained)

    def close(self) -> None:
        """Stop the clockwork and give the models back; an `apply` that is under way ends as UNAVAILABLE."""
        with self._swapping:
            self._stopped.set()
            served, self.served = self.served, {}
        if self._ticker is not None:
            self._ticker.join(timeout=5.0)
        _close(served.values())
        self.repairs.end(CLOSE_TIMEOUT_S)


def _unfailing(progress: Progress) -> Progress:
    """Return a progress that cannot stop a change half-way: whoever listens may have gone."""

    def tell(model: str, phase: str, message: str) -> None:
        try:
            progress(model, phase, message)
        except Exception:
            log.exception("cannot tell the progress of %s: %s %s", model, phase, message)

    return tell


def _look_after(pool: Pool) -> None:
    try:
        pool.tick()
        pool.probe()
    except Exception:  # the clockwork of all pools must not stop for one
        log.exception("our bug, please report it: looking after pool %s", pool.name)


def _close(served: Iterable[ServedModel]) -> None:
    for model in served:
        model.pool.close()


def compile_request(plan: ModelPlan) -> CompileRequest:
    """Return what the backend is asked for."""
    return CompileRequest(
        path=plan.source,
        device=plan.device,
        properties=plan.properties,
        device_properties=plan.device_properties,
        shapes=plan.shapes,
        batch=plan.batch,
    )


def settings(plan: ModelPlan) -> PoolSettings:
    """Return what of the plan may change while the pool runs."""
    slo = plan.slo
    return PoolSettings(
        timeout_s=plan.queue.timeout_s,
        queue_limit=plan.queue.limit,
        memory_bytes=plan.queue.memory_bytes,
        slo_latency_s=slo.latency_s if slo else None,
        slo_percentile=slo.percentile if slo else None,
        slo_rate_per_s=slo.rate_per_s if slo else None,
        priority=plan.priority,
    )
