"""The command infer: one request to a running deployment, for people."""

from __future__ import annotations

import enum
import sys
from typing import Annotated

import typer

from orchestrator.cli import endpoint, render
from orchestrator.cli.app import app
from orchestrator.cli.endpoint import CaOption, CertOption, KeyOption, Papers, TokenFileOption
from orchestrator.cli.light import LightCommand


class InferOutput(enum.StrEnum):
    """How the outputs are written."""

    TEXT = "text"
    JSON = "json"
    NPY = "npy"


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
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
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

    papers = Papers(token_file, ca, cert, key)
    target = endpoint.named(name, papers, "orch infer") if url is None else endpoint.at(url, name, papers)
    client = oip_client.client_of(target, timeout)
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
