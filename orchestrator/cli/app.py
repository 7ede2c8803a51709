"""The Typer application that every command file adds its commands to, and the options that commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.light import LightGroup
from orchestrator.cli.render import Output, Text, out

# rich_markup_mode=None is Typer's supported way to write help and usage errors without importing rich (120 ms).
app = typer.Typer(
    name="orch",
    cls=LightGroup,
    rich_markup_mode=None,
    add_completion=False,  # orch completion is faster and knows names
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Manifest files, folders of them, or - for stdin.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Deployments, or DEPLOYMENT/MODEL.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the deployment.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How the list is written.")]
TextOption = Annotated[Text, typer.Option("-o", "--output", help="How the answer is written.")]


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # only here

        out(f"orch {version('orch-openvino')}")
        raise typer.Exit


@app.callback()
def orch(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Write the version and exit.")
    ] = False,
) -> None:
    """Run OpenVINO models as their manifests say, and tell how full they are.

    \b
    Exit codes
      0    done
      1    the answer is no: invalid, not found, refused, failed
      2    wrong usage
      3    a bug in orch; the message names a report file to send
      130  Ctrl-C

    \b
    Example: orch apply deployments/quickstart.yaml && orch status
    """


def duration(text: str, option: str) -> float:
    """Return the seconds of an option such as 90s or 10m; a wrong one is wrong usage, told with the option's name."""
    from orchestrator import units  # only where an option is given

    try:
        seconds = units.parse_duration_s(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option} {error}") from None
    if seconds <= 0:
        raise typer.BadParameter(f"{option} must be greater than zero, got {text!r}")
    return seconds
