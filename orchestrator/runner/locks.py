"""Lock files on disk: read beside manifests, written by staging name, and what this machine remembers of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.manifest.load import Document
from orchestrator.planner.lock import Lock
from orchestrator.planner.lock_text import SUFFIX, from_yaml, lock_name, to_yaml
from orchestrator.runner.staging import write_whole

BYTES_MAX = 2**20  # as for manifests; hundreds of models fit


def lock_path(manifest: Path) -> Path:
    """Return where the lock of a manifest file stands: `shop.lock.yaml` beside `shop.yaml`."""
    return manifest.with_name(lock_name(manifest.name))


def read_lock(path: Path) -> Lock | None:
    """Return the lock in the file, None where there is no file; raise OrchError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise OrchError(Kind.TOO_LARGE, f"is larger than {BYTES_MAX} bytes", where=str(path))
        text = data.decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise OrchError(Kind.INVALID, what, where=str(path)) from None
    return from_yaml(text, str(path))


def read_beside(documents: Sequence[Document]) -> Mapping[str, Lock]:
    """Return the lock beside each document's file, by deployment; raise OrchError for one that cannot be read."""
    read = {path: read_lock(lock_path(path)) for path in {each.path for each in documents} if path is not None}
    found = {each.deployment.metadata.name: read[each.path] for each in documents if each.path is not None}
    return {name: lock for name, lock in found.items() if lock is not None}


def write_lock(path: Path, lock: Lock) -> bool:
    """Write the lock by staging name; return whether the file changed. Raise OrchError where it cannot be written."""
    text = to_yaml(lock)
    try:
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return False
    except OSError as error:
        raise OrchError(Kind.FAILED, f"cannot be read: {error.strerror}", where=str(path)) from None
    write_whole(path, text)
    return True


@dataclass(frozen=True, slots=True)
class Memory:
    """What was decided on this machine and is in no lock file: so that applying twice measures once."""

    folder: Path

    def recall(self, deployment: str) -> Lock | None:
        """Return what is remembered of the deployment; a damaged memory is none."""
        try:
            return read_lock(self._path(deployment))
        except OrchError:
            return None

    def keep(self, deployment: str, lock: Lock) -> None:
        """Remember; a memory that cannot be kept costs another measurement, and nothing else."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_lock(self._path(deployment), lock)
        except (OSError, OrchError):
            return

    def _path(self, deployment: str) -> Path:
        return self.folder / f"{deployment}{SUFFIX}"
