"""Measures how long `orch validate` and `orch status` take against a bare Python that imports typer and pydantic.

Interleaved rounds on one machine, medians and ratios; run with `python -m benchmarks.cli_startup`. `import pydantic`
alone loads nothing of it (its names are lazy), so the bare program names BaseModel, as every user of pydantic does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
GOAL = 1.5
BARE = "bare: typer, pydantic.BaseModel"
PROGRAMS = {
    BARE: ["-c", "import typer; from pydantic import BaseModel"],
    "bare: typer, one pydantic model": [
        "-c",
        "import typer; from pydantic import BaseModel; type('M', (BaseModel,), {'__annotations__': {'x': int}})(x=1)",
    ],
    "bare: typer, pydantic (lazy)": ["-c", "import typer, pydantic"],
    "bare: nothing": ["-c", ""],
    "orch validate FILE": ["-m", "orchestrator.cli", "validate", str(ROOT / "deployments" / "quickstart.yaml")],
    "orch status, no agent": ["-m", "orchestrator.cli", "status"],
    "orch --help": ["-m", "orchestrator.cli", "--help"],
}
EXPECTED = {"orch status, no agent": 1}


def measure(rounds: int, home: str) -> dict[str, list[float]]:
    """Return the seconds of each program in each round."""
    environ = {**os.environ, "ORCH_HOME": home, "PYTHONPATH": str(ROOT)}
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(rounds + 1):
        for name, arguments in PROGRAMS.items():
            begin = time.perf_counter()
            ran = subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, check=False)
            took = time.perf_counter() - begin
            assert ran.returncode == EXPECTED.get(name, 0), (name, ran.stderr.decode())
            if number:  # the first round fills the caches
                seconds[name].append(took)
    return seconds


def main() -> None:
    """Print a table of medians and of ratios to the bare program in the same round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as home:
        seconds = measure(rounds, home)
    print(f"{'program':<32} {'median ms':>10} {'of bare':>8}")
    for name, times in seconds.items():
        ratios = [mine / bare for mine, bare in zip(times, seconds[BARE], strict=True)]
        ratio = statistics.median(ratios)
        verdict = "" if not name.startswith("orch") else "  within" if ratio <= GOAL else "  over"
        print(f"{name:<32} {statistics.median(times) * 1e3:>10.1f} {ratio:>8.2f}{verdict}")
    print(f"{rounds} interleaved rounds, Python {sys.version.split()[0]}; goal at most {GOAL} times {BARE!r}")


if __name__ == "__main__":
    main()
