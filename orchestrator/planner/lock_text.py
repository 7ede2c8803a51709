"""Locks as YAML: the file beside the manifest, written for people to review and read strictly."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.fingerprint import fingerprint_of
from orchestrator.manifest import emit, source, typed
from orchestrator.manifest.explain import dotted
from orchestrator.planner.lock import Lock, intact

SUFFIX = ".lock.yaml"
HINT = "delete the file, and write it anew with: orch plan --write-lock FILE"
RESOLVE = "resolve the conflict, or " + HINT
CONFLICT = re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE)
BY_HAND = "it was changed by hand"
HEADER = """\
# What orch measured and decided, for each machine. Review it like code; only `orch plan --write-lock` changes it.
# With a lock that fits `orch apply` measures nothing; `orch plan --check` tells whether it fits.
# Times are in seconds, rates in requests a second.
"""


def lock_name(manifest: str) -> str:
    """Return the name of the lock file that belongs to a manifest file's name."""
    stem = manifest.removesuffix(".yaml").removesuffix(".yml")
    return stem + SUFFIX


def to_yaml(lock: Lock) -> str:
    """Return the lock as YAML; the same lock gives the same bytes."""
    body = lock.model_dump(mode="json", exclude_defaults=True)
    return HEADER + emit.to_yaml({"api_version": lock.api_version, "kind": lock.kind, **body})


def from_yaml(text: str, name: str) -> Lock:
    """Read a lock; raise OrchError with every problem at `name:line:column`."""
    marker = CONFLICT.search(text)
    if marker is not None:
        line = text.count("\n", 0, marker.start()) + 1
        what = f"has merge-conflict markers at line {line}"
        raise OrchError(Kind.INVALID, what, where=str(source.Position(name, line, 1)), hint=RESOLVE)
    lock = typed.from_yaml(Lock, text, name, called="lock", hint=HINT)
    problems = _hand_made(lock, text, name)
    if problems:
        raise OrchError(Kind.INVALID, problems)
    return lock


Place = tuple[str | int, ...]


def _hand_made(lock: Lock, text: str, name: str) -> list[Problem]:
    """Return a problem for each value that somebody, or a merge, changed without those that go with it."""
    changed = list(_changed(lock))
    if not changed:
        return []
    root = source.parse(text, name).documents[0].root
    return [
        Problem(f"{dotted(loc)}: {what}", str(source.lookup(root, loc).position), hint) for loc, what, hint in changed
    ]


def _changed(lock: Lock) -> Iterator[tuple[Place, str, str]]:
    first: dict[str, int] = {}
    for index, machine in enumerate(lock.machines):
        here: Place = ("machines", index)
        if index != first.setdefault(machine.fingerprint, index):
            what = f"is the machine of machines[{first[machine.fingerprint]}] too: each may be in the lock once"
            yield (*here, "fingerprint"), what, f"keep one of the two entries, or {HINT}"
        if fingerprint_of(machine.facts) != machine.fingerprint:
            yield (*here, "fingerprint"), f"is not that of the machine's facts: {BY_HAND}", HINT
        elif machine.openvino != machine.facts.get("openvino"):
            yield (*here, "openvino"), f"is not that of the machine's facts: {BY_HAND}", HINT
        for name, deployment in machine.deployments.items():
            there: Place = (*here, "deployments", name)
            if not intact(deployment):
                what = f"is not the digest of what the lock says was asked: {BY_HAND}"
                yield (*there, "manifest"), what, HINT
            for model, each in deployment.models.items():
                if not each.intact:
                    what = f"is not the digest of what the lock says was decided: {BY_HAND}"
                    yield (*there, "models", model, "digest"), what, HINT
