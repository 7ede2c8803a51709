"""The small text that stands in a commit for a file that Git LFS keeps elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

POINTER_BYTES_MAX = 1024  # git-lfs reads no larger one
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})\n?"
)


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which content stands for the file: its SHA-256 and its bytes."""

    sha256: str
    size: int


def parse_pointer(data: bytes) -> Pointer | None:
    """Return the pointer in a file's content, None where it is an ordinary file."""
    if len(data) > POINTER_BYTES_MAX:
        return None
    match = _POINTER.fullmatch(data)
    return None if match is None else Pointer(match[1].decode("ascii"), int(match[2]))
