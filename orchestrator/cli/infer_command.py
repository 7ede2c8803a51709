"""The command infer: one request to a running deployment, for people."""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import control, render
from orchestrator.cli.app import app
from orchestrator.cli.light import LightCommand
from orchestrator.errors import Kind, OrchError


class InferOutput(enum.StrEnum):
    """How the outputs are written."""

    TEXT = "text"
    JSON = "json"
    NPY = "npy"


@dataclass(frozen=True, slots=True)
class Target:
    """Which model to ask, where, and with which token."""

    url: str
    model: str
    token_file: Path | None


@app.command(cls=LightCommand)
def infer(
    name: Annotated[str, typer.Argument(metavar="NAME[/MODEL]", help="Deployment; the model where it has several.")],
    inputs: Annotated[
        list[str],
        typer.Option(
            "-i",
            "--input",
            metavar="[INPUT=]VALUE",
            help="VALUE: @file.npy, @file.json, @- for stdin, or JSON such as [[1,2]]. A whole request: @request.json.",
        ),
    ],
    url: Annotated[
        str | None, typer.Option(help="Endpoint to ask, without an agent; NAME is then the model's.")
    ] = None,
    output: Annotated[
        InferOutput, typer.Option("-o", "--output", help="How the outputs are written.")
    ] = InferOutput.TEXT,
    timeout: Annotated[float, typer.Option(min=0.001, max=3600, help="Seconds to wait for the answer.")] = 60.0,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token; by default the deployment's own.")
    ] = None,
) -> None:
    """Send one request and show the outputs.

    INPUT= may be left out where the model has one input. -o npy writes the only output as a NumPy file.

    \b
    Exit codes: 0 answered; 1 refused, wrong input, or nothing answers.

    \b
    Example:
      orch infer quickstart -i image=@deployments/models/digits-sample.npy
    """
    from orchestrator.cli import oip_client, tensors  # numpy and http.client: only this command needs them

    target = _asked(name, token_file) if url is None else Target(url, name.rpartition("/")[2], token_file)
    client = oip_client.Client(target.url, token=_token(target.token_file), timeout_s=timeout)
    inputs = tensors.with_standard_input(inputs, sys.stdin.buffer.read)
    request = tensors.read_request(inputs)
    if request is None:
        metadata = client.metadata(target.model)
        request = tensors.encode(tensors.read_inputs(inputs, metadata))
    outputs = tensors.decode(client.infer(target.model, request))
    match output:
        case InferOutput.JSON:
            render.out(render.to_json(tensors.to_json(outputs)))
        case InferOutput.NPY:
            sys.stdout.buffer.write(tensors.to_npy(outputs))
            sys.stdout.buffer.flush()
        case InferOutput.TEXT:
            render.out(tensors.to_text(outputs))


def _asked(name: str, token_file: Path | None) -> Target:
    """Ask the agent where the deployment listens and which model is meant; raise OrchError where that is not clear."""
    deployment, _, model = name.partition("/")
    (item,) = control.status_items([name])
    models = [each["name"] for each in item["models"]]
    if not model and len(models) != 1:
        hint = f"name one of them: {deployment}/{models[0]}" if models else f"look at it with: orch status {deployment}"
        raise OrchError(Kind.INVALID, f"{deployment} has {len(models)} models ({', '.join(models)})", hint=hint)
    endpoint = item.get("endpoint") or {}
    url = endpoint.get("http")
    if not url and endpoint.get("grpc"):
        hint = f"ask it with a gRPC client at {endpoint['grpc']}, or give it spec.endpoint.http"
        raise OrchError(Kind.UNSUPPORTED, f"{deployment} listens for gRPC only, and orch infer speaks HTTP", hint=hint)
    if not url:
        raise OrchError(
            Kind.UNAVAILABLE,
            f"{deployment} has no HTTP endpoint now",
            hint=f"look at it with: orch status {deployment}",
        )
    if token_file is None:
        named = control.ask("plans", {"names": [deployment]}).get(deployment, {}).get("endpoint", {}).get("token_file")
        token_file = Path(named) if named else None
    return Target(url, model or models[0], token_file)


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the token cannot be read: {getattr(error, 'strerror', None) or error}"
        raise OrchError(Kind.INVALID, what, where=str(path)) from None
