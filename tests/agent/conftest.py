"""The fixtures of this room."""

from __future__ import annotations

from conftest_agent import agent

__all__ = ["agent"]
