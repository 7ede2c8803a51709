"""The bearer token of an endpoint, read from its file and read again when the file changes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import Kind, OrchError

RECHECK_S = 2.0  # so that a token can be rotated without a restart


class TokenFile:
    """Keeps the token of a file; a file that cannot be read any more keeps the last one."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._checked = clock()
        self._token = self._load()

    def _load(self) -> str:
        try:
            token = self._path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OrchError(Kind.INVALID, f"cannot read the token: {error}", where=str(self._path)) from None
        if not token:
            raise OrchError(Kind.INVALID, "holds no token", where=str(self._path), hint="write one line of random text")
        return token

    def read(self) -> str | None:
        """Return the token, at most RECHECK_S old."""
        now = self._clock()
        if now - self._checked > RECHECK_S:
            self._checked = now
            with contextlib.suppress(OrchError):  # fail closed: the old token goes on being asked for
                self._token = self._load()
        return self._token
