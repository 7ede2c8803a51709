"""Reads the texts that a command line names: files, folders and standard input, each within its limits."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.manifest import source

STDIN = "-"
STDIN_NAME = "<stdin>"
FILES_MAX = 10_000  # manifests in one command; a folder with more is not a folder of manifests
SUFFIXES = (".yaml", ".yml")
LOCK_SUFFIXES = (".lock.yaml", ".lock.yml")


@dataclass(frozen=True, slots=True)
class Text:
    """One text as it was read; `name` is what errors call it, `base` the folder its relative paths start from."""

    name: str
    text: str
    path: Path | None
    base: Path


def read_all(
    paths: Sequence[str], *, stdin: TextIO | BinaryIO | None, base: Path | None
) -> tuple[list[Text], list[Problem]]:
    """Return every text that could be read, each once, and a problem for each that could not."""
    texts: list[Text] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for name, attempt in _named(paths, problems):
        key = STDIN if attempt is None else os.path.realpath(attempt)
        if key in seen:  # the same file named twice, or by itself and through its folder
            continue
        seen.add(key)
        if len(seen) > FILES_MAX:
            problems.append(Problem(f"more than {FILES_MAX} files are named", name))
            break
        try:
            texts.append(_stdin(stdin, base) if attempt is None else _file(name, attempt))
        except OrchError as error:
            problems.extend(error.problems)
    return texts, problems


def _named(paths: Iterable[str], problems: list[Problem]) -> Iterator[tuple[str, Path | None]]:
    for name in paths:
        if name == STDIN:
            yield STDIN_NAME, None
        elif "\0" in name or not name:
            problems.append(Problem(f"is not a file name: {name!r}", "argument"))
        elif os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises for some names that isdir answers False for
            yield from _folder(name, problems)
        else:
            yield name, Path(name)


def _folder(name: str, problems: list[Problem]) -> Iterator[tuple[str, Path | None]]:
    try:
        with os.scandir(name) as entries:
            found = sorted(entry.name for entry in entries if _is_manifest(entry))
    except OSError as error:
        problems.append(Problem(f"cannot read the folder: {error.strerror}", name))
        return
    if not found:
        problems.append(Problem("the folder holds no manifest", name, "manifests are called *.yaml or *.yml"))
    for entry in found:
        path = Path(name, entry)
        yield str(path), path


def is_manifest(name: str) -> bool:
    """Tell whether a file in a folder is a manifest by its name."""
    return name.endswith(SUFFIXES) and not name.endswith(LOCK_SUFFIXES) and not name.startswith(".")


def _is_manifest(entry: os.DirEntry[str]) -> bool:
    if not is_manifest(entry.name):
        return False
    return not os.path.isdir(entry.path)  # noqa: PTH112 - entry.is_dir raises for a loop of links


def _file(name: str, path: Path) -> Text:
    try:
        # Without O_NONBLOCK opening a FIFO would wait for a writer that may never come.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    try:
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                hint = "pipe it into standard input and name -"
                raise OrchError(Kind.INVALID, "is not a regular file", where=name, hint=hint)
            if status.st_size > source.BYTES_MAX:
                raise source.too_large(name, status.st_size)
            data = file.read(source.BYTES_MAX + 1)
    except OSError as error:
        raise _unreadable(name, error) from None
    absolute = path.absolute()
    return Text(name, source.decode(data, name), absolute, absolute.parent)


def _unreadable(name: str, error: OSError | ValueError) -> OrchError:
    if isinstance(error, FileNotFoundError):
        return OrchError(Kind.INVALID, "there is no such file", where=name)
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return OrchError(Kind.INVALID, f"cannot be read: {reason}", where=name)


def _stdin(stdin: TextIO | BinaryIO | None, base: Path | None) -> Text:
    if stdin is None:
        raise OrchError(Kind.INVALID, "there is no standard input to read", where=STDIN_NAME)
    stream = getattr(stdin, "buffer", stdin)
    try:
        data = stream.read(source.BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(STDIN_NAME, error) from None
    text = source.decode(data if isinstance(data, bytes) else data.encode("utf-8", "replace"), STDIN_NAME)
    return Text(STDIN_NAME, text, None, (base or Path.cwd()).absolute())
