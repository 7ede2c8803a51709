"""Finds where a deployment listens, which of its models is meant, and with which token it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cli import control
from orchestrator.errors import Kind, OrchError


@dataclass(frozen=True, slots=True)
class Target:
    """Which model to ask, where, and with which token."""

    url: str
    model: str
    token_file: Path | None


def named(name: str, token_file: Path | None, command: str) -> Target:
    """Ask the agent what NAME[/MODEL] is; raise OrchError where that is not clear. `command` is who wants to know."""
    deployment, _, model = name.partition("/")
    (item,) = control.status_items([name])
    models = [each["name"] for each in item["models"]]
    if not model and len(models) != 1:
        hint = f"name one of them: {deployment}/{models[0]}" if models else f"look at it with: orch status {deployment}"
        raise OrchError(Kind.INVALID, f"{deployment} has {len(models)} models ({', '.join(models)})", hint=hint)
    return Target(_url(item, deployment, command), model or models[0], token_file or _own_token(deployment))


def _url(item: dict[str, Any], deployment: str, command: str) -> str:
    endpoint = item.get("endpoint") or {}
    url = endpoint.get("http")
    if not url and endpoint.get("grpc"):
        hint = f"ask it with a gRPC client at {endpoint['grpc']}, or give it spec.endpoint.http"
        raise OrchError(Kind.UNSUPPORTED, f"{deployment} listens for gRPC only, and {command} speaks HTTP", hint=hint)
    if not url:
        what, hint = f"{deployment} has no HTTP endpoint now", f"look at it with: orch status {deployment}"
        raise OrchError(Kind.UNAVAILABLE, what, hint=hint)
    return str(url)


def _own_token(deployment: str) -> Path | None:
    file = control.ask("plans", {"names": [deployment]}).get(deployment, {}).get("endpoint", {}).get("token_file")
    return Path(file) if file else None


def token(path: Path | None) -> str | None:
    """Return the token in a file; raise OrchError where it cannot be read."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the token cannot be read: {getattr(error, 'strerror', None) or error}"
        raise OrchError(Kind.INVALID, what, where=str(path)) from None
