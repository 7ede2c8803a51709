"""The lock: what measuring decided, for each machine, as plain data, and whether it still fits."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from orchestrator.inventory.device import Inventory
from orchestrator.inventory.fingerprint import deciding_facts, fingerprint
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import Deployment, ModelSpec
from orchestrator.planner.capacity import quantile
from orchestrator.planner.decision import Decision
from orchestrator.planner.modes import to_decide
from orchestrator.planner.plan import Frozen, digest
from orchestrator.units import format_duration, format_rate

DIGITS = 4  # significant ones of a figure; more are noise, and would differ each time a person reviews
DRIFT_MAX = 1.25  # times the profile's inference time: beyond it the profile is of another machine or model
DIGEST_DIGITS = 12
ASKED = ("device", "fallback", "slo", "traffic", "compile", "properties", "shapes", "priority")
"""What of a model's manifest decides its plan."""


class ValidWhile(Frozen):
    """Until when a decision is to be believed."""

    words: str
    """For people; the figures below say the same."""
    rate_per_s: float | None
    """Arrivals a second, at most."""
    service_s: float
    """Median of one inference with all requests in flight, at most."""


class LockedModel(Frozen):
    """One model's decision."""

    asked: dict[str, Any]
    """What of the manifest decided it."""
    valid_while: ValidWhile
    weights_sha256: str | None = None
    """Of the .bin, where the model is IR; None also in a lock of a version that did not write it."""
    digest: str | None = None
    """Of all else here; None in a lock of a version that did not write it."""
    decision: Decision

    def sealed(self) -> LockedModel:
        """Return the same with its digest."""
        return self.model_copy(update={"digest": self._digest()})

    @property
    def intact(self) -> bool:
        """Tell whether the decision is what the digest was made of, as far as there is one."""
        return self.digest in {None, self._digest()}

    def _digest(self) -> str:
        # Without defaults, as it is written, so that a field of a later version changes no digest.
        told = self.model_dump(mode="json", exclude={"digest"}, exclude_defaults=True)
        return digest(json.dumps(told, sort_keys=True))[:DIGEST_DIGITS]


class LockedDeployment(Frozen):
    """One deployment's decisions on one machine; they hold together or not at all, because models share the cores."""

    manifest: str
    """Digest of all that was asked."""
    cpus: int
    """Cores that its models shared."""
    models: dict[str, LockedModel]
    beside: dict[str, dict[str, Any]] | None = None
    """What was asked of the other models on the CPU, by name; None where nothing was decided together."""


class LockedMachine(Frozen):
    """One machine, told by its fingerprint."""

    fingerprint: str
    openvino: str
    facts: dict[str, Any]
    """What the fingerprint is made of, for people and to name what differs."""
    deployments: dict[str, LockedDeployment]


class Lock(Frozen):
    """All that is locked for the deployments of one manifest file."""

    api_version: Literal["orch/v1"] = "orch/v1"
    kind: Literal["Lock"] = "Lock"
    machines: tuple[LockedMachine, ...] = ()

    def machine(self, fingerprint: str) -> LockedMachine | None:
        """Return the machine of that fingerprint."""
        return next((machine for machine in self.machines if machine.fingerprint == fingerprint), None)

    def deployment(self, fingerprint: str, name: str) -> LockedDeployment | None:
        """Return what is locked for the deployment on that machine."""
        machine = self.machine(fingerprint)
        return None if machine is None else machine.deployments.get(name)

    def decisions(self, fingerprint: str, name: str) -> dict[str, Decision]:
        """Return the decisions for the deployment on that machine, by model; none where it is not locked."""
        locked = self.deployment(fingerprint, name)
        return {} if locked is None else {model: each.decision for model, each in locked.models.items()}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Digests of a model's file and of the weights beside it, as far as they could be found out."""

    sha256: str | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """Why a lock does not fit: of what kind, of which model (None: of the whole deployment), and what to do."""

    kind: Literal["missing", "machine", "openvino", "cores", "model", "slo", "manifest"]
    model: str | None
    what: str
    hint: str


PERCENTILES = (50, 90, 95, 99, 99.9)  # kept of a proof
AGAIN = "plan anew and review the difference: orch plan --write-lock FILE"


def settled(decision: Decision) -> Decision:
    """Return the decision as a lock gives it back: figures rounded, the proof's samples summed up as percentiles.

    Every plan is made of settled decisions, so that it has the same digest with the lock as without.
    """
    data = decision.model_dump()
    if data["proof"] is not None:
        data["proof"] |= _summed_up(data["proof"])
    return Decision.model_validate(_rounded(data))


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.{DIGITS}g}")
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case list() | tuple():
            return tuple(_rounded(each) for each in value)
    return value


def locked(
    lock: Lock | None,
    deployment: Deployment,
    inventory: Inventory,
    cpus: int,
    decisions: Mapping[str, Decision],
    weights: Mapping[str, str | None] | None = None,
) -> Lock:
    """Return the lock with these decisions for the deployment on this machine in place of what it had for them.

    `weights` are the digests of what lies beside the model files, by model.
    """
    here, name = fingerprint(inventory), deployment.metadata.name
    before = (lock or Lock()).machine(here)
    specs = {model.name: model for model in deployment.spec.models}
    files = weights or {}
    models = {model: _locked_model(specs[model], decisions[model], files.get(model)) for model in sorted(decisions)}
    beside = _plain(_others(deployment, models)) if _together(models) else None
    entry = LockedDeployment(manifest=_manifest_digest(models, cpus, beside), cpus=cpus, models=models, beside=beside)
    deployments = {**(before.deployments if before else {}), name: entry}
    machine = LockedMachine(
        fingerprint=here,
        openvino=inventory.openvino,
        facts=_plain(deciding_facts(inventory)),
        deployments={each: deployments[each] for each in sorted(deployments)},
    )
    others = [each for each in (lock or Lock()).machines if each.fingerprint != here]
    return Lock(machines=tuple(sorted([*others, machine], key=lambda each: each.fingerprint)))


def _locked_model(spec: ModelSpec, decision: Decision, weights: str | None) -> LockedModel:
    return LockedModel(
        asked=asked_of(spec),
        valid_while=_valid_while(decision),
        weights_sha256=weights,
        decision=settled(decision),
    ).sealed()


def asked_of(spec: ModelSpec) -> dict[str, Any]:
    """Return what of the model's manifest decides its plan, as the manifest writes it, without what is not said."""
    told: dict[str, Any] = spec.model_dump(mode="json", include=set(ASKED), exclude_none=True)
    return {key: told[key] for key in ASKED if told.get(key) not in (None, {}, [])}


def _together(models: Mapping[str, LockedModel]) -> bool:
    """Tell whether the models were decided as a set: those that share the CPU are."""
    return sum(model.decision.arm.device.partition(".")[0] == "CPU" for model in models.values()) > 1


def _others(deployment: Deployment, but: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return what is asked of the models that may run on the CPU, without some."""
    specs = (model for model in deployment.spec.models if model.name not in but and _may_run_on_cpu(model))
    return {spec.name: asked_of(spec) for spec in sorted(specs, key=lambda spec: spec.name)}


def _may_run_on_cpu(spec: ModelSpec) -> bool:
    """Tell whether the manifest lets the model compute on the CPU; an AUTO that names no device does."""
    targets = (spec.device, *spec.fallback)
    return any(not each.devices or any(name.partition(".")[0] == "CPU" for name in each.devices) for each in targets)


def _manifest_digest(
    models: Mapping[str, LockedModel], cpus: int, beside: Mapping[str, Mapping[str, Any]] | None
) -> str:
    asked = {name: model.asked for name, model in models.items()}
    all_asked = [cpus, asked] if beside is None else [cpus, asked, beside]
    return digest(json.dumps(all_asked, sort_keys=True))[:DIGEST_DIGITS]


def intact(deployment: LockedDeployment) -> bool:
    """Tell whether what was asked is what the digest was made of: nobody has changed one without the other."""
    return deployment.manifest == _manifest_digest(deployment.models, deployment.cpus, deployment.beside)


def _valid_while(decision: Decision) -> ValidWhile:
    rate = None if decision.capacity is None else _rounded(decision.capacity.per_s)
    service_s = _rounded(decision.service_s * DRIFT_MAX)
    arrivals = "" if rate is None else f"at most {format_rate(rate)} arrive, "
    slower = f"one inference takes at most {format_duration(service_s)} ({DRIFT_MAX:g} times the profile)"
    words = f"{arrivals}{slower}, and machine, OpenVINO, model file and manifest stay as they are"
    return ValidWhile(words=words, rate_per_s=rate, service_s=service_s)


def _summed_up(proof: Mapping[str, Any]) -> dict[str, Any]:
    samples = proof["latency_s"]
    if not samples:
        return {}
    return {"latency_s": (), "percentiles_s": {f"p{each:g}": quantile(samples, each / 100) for each in PERCENTILES}}


def _plain(value: Any) -> Any:
    """Return the value as YAML would give it back, so that both compare equal."""
    return json.loads(json.dumps(value))


def drift(
    lock: Lock,
    deployment: Deployment,
    infos: Mapping[str, ModelInfo],
    inventory: Inventory,
    cpus: int,
    models: Collection[str] | None = None,
) -> tuple[Drift, ...]:
    """Return all that makes the lock not fit the deployment as it is now; nothing where it fits.

    `infos` are the model files by model, `cpus` the cores that the models would share, `models` those that need a
    decision (by default as the manifest says).
    """
    machine = lock.machine(fingerprint(inventory))
    if machine is None:
        return (_machine_drift(lock, inventory),)
    files = {model: ModelFile(info.sha256, info.weights_sha256) for model, info in infos.items()}
    return _drifts(machine, deployment, files, cpus, to_decide(deployment) if models is None else models)


def drift_there(machine: LockedMachine, deployment: Deployment, files: Mapping[str, ModelFile]) -> tuple[Drift, ...]:
    """Return all that makes what is locked for that machine not fit the deployment, without asking the machine.

    `files` are the model files; what of them cannot be read here is not compared. The cores are compared where the
    manifest states how many it wants: otherwise only the machine knows what others leave.
    """
    asked, effective = deployment.spec.resources.cpus, machine.facts.get("effective_cpus")
    cpus = asked if effective is None or asked is None else min(asked, effective)
    return _drifts(machine, deployment, files, cpus, to_decide(deployment))


def _drifts(
    machine: LockedMachine,
    deployment: Deployment,
    files: Mapping[str, ModelFile],
    cpus: int | None,
    wanted: Collection[str],
) -> tuple[Drift, ...]:
    name = deployment.metadata.name
    found = machine.deployments.get(name)
    if found is None:
        return (Drift("missing", None, f"the lock has no deployment {name!r} for this machine", AGAIN),)
    stated = deployment.spec.resources.cpus
    drifts = [] if cpus is None or cpus == found.cpus else [_cores_drift(found.cpus, cpus, stated)]
    specs = {model.name: model for model in deployment.spec.models}
    for model in sorted({*found.models, *wanted}):
        if model not in found.models:
            drifts.append(Drift("manifest", model, "the lock does not have this model", AGAIN))
        elif model not in specs:
            drifts.append(Drift("manifest", model, "the manifest no longer has this model", AGAIN))
        else:
            drifts += _model_drift(specs[model], files.get(model, ModelFile()), found.models[model])
    if found.beside is not None:
        drifts += _beside_drift(found.beside, _plain(_others(deployment, found.models)), wanted)
    return tuple(drifts)


def _beside_drift(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]], wanted: Collection[str]
) -> list[Drift]:
    """Return what differs of the models beside which others were decided together."""
    drifts = []
    for model in sorted({*before, *now}.difference(wanted)):
        if model not in before:
            drifts.append(Drift("manifest", model, "the lock's models were planned together without this one", AGAIN))
        elif model not in now:
            drifts.append(Drift("manifest", model, "the manifest no longer has this model on the CPU", AGAIN))
        else:
            drifts += _asked_drift(model, before[model], now[model])
    return drifts


def _cores_drift(before: int, now: int, stated: int | None) -> Drift:
    """Name both, and what gives back the cores: the manifest where it states another number, or other deployments."""
    ways = []
    if now < before and now != stated:
        ways.append("stop other deployments")
    if before != stated:
        ways.append(f"state `resources.cpus: {before}`")
    hint = f"{', '.join(ways)}{', ' if len(ways) > 1 else ' '}or plan anew: orch plan --write-lock FILE"
    are = f"the manifest states {now}" if now == stated else f"{now} {'is' if now == 1 else 'are'} to be had now"
    return Drift("cores", None, f"the lock is for {before} {'core' if before == 1 else 'cores'}, and {are}", hint)


def _model_drift(spec: ModelSpec, now: ModelFile, found: LockedModel) -> list[Drift]:
    drifts = []
    for called, were, are, before, after in (
        ("the model file", "was", "is", found.decision.model_sha256, now.sha256),
        (f"the weights {weights_of(spec)}", "were", "are", found.weights_sha256, now.weights_sha256),
    ):
        if before is not None and after is not None and before != after:
            what = f"{called} {were} {before[:12]}... and {are} {after[:12]}..."
            hint = "put the file back, or plan anew: orch plan --write-lock FILE"
            drifts.append(Drift("model", spec.name, what, hint))
    return [*drifts, *_asked_drift(spec.name, found.asked, _plain(asked_of(spec)))]


def _asked_drift(model: str, asked: Mapping[str, Any], now: Mapping[str, Any]) -> list[Drift]:
    drifts = []
    for key in ASKED:
        before, after = asked.get(key), now.get(key)
        if before != after:
            kind: Literal["slo", "manifest"] = "slo" if key == "slo" else "manifest"
            drifts.append(Drift(kind, model, f"{key} was {_words(before)} and is {_words(after)}", AGAIN))
    return drifts


def weights_of(spec: ModelSpec) -> str:
    """Return the name of the file that the weights of an IR model lie in."""
    return PurePath(spec.source).with_suffix(".bin").name


def _words(value: Any) -> str:
    match value:
        case None:
            return "not stated"
        case dict():
            return ", ".join(f"{key} {_words(each)}" for key, each in value.items())
        case list():
            return ", ".join(map(_words, value))
    return str(value)


def _machine_drift(lock: Lock, inventory: Inventory) -> Drift:
    """Name what differs from the machine in the lock that is most like this one."""
    if not lock.machines:
        return Drift("missing", None, "the lock is empty", AGAIN)
    here = _plain(deciding_facts(inventory))
    differing = {machine.fingerprint: _differing(machine.facts, here) for machine in lock.machines}
    nearest = min(lock.machines, key=lambda machine: (len(differing[machine.fingerprint]), machine.fingerprint))
    keys = differing[nearest.fingerprint]
    if keys == ["openvino"]:
        what = f"the lock is for OpenVINO {nearest.openvino}, and this is {inventory.openvino}"
        return Drift("openvino", None, what, "install that version, or plan anew: orch plan --write-lock FILE")
    facts = "; ".join(f"{key} {_words(nearest.facts.get(key))} there, {_words(here.get(key))} here" for key in keys)
    what = f"the lock does not know this machine ({fingerprint(inventory)}); the most like it differs in {facts}"
    return Drift("machine", None, what, "add this machine: orch plan --write-lock FILE")


def _differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    return [key for key in sorted(there.keys() | here.keys()) if there.get(key) != here.get(key)]
