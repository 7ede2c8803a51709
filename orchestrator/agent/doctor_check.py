"""One finding of `orch doctor`, and the words in which findings are told."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

GIB, MIB = 2**30, 2**20


class Level(enum.StrEnum):
    """How well it is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    level: Level
    message: str
    command: str | None = None
    """What mends it."""


def well(name: str, message: str) -> Check:
    """Return that all is well."""
    return Check(name, Level.OK, message)


def size(of: int) -> str:
    """Return bytes for people."""
    return f"{of / GIB:.1f} GiB" if of >= GIB else f"{of / MIB:.0f} MiB"


def some(items: Sequence[str], most: int = 3) -> str:
    """Return the first few, and how many more there are."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
