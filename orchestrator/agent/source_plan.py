"""From the manifest of a source to plain values with absolute paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.agent.source_state import SourcePlan

if TYPE_CHECKING:  # an idle agent needs no YAML
    from orchestrator.manifest.load import SourceDocument


def source_plan(document: SourceDocument) -> SourcePlan:
    """Return what the manifest wants; relative paths start from its folder."""
    spec, base = document.manifest.spec, document.base
    git, webhook = spec.git, spec.webhook
    return SourcePlan(
        url=git.url if git else None,
        branch=git.branch if git else None,
        token_file=_from(base, git.token_file if git else None),
        ssh_key_file=_from(base, git.ssh_key_file if git else None),
        known_hosts_file=_from(base, git.known_hosts_file if git else None),
        allowed_signers_file=_from(base, git.allowed_signers_file if git else None),
        folder=_from(base, spec.folder),
        path=spec.path,
        interval_s=spec.interval,
        timeout_s=spec.timeout,
        prune=spec.prune,
        prune_all=spec.prune_all,
        locks=spec.locks,
        model_roots=tuple(str(base / root) for root in spec.model_roots),
        webhook=webhook.listen if webhook else None,
        webhook_secret_file=_from(base, webhook.secret_file if webhook else None),
        suspend=spec.suspend,
    )


def _from(base: Path, path: str | None) -> str | None:
    return None if path is None else str(base / path)
