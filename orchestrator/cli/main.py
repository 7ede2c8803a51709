"""The command `orch`: every command by name, and `run`, which is the program's way in and out."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer.main

# Each import adds commands to the application, in the order in which help lists them.
# isort: off
from orchestrator.cli import apply_commands, status_commands, infer_command  # noqa: F401
from orchestrator.cli import plan_commands, manifest_commands, process_commands  # noqa: F401
from orchestrator.cli.app import app
from orchestrator.cli.boundary import guarded
# isort: on


def run() -> NoReturn:
    """Run the command line of this process and exit."""
    command = typer.main.get_command(app)
    sys.exit(guarded(lambda: command(prog_name="orch"), command=sys.argv, environ=os.environ))
