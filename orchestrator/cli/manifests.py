"""Reads the manifests that a command line names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.manifest.load import Manifests


def read(files: list[str]) -> Manifests:
    """Return the manifests that a command line names; raise OrchError with all their problems."""
    from orchestrator.manifest.load import load  # pydantic's models cost 30 ms that other commands do not need

    return load(files, stdin=sys.stdin.buffer, base=Path.cwd())


def check_files(manifests: Manifests) -> None:
    """Raise OrchError with what is wrong with any file that the manifests name."""
    from orchestrator.errors import Kind, OrchError  # beside its use, as above
    from orchestrator.manifest.model_file import check_named_files, check_sources

    problems = [problem for document in manifests.documents for problem in check_sources(document)]
    problems += [problem for document in manifests.sources for problem in check_named_files(document)]
    if problems:
        raise OrchError(Kind.INVALID, problems)
