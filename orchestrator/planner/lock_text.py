"""Locks as YAML: the file beside the manifest, written for people to review and read strictly."""

from __future__ import annotations

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.manifest import emit, source, typed
from orchestrator.manifest.explain import dotted
from orchestrator.planner.lock import Lock, intact

SUFFIX = ".lock.yaml"
HINT = "delete the file, and write it anew with: orch plan --write-lock FILE"
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
    lock = typed.from_yaml(Lock, text, name, called="lock", hint=HINT)
    problems = _hand_made(lock, text, name)
    if problems:
        raise OrchError(Kind.INVALID, problems)
    return lock


def _hand_made(lock: Lock, text: str, name: str) -> list[Problem]:
    """Return a problem for each deployment of which somebody changed what was asked, and nothing else."""
    changed = [
        ("machines", index, "deployments", deployment, "manifest")
        for index, machine in enumerate(lock.machines)
        for deployment, found in machine.deployments.items()
        if not intact(found)
    ]
    if not changed:
        return []
    root = source.parse(text, name).documents[0].root
    what = "is not the digest of what the lock says was asked: it was changed by hand"
    return [Problem(f"{dotted(loc)}: {what}", str(source.lookup(root, loc).position), HINT) for loc in changed]
