"""Brings the contents of a commit's files onto this machine, each once, and none before its size is allowed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops.checkouts import Blob, Checkouts
from orchestrator.gitops.lfs import LfsFiles
from orchestrator.gitops.lfs_pointer import POINTER_BYTES_MAX, Pointer, parse_pointer
from orchestrator.gitops.objects import DamagedError, Objects
from orchestrator.gitops.program import Deadline
from orchestrator.units import format_size

LFS_PREFIX = "lfs-"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one commit may cost."""

    files: int = 20_000
    file_bytes: int = 8 * 2**30
    """Of one file, Git LFS included."""
    total_bytes: int = 16 * 2**30
    """Of all files that are taken of one commit at a time."""

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raise TOO_LARGE, naming the file, for sizes by path that are over a limit."""
        hint = "a repository holds manifests and the models that they name; keep the rest elsewhere"
        if len(sizes) > self.files:
            what = f"{len(sizes)} files are to be taken, more than {self.files}"
            raise OrchError(Kind.TOO_LARGE, what, hint=f"name the folder of the manifests: path; {hint}")
        for path, size in sizes.items():
            if size > self.file_bytes:
                what = f"the file {path!r} has {format_size(size)}, more than {format_size(self.file_bytes)}"
                raise OrchError(Kind.TOO_LARGE, what, hint=hint)
        total = sum(sizes.values())
        if total > self.total_bytes:
            largest = max(sizes, key=lambda path: sizes[path])
            what = (
                f"the files to be taken have {format_size(total)} together, more than {format_size(self.total_bytes)}; "
                f"the largest is {largest!r} with {format_size(sizes[largest])}"
            )
            raise OrchError(Kind.TOO_LARGE, what, hint=hint)


@dataclass(frozen=True, slots=True)
class Gathering:
    """One fetch into the contents that are kept."""

    checkouts: Checkouts
    objects: Objects
    deadline: Deadline
    limits: Limits

    def blobs(self, files: Mapping[str, str]) -> dict[str, Blob]:
        """Return the content of each path, given by its object id."""
        if len(files) > self.limits.files:
            self.limits.check(dict.fromkeys(files, 0))
        kept = self.checkouts.blobs()
        missing = sorted({object_id for object_id in files.values() if object_id not in kept})
        sizes = self._sizes(missing) if missing else {}
        sizes.update((name, blob.size) for name, blob in kept.items())
        self.limits.check({path: sizes[object_id] for path, object_id in files.items()})
        self.checkouts.space_for(sum(sizes[object_id] for object_id in missing))
        if missing:
            with contextlib.closing(self.objects.contents(missing, self.deadline)) as contents:
                for object_id, size, pieces in contents:
                    kept[object_id] = self.checkouts.write(Blob(object_id, size), pieces)
        return {path: kept[object_id] for path, object_id in files.items()}

    def _sizes(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the bytes of each object, after fetching those that the remote left out."""
        sizes = dict(self.objects.sizes(ids, self.deadline))
        absent = [each for each in ids if each not in sizes]
        if absent:
            self.objects.fetch_blobs(absent, self.deadline, self.limits.total_bytes)
            sizes.update(self.objects.sizes(absent, self.deadline))
        if len(sizes) < len(ids):
            raise DamagedError("objects are missing after they were fetched")
        return sizes

    def with_large_files(self, blobs: Mapping[str, Blob], lfs: LfsFiles) -> dict[str, Blob]:
        """Return the contents with each Git LFS pointer replaced by the file that it stands for."""
        pointers = self._pointers(blobs)
        self.limits.check(
            {path: blob.size for path, blob in blobs.items()} | {p: each.size for p, each in pointers.items()}
        )
        kept = self.checkouts.blobs()
        missing = {each: path for path, each in pointers.items() if LFS_PREFIX + each.sha256 not in kept}
        self.checkouts.space_for(sum(pointer.size for pointer in missing))
        for pointer, pieces in lfs.fetch(missing):
            name = LFS_PREFIX + pointer.sha256
            kept[name] = self.checkouts.write(Blob(name, pointer.size), pieces)
        return {**blobs, **{path: kept[LFS_PREFIX + each.sha256] for path, each in pointers.items()}}

    def _pointers(self, blobs: Mapping[str, Blob]) -> dict[str, Pointer]:
        found = {}
        read: dict[str, Pointer | None] = {}
        for path, blob in blobs.items():
            if blob.size <= POINTER_BYTES_MAX:
                if blob.name not in read:
                    read[blob.name] = parse_pointer(self.checkouts.read(blob))
                pointer = read[blob.name]
                if pointer is not None:
                    found[path] = pointer
        return found
