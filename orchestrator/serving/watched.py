"""Files that change while they are in use: the new contents are taken up once they rest, or else the last are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from orchestrator.errors import OrchError

LOOK_S = 1.0
"""Between two looks; what has changed is taken up at the second look that finds it the same."""

Held = TypeVar("Held")
Mark = tuple[int, int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class Change:
    """What a look found: new contents were taken up, or refused for a reason and the last kept."""

    refused: OrchError | None = None


class Watched(Generic[Held]):
    """Holds what `load` makes of some files; `look` is called each LOOK_S, on any one thread."""

    def __init__(self, paths: Sequence[Path], load: Callable[[], Held]) -> None:
        """Read the files; raise what `load` raises."""
        self._paths = tuple(paths)
        self._load = load
        self._done = self._seen = _marks(self._paths)
        self.held = load()

    def look(self) -> Change | None:
        """Take up files that have changed and rested since the last look; None where there is nothing to tell.

        Files are often written piece by piece and one after the other: what is found on its way waits for the next
        look. A link that leads elsewhere is a change as well, so volumes of Kubernetes work.
        """
        marks = _marks(self._paths)
        rests, self._seen = marks == self._seen, marks
        if marks == self._done or not rests:
            return None
        try:
            new = self._load()
        except OrchError as error:
            self._done = marks  # said once
            return Change(error)
        if _marks(self._paths) != marks:
            return None
        self._done = marks
        if new == self.held:
            return None  # only touched
        self.held = new
        return Change()


def _marks(paths: Sequence[Path]) -> tuple[Mark, ...]:
    return tuple(map(_mark, paths))


def _mark(path: Path) -> Mark:
    """Return what differs when a file is written, replaced, or opened to others."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
