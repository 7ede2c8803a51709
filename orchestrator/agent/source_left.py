"""Removes what a deleted source left: what was fetched at once, models once no deployment that was kept needs them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.agent import content
from orchestrator.gitops.checkouts import remove_tree

RECORD = "source.json"
"""In the folder of each source that is followed: what a lost store is rebuilt from."""
FETCHED, MODELS = "git", "models"


def left(sources: Path, known: Collection[str]) -> list[Path]:
    """Return the folders of sources that nobody knows any more."""
    with suppress(OSError):  # there never was a source
        return [each for each in sorted(sources.iterdir()) if each.name not in known and not (each / RECORD).exists()]
    return []


def sweep(folders: Iterable[Path], plans: Sequence[str]) -> None:
    """Remove what was fetched, the models that none of the plans, as JSON texts, names, and what is then empty."""
    for folder in folders:
        with suppress(OSError):
            remove_tree(folder / FETCHED)
        content.sweep(folder / MODELS, plans)
        for each in (folder / MODELS, folder):
            with suppress(OSError):  # models lie in it
                each.rmdir()
