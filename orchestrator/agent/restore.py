"""Brings the state of an archive back: checked whole before anything is touched, and what was there is put aside."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter, ValidationError

from orchestrator.agent import process, state_file
from orchestrator.agent.backup import DATABASE, FOLDERS, FORMAT, INDEX, PIECE_BYTES, Entry, Index
from orchestrator.agent.paths import Layout
from orchestrator.agent.store import read_plan
from orchestrator.errors import Kind, OrchError

FILES_MAX = 20_000  # hundreds of models, each measured in many shapes
INDEX_BYTES_MAX = 16 * 2**20
BYTES_MAX = 4 * 2**30  # unpacked
READ_BYTES_MAX = 16 * 2**20  # in one go: tarfile reads extended headers whole
NAME = re.compile(rf"{re.escape(INDEX)}|{re.escape(DATABASE)}|({'|'.join(FOLDERS)})/[A-Za-z0-9][A-Za-z0-9._-]{{0,250}}")
TOO_LARGE = f"it unpacks to more than {FILES_MAX} files or {BYTES_MAX >> 30} GiB"
TAR = ".tar"  # no name that a member may have
HINT = "take another backup; nothing was changed"
RESTORED = "restored"  # in place of the boot in which a worker was started: none of now, so plans are made anew
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, KeyError, TypeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Restored:
    """What was brought back."""

    index: Index
    aside: Path | None
    """Where the state before lies; None where there was none."""


class _Bounded:
    """The unpacked bytes, of which nobody reads more than is allowed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= READ_BYTES_MAX:
            raise ValueError("a header that is too large")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def restore(layout: Layout, source: Path, stamp: str, now: float, *, force: bool) -> Restored:
    """Replace the state by that of an archive; the caller holds the lock of the state folder.

    Raise OrchError, having changed nothing: INVALID for what is no whole backup, CONFLICT where it is for a newer orch,
    where deployments serve, or where there is a state already and `force` is not given.
    """
    running = process.find(layout.workers)
    if running:
        names = ", ".join(sorted(folder.name for folder in running))
        hint = "end them first: orch agent stop --workers"
        raise OrchError(Kind.CONFLICT, f"deployments serve here: {names}", where=str(layout.root), hint=hint)
    if layout.database.exists() and not force:
        hint = "--force puts it aside and takes that of the backup"
        raise OrchError(Kind.CONFLICT, "there is a state already", where=str(layout.database), hint=hint)
    with tempfile.TemporaryDirectory(prefix="restore-", dir=layout.root) as folder:
        index = unpack(source, Path(folder))
        _adapt(Path(folder) / DATABASE, f"from {source.name} of {index.host}, made {index.created}", now)
        aside = _put_aside(layout, layout.root / f"before-restore-{stamp}")
        for name in (*FOLDERS, DATABASE):  # the database last: without it nothing was restored
            if (Path(folder) / name).exists():
                (Path(folder) / name).replace(layout.root / name)
    return Restored(index, aside)


def unpack(source: Path, folder: Path) -> Index:
    """Unpack an archive into an empty folder and check all of it; raise OrchError for anything odd."""
    try:
        _inflate(source, folder / TAR)
        index, found = None, dict[str, Entry]()
        with (folder / TAR).open("rb") as raw, tarfile.open(fileobj=_Bounded(raw), mode="r:") as archive:  # type: ignore[call-overload]
            for member in archive:
                _check_member(member, found)
                if member.name == INDEX:
                    index = _read_index(archive, member)
                found[member.name] = _extract(archive, member, folder / member.name)
    except OrchError as error:
        raise OrchError(error.kind, str(error), where=str(source), hint=HINT) from None
    except FileNotFoundError:
        raise OrchError(Kind.NOT_FOUND, "there is no such file", where=str(source)) from None
    except _DAMAGE as error:
        what = f"this is no whole backup of orch: {error or type(error).__name__}"
        raise OrchError(Kind.INVALID, what, where=str(source), hint=HINT) from None
    except OSError as error:
        what = f"the backup cannot be read: {error.strerror or error}"
        raise OrchError(Kind.FAILED, what, where=str(source), hint=HINT) from None
    (folder / TAR).unlink()
    found.pop(INDEX, None)
    _check(index, found, folder, source)
    assert index is not None, "it was checked"
    return index


def _inflate(source: Path, target: Path) -> None:
    """Unpack first: looking for the next member in a compressed file can mean to unpack it again from its start."""
    size = 0
    with gzip.open(source, "rb") as packed, target.open("xb") as file:
        while piece := packed.read(PIECE_BYTES):
            size += len(piece)
            if size > BYTES_MAX:
                raise OrchError(Kind.TOO_LARGE, TOO_LARGE)
            file.write(piece)


def _check_member(member: tarfile.TarInfo, found: Mapping[str, Entry]) -> None:
    if not member.isreg():
        raise OrchError(Kind.INVALID, f"{member.name!r} is a link or no file: such a backup was not made by orch")
    if not NAME.fullmatch(member.name):
        raise OrchError(Kind.INVALID, f"{member.name!r} is nothing that a backup of orch holds")
    if member.name in found:
        raise OrchError(Kind.INVALID, f"{member.name!r} is there twice")
    limit = INDEX_BYTES_MAX if member.name == INDEX else BYTES_MAX
    unpacked = member.size + sum(entry.bytes for entry in found.values())
    if member.size > limit or unpacked > BYTES_MAX or len(found) > FILES_MAX:
        raise OrchError(Kind.TOO_LARGE, TOO_LARGE)


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> Entry:
    target.parent.mkdir(mode=0o700, exist_ok=True)
    content, digest, size = archive.extractfile(member), hashlib.sha256(), 0
    assert content is not None, "a regular file has content"
    with target.open("xb") as file:
        target.chmod(0o600)
        while piece := content.read(PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
            file.write(piece)
    if size != member.size:
        raise OrchError(Kind.INVALID, f"{member.name!r} is cut off")
    return Entry(member.name, size, digest.hexdigest())


def _read_index(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Index:
    content = archive.extractfile(member)
    assert content is not None, "a regular file has content"
    data = json.loads(content.read())
    if isinstance(data, dict) and data.get("format") != FORMAT:
        raise OrchError(Kind.CONFLICT, f"a newer orch made this backup: format {data.get('format')!r}, not {FORMAT}")
    try:
        index = TypeAdapter(Index).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise OrchError(Kind.INVALID, f"its {INDEX} is none: {place}: {first['msg']}") from None
    told = (index.orch, index.created, index.host, *(each.path for each in index.references))
    if not all(text.isprintable() for text in told):  # they are shown on a terminal
        raise OrchError(Kind.INVALID, f"its {INDEX} holds what no terminal should be shown")
    return index


def _check(index: Index | None, found: Mapping[str, Entry], folder: Path, source: Path) -> None:
    """Raise OrchError unless the files are those of the index, byte by byte, and the state is one that orch made."""
    if index is None:
        raise OrchError(Kind.INVALID, f"this is no backup of orch: it has no {INDEX}", where=str(source), hint=HINT)
    listed = {entry.name: entry for entry in index.files}
    wrong = sorted({name for name in {*listed, *found} if listed.get(name) != found.get(name)})
    if wrong or DATABASE not in found:
        what = f"not as it was when it was made: {', '.join(wrong[:5]) or f'no {DATABASE}'}"
        raise OrchError(Kind.INVALID, what, where=str(source), hint=HINT)
    database = folder / DATABASE
    version = state_file.checked(database)
    if version > state_file.NEWEST or version != index.state:
        what = f"it holds a state of version {version}, and this orch reads up to {state_file.NEWEST}"
        raise OrchError(Kind.CONFLICT, what, where=str(source), hint="restore it with the orch that made it, or newer")
    with state_file.reading(database) as connection:
        if not version or state_file.schema_of(connection) != state_file.expected_schema(version):
            raise OrchError(Kind.INVALID, "its state is none that orch made", where=str(source), hint=HINT)
        for plan in connection.execute("SELECT desired FROM deployments UNION SELECT applied FROM deployments"):
            _check_plan(plan[0], source)


def _check_plan(text: str | None, source: Path) -> None:
    """Raise CONFLICT for a plan that the agent could not read."""
    try:
        if text is not None:
            read_plan(text)
    except OrchError as error:
        hint = "restore it with the orch that made it, or newer"
        raise OrchError(error.kind, error.problems[0].what, where=str(source), hint=hint) from None


def _adapt(database: Path, origin: str, now: float) -> None:
    """Take back what held only where the backup was made: processes, and what sources have checked out there."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT OR REPLACE INTO workers (deployment, pid, ticks, boot, slot, generation, restarts, started,"
            " events_seen) SELECT name, 0, 0, ?, 0, generation, -1, ?, 0 FROM deployments",
            (RESTORED, now),
        )
        connection.execute(
            "INSERT INTO events (time, deployment, type, reason, object, message)"
            " SELECT ?, name, 'Normal', 'Restored', name, ? FROM deployments",
            (now, origin),
        )
        if "sources" in state_file.tables(connection):
            connection.execute("UPDATE sources SET state = '{}'")


def _put_aside(layout: Layout, aside: Path) -> Path | None:
    names = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", *FOLDERS)
    present = [layout.root / name for name in names if (layout.root / name).exists()]
    if not present:
        return None
    aside.mkdir(mode=0o700)
    for path in present:
        path.replace(aside / path.name)
    return aside
