"""Writes what somebody who mends a bug must know: versions, the command, the traceback."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import traceback

PACKAGES = ("orch-openvino", "openvino", "pydantic", "pydantic-core", "typer", "pyyaml", "numpy", "rich")


def report_text(bug: BaseException, command: list[str]) -> str:
    """Return the report; it holds no environment variables and no file contents."""
    versions = [f"{name} {_version(name)}" for name in PACKAGES]
    lines = [
        "command: " + " ".join(command),
        f"python: {sys.version.split()[0]} on {platform.platform()}",
        "packages: " + ", ".join(versions),
        "",
        *traceback.format_exception(bug),
    ]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
