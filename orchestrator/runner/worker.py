"""The pools of one deployment: built as planned, checked, changed without dropping a request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from orchestrator.backend.base import Actual, Backend, CompiledModel
from orchestrator.errors import Kind, OrchError
from orchestrator.planner.diff import Change, diff
from orchestrator.planner.plan import DeploymentPlan, ModelPlan
from orchestrator.runner.check import Checked, check
from orchestrator.runner.inline import try_inline
from orchestrator.runner.inline_pool import InlinePool
from orchestrator.runner.pool import Pool
from orchestrator.runner.repair import Repairs
from orchestrator.runner.served import ServedModel, candidates_of, compile_request, settings, without_place
from orchestrator.runner.trial import TRIAL, Judgement, Load, TrialLimits
from orchestrator.runner.trying import Candidate, Trial, load_of, refusal, settle, unfitting, watch, with_excuse

__all__ = ["Progress", "ServedModel", "Worker", "compile_request", "settings"]

DRAIN_TIMEOUT_S = 30.0  # for the requests that an old pool has admitted
TICK_S = 0.05
CLOSE_TIMEOUT_S = 5.0  # for a pool that is being built when the worker is closed
log = logging.getLogger("orch.worker")

Progress = Callable[[str, str, str], None]
"""Takes model, phase and message: compiling, checking, trying, tried, created, replaced, updated, draining, deleted,
failed.

Of what the worker does by itself: rebuilding, rebuilt and rebuild-failed too.
"""


class Worker:
    """Holds a deployment's pools. `apply` may block for minutes (compiling); everything else is quick."""

    def __init__(
        self,
        backend: Backend,
        *,
        on_change: Callable[[Mapping[str, ServedModel]], None] = lambda _served: None,
        on_repair: Progress = lambda _model, _phase, _message: None,
        repairs: bool = True,
        limits: TrialLimits = TRIAL,
    ) -> None:
        """Store the parts; with `repairs` bad pools are built anew, and `on_repair` is told of it, on any thread.

        `limits` say how long changes are tried.
        """
        self._backend = backend
        self._on_change = on_change
        self._on_repair = _unfailing(on_repair)
        self._repairing, self._limits = repairs, limits
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

    def apply(self, plan: DeploymentPlan, progress: Progress, *, trial: bool = True) -> tuple[Change, ...]:
        """Make the pools as `plan` says, all or nothing; raise OrchError and keep what runs when a model fails.

        New pools are built and checked beside the old ones, then all are swapped at once. With `trial` the old ones
        wait until the new have shown under their load that they hold the SLO, and take their places again if not.
        Then those without a place drain.
        """
        progress = _unfailing(progress)
        with self._applying:
            old = self._standing()
            changes = tuple(change for change in diff(self.plan, plan) if change.model is not None)
            planned = {model.name: model for model in plan.models}
            before = self.seen()
            built = self._build_all(changes, planned, progress)
            wanted = {name: built.get(name) or old[name].planned(planned[name]) for name in planned}
            tried = trial and self.plan is not None and self._limits.seconds > 0
            refused, gone = self._seat(plan, old, wanted, before if tried else None, progress)
            if refused is None:
                self._report(changes, progress)
        for served in gone:
            self._retire(served, progress)
        if refused is not None:
            raise refused
        return changes

    def _seat(
        self,
        plan: DeploymentPlan,
        old: Mapping[str, ServedModel],
        wanted: Mapping[str, ServedModel],
        before: Mapping[str, Load] | None,
        progress: Progress,
    ) -> tuple[OrchError | None, list[ServedModel]]:
        """Let the models wanted serve for the old; return why they may not after all, and what has no place any more.

        `before` is what became of requests before the change; None: it is not tried.
        """
        running = self.plan
        try:
            candidates = [] if before is None else candidates_of(old, wanted, before)
            refused = refusal(unfitting(candidates), progress)
            if candidates and refused is None:
                refused = refusal(self._try_seated(candidates, old, wanted, progress), progress)
            seated, ends = (wanted, old) if refused is None else (old, wanted)
            self._put(seated, plan if refused is None else running)
        except BaseException:
            self._restore(old, running, wanted)
            raise
        gone = without_place(ends, seated)
        for served in gone:
            served.pool.refuse()  # only now: who is refused asks for the successor
        return refused, gone

    def _restore(
        self, old: Mapping[str, ServedModel], running: DeploymentPlan | None, wanted: Mapping[str, ServedModel]
    ) -> None:
        """Let the old models serve again and end all others; where the worker was closed meanwhile, all of them."""
        ends = without_place(wanted, old)
        try:
            self._put(old, running)
        except OrchError:  # whoever closed it closed only what served at that moment
            ends += old.values()
        _close(ends)

    def _try_seated(
        self,
        candidates: Sequence[Candidate],
        old: Mapping[str, ServedModel],
        wanted: Mapping[str, ServedModel],
        progress: Progress,
    ) -> list[Judgement]:
        """Let the models wanted serve, and return what is said of them.

        Before they are refused it is looked what the old ones do now: where those miss as much, the machine has become
        slower meanwhile, and there is another trial.
        """
        running, how = self.plan, f"under its load, for {self._limits.seconds:g} s or more"
        for final in (False, True):
            self._put({**old, **wanted}, running)  # what is deleted goes on until all is decided
            replaced = [served.pool for served in without_place(old, wanted) if served.plan.name in wanted]
            settle(replaced, self._limits, self._stopped)
            said = self._try(candidates, progress, how)
            if final or all(each.good for each in said):
                return said
            self._put(old, running)
            settle((served.pool for served in without_place(wanted, old)), self._limits, self._stopped)
            now = watch({name: (it.pool, it.plan.slo) for name, it in old.items()}, self._limits, self._stopped)
            excused = with_excuse(candidates, said, now)
            if excused is None:
                return said
            candidates, how = excused, "once more: what served before misses its SLO now, too"
        raise AssertionError("the second trial is final")

    def _try(self, candidates: Sequence[Candidate], progress: Progress, how: str) -> list[Judgement]:
        """Watch the candidates under their load, and return what is said of them."""
        changed = {each.subject.model for each in candidates if each.subject.changed}
        for model in sorted(changed):
            progress(model, "trying", how)
        said = Trial(candidates, self._limits, self._stopped).run()
        for each in said:
            if each.good and each.model in changed:
                progress(each.model, "tried", each.text)
        return list(said)

    def seen(self) -> dict[str, Load]:
        """Return what became of requests in the last ten seconds, by model."""
        return {name: load_of(it.pool, it.plan.slo, it.checked.quickest_s) for name, it in self.served.items()}

    def unfit(self) -> list[Judgement]:
        """Return which models cannot hold their SLO, however few requests come."""
        return unfitting(candidates_of({}, self.served, {}))

    def try_all(self, before: Mapping[str, Load], progress: Progress) -> list[Judgement]:
        """Try all models as they serve; `before` is what became of requests to the worker that is to go."""
        with self._applying:
            candidates = candidates_of({}, self.served, before)
            bad = unfitting(candidates)
            how = "under the load that it gets beside the worker before"
            return bad if bad or self._limits.seconds == 0 else self._try(candidates, _unfailing(progress), how)

    def _standing(self) -> Mapping[str, ServedModel]:
        """Return what serves; raise UNAVAILABLE when closed: then it is nothing, although a plan was carried out."""
        with self._swapping:
            self._check_open()
            return self.served

    def _check_open(self) -> None:
        if self._stopped.is_set():
            raise OrchError(Kind.UNAVAILABLE, "the worker was closed", where=self.plan.name if self.plan else None)

    def _put(self, served: Mapping[str, ServedModel], plan: DeploymentPlan | None) -> None:
        """Put these in their places; raise UNAVAILABLE when closed meanwhile."""
        with self._swapping:
            self._check_open()
            pools = {model.pool for model in served.values()}
            self._retiring.update(model.pool for model in without_place(self.served, served))
            self._retiring -= pools
            for model in served.values():
                model.settle()
            self.served, self.plan = served, plan
        self._on_change(served)

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

    def _rebuild(self, name: str, bad: Pool) -> bool:
        """Build the model anew beside its bad pool, check it, and swap; raise OrchError and keep what there is.

        False when it was replaced meanwhile, or is well again.
        """
        with self._applying:
            served = self.served.get(name)
            if self.plan is None or served is None or served.pool is not bad or bad.healthy:
                return False
            built = self._build(served.plan, self._on_repair)
            try:
                self._put({**self.served, name: built}, self.plan)
            except OrchError:
                built.pool.close()
                raise
            bad.refuse()
        self._retire(served, self._on_repair)
        return True

    def _report(self, changes: tuple[Change, ...], progress: Progress) -> None:
        phases = {"create": "created", "replace": "replaced", "update": "updated", "delete": "deleted"}
        for change in changes:
            if change.model is not None and change.action in phases:
                # The cause of a creation, that no pool is running, has ended with it.
                cause = "no pool ran before" if change.action == "create" else change.cause
                progress(change.model, phases[change.action], cause)

    def _retire(self, served: ServedModel, progress: Progress) -> None:
        progress(served.plan.name, "draining", "finishing what the pool that goes has admitted")
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
