"""Make an environment for each peer, outside the repository: `python -m benchmarks.peers.install --into DIR`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

REQUIREMENTS: Final[Mapping[str, Sequence[str]]] = {
    "web": ("openvino", "numpy", "fastapi", "uvicorn", "uvloop", "httptools", "granian"),
    "mlserver": (
        "openvino",
        "numpy",
        "mlserver",
        "uvloop<0.22",
    ),  # 1.7.1 asks uvloop for a loop that 0.22 makes no more
    "pytriton": ("openvino", "numpy", "nvidia-pytriton"),
}
VERSIONS_OF: Final[Mapping[str, str]] = {
    "fastapi": "web",
    "uvicorn": "web",
    "granian": "web",
    "mlserver": "mlserver",
    "nvidia-pytriton": "pytriton",
}
"""Which packages' versions the results note, and where each is installed."""


def python_of(folder: Path, name: str) -> Path:
    """Return the interpreter of a peer's environment."""
    return folder / name / "bin" / "python"


def install(folder: Path, name: str) -> bool:
    """Make one environment with the openvino of this one; tell whether that worked."""
    openvino = versions(Path(sys.executable), ["openvino"])["openvino"]
    packages = [f"openvino=={openvino}" if one == "openvino" else one for one in REQUIREMENTS[name]]
    subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
    command = [str(python_of(folder, name)), "-m", "pip", "install", "--quiet", *packages]
    return subprocess.run(command, check=False).returncode == 0


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages in the environment of `python`; those that are not there are left out."""
    code = (
        "import sys, importlib.metadata as m\n"
        "for name in sys.argv[1:]:\n"
        "  try: print(name, m.version(name))\n"
        "  except m.PackageNotFoundError: pass"
    )
    said = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=False).stdout
    return dict(line.split() for line in said.splitlines())


def installed(folder: Path) -> dict[str, str]:
    """Return the versions of the peers that are installed in `folder`."""
    found: dict[str, str] = {}
    for name in REQUIREMENTS:
        python = python_of(folder, name)
        if python.exists():
            found |= versions(python, [package for package, home in VERSIONS_OF.items() if home == name])
    return found


def main() -> int:
    """Install all peers or those named; return 1 when one could not be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.install", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(REQUIREMENTS), help=f"any of {', '.join(REQUIREMENTS)}")
    parser.add_argument("--into", type=Path, default=default_folder())
    options = parser.parse_args()
    failed = [name for name in options.names if not install(options.into, name)]
    for name, version in installed(options.into).items():
        print(name, version)
    for name in failed:
        print(f"{name} could not be installed; the message of pip stands above", file=sys.stderr)
    return 1 if failed else 0


def default_folder() -> Path:
    """Return where the environments are unless one says so."""
    return Path(os.environ.get("ORCH_BENCH_PEERS", Path.home() / ".cache" / "orch-bench-peers"))


if __name__ == "__main__":
    sys.exit(main())
