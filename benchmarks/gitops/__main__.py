"""Run with `python -m benchmarks.gitops push|storm|idle`; exits 1 where a goal is missed."""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("CI", "true")  # before openvino is imported: its telemetry stays off

from benchmarks.gitops import idle, push, storm


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    pushing = parts.add_parser("push", help=push.__doc__)
    pushing.add_argument("--pushes", type=int, default=20)
    storming = parts.add_parser("storm", help=storm.__doc__)
    storming.add_argument("--commits", type=int, default=200)
    idling = parts.add_parser("idle", help=idle.__doc__)
    idling.add_argument("--deployments", type=int, default=50)
    idling.add_argument("--sources", type=int, default=3)
    idling.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    match asked.part:
        case "push":
            held = push.report(asked.pushes)
        case "storm":
            held = storm.run(asked.commits)
        case _:
            held = idle.run(asked.deployments, asked.sources, asked.seconds)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
