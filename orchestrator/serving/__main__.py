"""Start a worker process: `python -m orchestrator.serving --state DIR --plan FILE --generation N`."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

from orchestrator.errors import OrchError, render
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.telemetry import logs

LOG_TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def main(arguments: list[str]) -> int:
    """Read the arguments, take the cores, and serve."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.serving")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--generation", type=int, required=True)
    parser.add_argument("--listen-fd", type=int)
    parser.add_argument("--cores")
    parser.add_argument("--regions", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.cores:
            take_cores([int(core) for core in options.cores.split(",")])
        plan = DeploymentPlan.model_validate_json(options.plan.read_bytes())
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {options.plan}: {error}\n")
        return 1
    return serve(
        plan,
        state=options.state,
        generation=options.generation,
        listen_fd=options.listen_fd,
        regions=options.regions,
    )


def take_cores(cores: list[int]) -> None:
    """Bind this process to its cores; OpenVINO reads the mask once, when it is imported (trap 15)."""
    os.sched_setaffinity(0, cores)


def serve(
    plan: DeploymentPlan, *, state: Path, generation: int, listen_fd: int | None = None, regions: Path | None = None
) -> int:
    """Serve `plan` in this process until it is asked to stop; return the exit code."""
    try:
        logs.begin(os.environ, logging.Formatter(LOG_TEXT), deployment=plan.name)
    except OrchError as error:
        sys.stderr.write(render(error) + "\n")
        return 1
    # The engine is imported only now, with its cores taken and its telemetry off.
    from orchestrator.backend.openvino_backend import OpenVinoBackend
    from orchestrator.runner.trial import VARIABLE, limits_of
    from orchestrator.serving.process import Start, run

    listener = socket.socket(fileno=listen_fd) if listen_fd is not None else None
    if listener is not None:
        listener.setblocking(False)
    try:
        trial = limits_of(os.environ.get(VARIABLE))
        return run(Start(plan, state, generation, listener, regions, trial), OpenVinoBackend())
    except OrchError as error:
        sys.stderr.write(render(error) + "\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
