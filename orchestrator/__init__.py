"""Declarative deployments of OpenVINO models: plan to a latency SLO, serve, hold it, say how full it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import Deployment, Model, open  # noqa: A004 - read as orchestrator.open
    from orchestrator.errors import Kind, OrchError

__all__ = ["Deployment", "Kind", "Model", "OrchError", "open"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line, which needs none of it, starts in a tenth of a second."""
    if name in ("Deployment", "Model", "open"):
        from orchestrator import api as module  # brings OpenVINO and NumPy
    elif name in ("Kind", "OrchError"):
        from orchestrator import errors as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    return getattr(module, name)
