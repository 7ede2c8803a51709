"""Lets `python -m orchestrator.cli` be `orch`."""

from orchestrator.cli.main import run

run()
