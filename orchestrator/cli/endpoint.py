"""Finds where a deployment listens, which of its models is meant, and how one proves oneself to it and it to one."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import control
from orchestrator.errors import Kind, OrchError

if TYPE_CHECKING:
    from orchestrator.profiling.trust import Trust

TokenFileOption = Annotated[
    Path | None, typer.Option(help="File with the bearer token; by default the deployment's own.")
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca", metavar="FILE", help="Authorities to trust for https; by default the deployment's own certificate."
    ),
]
CertOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate to show where one is asked for.")]
KeyOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, where it is in a file of its own.")]


@dataclass(frozen=True, slots=True)
class Papers:
    """What the command line says of who asks, and of whom to trust."""

    token_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Which model to ask, where, and with which papers."""

    url: str
    model: str
    token_file: Path | None
    trust: Trust | None = None
    """Of https."""


def named(name: str, papers: Papers, command: str) -> Target:
    """Ask the agent what NAME[/MODEL] is; raise OrchError where that is not clear. `command` is who wants to know."""
    deployment, _, model = name.partition("/")
    (item,) = control.status_items([name])
    models = [each["name"] for each in item["models"]]
    if not model and len(models) != 1:
        hint = f"name one of them: {deployment}/{models[0]}" if models else f"look at it with: orch status {deployment}"
        raise OrchError(Kind.INVALID, f"{deployment} has {len(models)} models ({', '.join(models)})", hint=hint)
    url, own = _url(item, deployment, command), _own_endpoint(deployment)
    token_file = papers.token_file or (Path(own["token_file"]) if own.get("token_file") else None)
    certificate = (own.get("tls") or {}).get("certificate_file")
    return Target(url, model or models[0], token_file, _trust(url, papers, certificate))


def at(url: str, model: str, papers: Papers) -> Target:
    """Return a model of any server of the protocol; NAME/MODEL is taken for MODEL."""
    return Target(url, model.rpartition("/")[2], papers.token_file, _trust(url, papers, None))


def _trust(url: str, papers: Papers, own_certificate: str | None) -> Trust | None:
    """Return whom to trust: the authorities named; else a local deployment's own certificate; else the system's."""
    if urllib.parse.urlsplit(url).scheme != "https":
        if papers.ca or papers.cert or papers.key:
            hint = "drop --ca, --cert and --key, or write https://"
            raise OrchError(Kind.INVALID, "certificates are for https only", where=url, hint=hint)
        return None
    from orchestrator.profiling.trust import Trust  # ssl: only for https

    pinned = None if papers.ca else own_certificate
    return Trust(_text(papers.ca), pinned, _text(papers.cert), _text(papers.key))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


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


def _own_endpoint(deployment: str) -> Mapping[str, Any]:
    """Return the endpoint of the deployment's plan."""
    endpoint: Mapping[str, Any] = control.ask("plans", {"names": [deployment]}).get(deployment, {}).get("endpoint", {})
    return endpoint


def token(path: Path | None) -> str | None:
    """Return the first token in a file; raise OrchError where it cannot be read."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the token cannot be read: {getattr(error, 'strerror', None) or error}"
        raise OrchError(Kind.INVALID, what, where=str(path)) from None
    return lines[0] if lines else ""
