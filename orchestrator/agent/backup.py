"""Writes the state of an agent into one archive, which can be done while it runs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.agent import state_file
from orchestrator.agent.paths import Layout
from orchestrator.agent.store import too_new
from orchestrator.errors import Kind, OrchError

FORMAT = 1
INDEX = "orch-backup.json"
DATABASE = "state.db"
FOLDERS = ("decisions", "profiles")  # beside the database: what was measured, and what was decided from it
PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the archive."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A file that the state names and the archive leaves out: models are large, and keys and tokens secret."""

    deployment: str
    """Of which deployment; of a source `source/NAME`."""
    what: str
    """The field that names it: source, token_file, ..."""
    path: str


@dataclass(frozen=True, slots=True)
class Index:
    """What an archive holds, and what it was made from."""

    format: int
    orch: str
    state: int
    """Version of the state file."""
    created: str
    host: str
    deployments: tuple[str, ...]
    files: tuple[Entry, ...]
    references: tuple[Reference, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Made:
    """By whom, when and where an archive is made."""

    orch: str
    created: str
    """RFC 3339."""
    host: str


def write(layout: Layout, target: Path, made: Made) -> Index:
    """Write the archive (0600, by staging and replacing) and return what is in it; raise OrchError when that fails."""
    if not layout.database.exists():
        what = "there is no state to back up"
        raise OrchError(Kind.NOT_FOUND, what, where=str(layout.root), hint="set ORCH_HOME to the agent's state folder")
    try:
        with tempfile.TemporaryDirectory(prefix="backup-", dir=layout.root) as folder:
            names = _collect(layout, Path(folder))
            index = _index(layout, Path(folder), names, made)
            _write_archive(Path(folder), index, target)
    except OSError as error:
        hint = "name a file in a folder with room that this user may write"
        what = f"the backup cannot be written: {error.strerror or error}"
        raise OrchError(Kind.FAILED, what, where=str(target), hint=hint) from None
    return index


def _collect(layout: Layout, folder: Path) -> list[str]:
    """Copy what is to be kept, so that it holds still, and return the names."""
    state_file.copy(layout.database, folder / DATABASE)
    names = [DATABASE]
    for path in _beside(layout):
        name = f"{path.parent.name}/{path.name}"
        (folder / name).parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # replaced or forgotten in this moment
            shutil.copyfile(path, folder / name)
            names.append(name)
    return names


def _index(layout: Layout, folder: Path, names: Sequence[str], made: Made) -> Index:
    database = folder / DATABASE
    version = state_file.checked(database)
    if version > state_file.NEWEST:
        raise too_new(layout.database, version)
    with state_file.reading(database) as connection:
        deployments = [row[0] for row in connection.execute("SELECT name FROM deployments ORDER BY name")]
        # What a source has checked out it fetches again.
        fetched = str(layout.sources) + "/"
        references = tuple(each for each in _references(connection) if not each.path.startswith(fetched))
    files = tuple(_entry(name, folder / name) for name in names)
    return Index(FORMAT, made.orch, version, made.created, made.host, tuple(deployments), files, references)


def _beside(layout: Layout) -> list[Path]:
    """Return the files of the folders that go along."""
    found = [path for folder in FOLDERS for path in sorted((layout.root / folder).glob("*"))]
    return [path for path in found if path.is_file() and not path.is_symlink() and not path.name.endswith(".tmp")]


def _entry(name: str, path: Path) -> Entry:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
    return Entry(name, size, digest.hexdigest())


def _references(connection: sqlite3.Connection) -> Iterator[Reference]:
    """Yield the files that plans and sources name, each once."""
    seen: dict[Reference, None] = {}
    for name, desired, applied in connection.execute("SELECT name, desired, applied FROM deployments ORDER BY name"):
        for plan in (json.loads(text) for text in (desired, applied) if text):
            seen.update(dict.fromkeys(Reference(name, "source", path) for path in _model_files(plan)))
            seen.update(dict.fromkeys(Reference(name, what, path) for what, path in paths_in(plan.get("endpoint"))))
    if "sources" in state_file.tables(connection):
        for name, spec in connection.execute("SELECT name, spec FROM sources ORDER BY name"):
            found = (Reference(f"source/{name}", what, path) for what, path in paths_in(json.loads(spec)))
            seen.update(dict.fromkeys(found))
    yield from seen


def _model_files(plan: dict[str, Any]) -> Iterator[str]:
    for model in plan.get("models", ()):
        yield model["source"]
        if model.get("weights_sha256"):
            yield str(Path(model["source"]).with_suffix(".bin"))


def paths_in(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield each absolute path within plain values, with the name of its field."""
    if isinstance(value, dict):
        for name, inner in sorted(value.items()):
            yield from paths_in(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from paths_in(inner, key)
    elif isinstance(value, str) and value.startswith("/"):
        yield key, value


def _write_archive(folder: Path, index: Index, target: Path) -> None:
    staged = target.with_name(target.name + ".new")
    # 0600: manifests may say more of a site than others should know.
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            _add_text(archive, INDEX, json.dumps(index.to_json(), indent=1))
            for entry in index.files:
                _add(archive, entry.name, folder / entry.name)
        staged.replace(target)
    finally:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    member = _member(name, len(data))
    archive.addfile(member, io.BytesIO(data))


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    with path.open("rb") as file:
        archive.addfile(_member(name, path.stat().st_size), file)


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Return a header that says nothing of who made it when: equal states make equal members."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def missing(references: Sequence[Reference]) -> tuple[Reference, ...]:
    """Return those whose files are not on this machine."""
    return tuple(each for each in references if not Path(each.path).exists())
