"""Whether a deployment's lock holds what its manifest wants, on every machine that the lock knows."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.errors import Problem
from orchestrator.planner.explain import rate
from orchestrator.planner.lock import LockedMachine, ModelFile, drift_there, weights_of
from orchestrator.planner.modes import to_decide
from orchestrator.planner.plan import DeploymentPlan, ModelPlan
from orchestrator.planner.sketch import Wanted, machines_of, sketch
from orchestrator.units import format_rate

NO_LOCK = "measure once where it runs, review and commit it: orch plan --write-lock FILE"
FETCH = "paths are relative to the manifest's folder"
UNHELD = "lower slo.rate or allow more latency, then plan anew: orch plan --write-lock FILE"
TOO_STRICT = "no rate is low enough: allow more latency, then plan anew: orch plan --write-lock FILE"


def problems(wanted: Wanted) -> tuple[Problem, ...]:
    """Return what keeps `orch apply --locked` from serving the deployment as its SLOs say; nothing where all is well.

    That is a model file that is not there or not the pinned one, a lock that is missing or does not fit a machine that
    it knows, and a plan that does not hold its SLO.
    """
    return (*_files(wanted), *(_lock(wanted) if to_decide(wanted.deployment) else ()))


def _lock(wanted: Wanted) -> Iterator[Problem]:
    if wanted.lock is None:
        yield Problem("there is no lock file beside the manifest", wanted.name, NO_LOCK)
    elif not wanted.lock.machines:
        yield Problem("the lock is empty", wanted.name, NO_LOCK)
    else:
        for machine in wanted.lock.machines:
            yield from _on(machine, wanted)


def unheld(plan: DeploymentPlan, there: str = "this machine") -> Iterator[Problem]:
    """Yield a problem for each model of the plan that was found not to hold its SLO, or is predicted not to."""
    for model in plan.models:
        if model.verdict in {"infeasible", "rejected"} or (model.verdict == "unverified" and _lacks(model)):
            hint = TOO_STRICT if model.capacity_per_s == 0 else UNHELD
            yield Problem(_unheld(model, there), f"{plan.name}/{model.name}", hint)


def _lacks(model: ModelPlan) -> bool:
    """Tell whether the rate that is asked for is more than the model is predicted to carry."""
    asked = model.slo.rate_per_s if model.slo else None
    return asked is not None and model.capacity_per_s is not None and model.capacity_per_s < asked


def words(machine: LockedMachine) -> str:
    """Return what people call the machine: `2 x Intel Xeon, OpenVINO 2026.4.1 (193165b22a565b5b)`."""
    cpus, cpu = machine.facts.get("effective_cpus", "?"), machine.facts.get("cpu", "unknown processor")
    return f"{cpus} x {cpu}, OpenVINO {machine.openvino} ({machine.fingerprint})"


def _on(machine: LockedMachine, wanted: Wanted) -> Iterator[Problem]:
    found = drift_there(machine, wanted.deployment, wanted.files)
    for each in found:
        where = wanted.name if each.model is None else f"{wanted.name}/{each.model}"
        yield Problem(f"{each.what}, on {words(machine)}", where, each.hint)
    if not found:
        yield from unheld(sketch(wanted, machine), words(machine))


def _unheld(model: ModelPlan, there: str) -> str:
    asked = model.slo.rate_per_s if model.slo else None
    at = "" if asked is None else f" at {format_rate(asked)}"
    most = "" if model.capacity_per_s is None else f", which carries {rate(model.capacity_per_s)}"
    if model.capacity_per_s == 0:
        most = ", which holds it at no rate"
    return f"the SLO does not hold{at} on {there}{most} ({model.verdict})"


def _files(wanted: Wanted) -> Iterator[Problem]:
    """Yield what is wrong with the model files, of which only the digests are known."""
    for spec in wanted.deployment.spec.models:
        file, where = wanted.files.get(spec.name, ModelFile()), f"{wanted.name}/{spec.name}"
        found = file.sha256
        if found is None:
            yield Problem(f"the model file {spec.source} cannot be read", where, FETCH)
        elif spec.sha256 is not None and spec.sha256 != found:
            what = f"the manifest pins {spec.sha256[:12]}..., and {spec.source} is {found[:12]}..."
            yield Problem(what, where, "restore the file, or pin the new digest")
        if found is not None and file.weights_sha256 is None and _has_weights(wanted, spec.name):
            yield Problem(f"the weights {weights_of(spec)} cannot be read", where, FETCH)


def _has_weights(wanted: Wanted, model: str) -> bool:
    """Tell whether the lock knows weights that lie beside the model file."""
    entries = (wanted.entry(fingerprint) for fingerprint in machines_of(wanted))
    locked = [entry.models[model] for entry in entries if entry and model in entry.models]
    return any(each.weights_sha256 is not None for each in locked)
