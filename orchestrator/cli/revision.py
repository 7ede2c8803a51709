"""Reads files as a Git revision has them, without checking anything out: no hook, filter or download runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from orchestrator.errors import Kind, OrchError

TIMEOUT_S = 60.0  # of one git command
READING_MAX_S = 600.0  # of all files together; models of gigabytes may be among them
CHUNK = 2**20
_GIT = ("git", "--no-replace-objects", "-c", "core.fsmonitor=false")
_ENVIRON = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
_LINKED = (b"symlink", b"dangling", b"loop", b"notdir")  # how cat-file answers for links that it does not follow


class Revision:
    """One commit of the repository around a folder, open for reading."""

    def __init__(self, root: Path, commit: str, process: subprocess.Popen[bytes]) -> None:
        self.root = root
        """Top of the working tree."""
        self.commit = commit
        self._process = process

    def listed(self, folder: Path) -> list[Path]:
        """Return what lies directly in a folder, as absolute paths; nothing where the revision has no such folder."""
        inside = self._inside(folder)
        if inside is None:
            return []
        below = [] if inside == PurePosixPath() else [f"{inside}/"]
        names = _git(self.root, "ls-tree", "-z", "--full-tree", "--name-only", self.commit, *below).split(b"\0")
        return [self.root / os.fsdecode(name) for name in names if name]

    def read(self, path: Path) -> Iterator[bytes] | None:
        """Return the content of a regular file in pieces, to be read to the end; None where there is none."""
        inside = self._inside(path)
        # A name with a line end cannot be asked for, and no manifest is called so.
        if inside is None or "\n" in str(inside):
            return None
        asked, answers = _pipes(self._process)
        try:
            asked.write(os.fsencode(f"{self.commit}:{inside}\n"))
            asked.flush()
        except BrokenPipeError:
            raise _ended() from None
        head = answers.readline()
        if head.endswith((b" missing\n", b" ambiguous\n")):
            return None
        words = head.split()
        if not words:
            raise _ended()
        content = _pieces(answers, int(words[-1]))
        if words[0] in _LINKED or words[1] != b"blob":
            list(content)
            return None
        return content

    def _inside(self, path: Path) -> PurePosixPath | None:
        """Return the path from the repository's top, None for one outside of it."""
        try:
            return PurePosixPath(os.path.normpath(path)).relative_to(self.root.as_posix())
        except ValueError:
            return None


@contextlib.contextmanager
def revision(name: str, folder: Path) -> Iterator[Revision]:
    """Open a revision of the repository around the folder; raise OrchError for what is none."""
    try:
        root = Path(os.fsdecode(_git(folder, "rev-parse", "--show-toplevel").rstrip(b"\n")))
    except OrchError as error:
        what = f"is no folder, and {folder} is in no Git repository that could have such a revision"
        raise OrchError(Kind.INVALID, f"{what}: {error}", where=name) from None
    commit = _commit(root, name)
    command = [*_GIT, "cat-file", "--batch", "--follow-symlinks"]
    with subprocess.Popen(
        command,
        cwd=root,
        env=os.environ | _ENVIRON,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        guard = threading.Timer(READING_MAX_S, process.kill)
        guard.start()
        try:
            yield Revision(root, commit, process)
        finally:
            guard.cancel()
            process.kill()  # it only reads


def _commit(root: Path, name: str) -> str:
    try:
        found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except OrchError:
        hint = "fetch it first (git fetch origin BRANCH), or check out the whole history (fetch-depth: 0)"
        what = "is neither a folder nor a revision of this Git repository"
        raise OrchError(Kind.NOT_FOUND, what, where=name, hint=hint) from None
    return found.decode().strip()


def _git(folder: Path, *arguments: str) -> bytes:
    """Return what a git command prints; raise OrchError where it fails."""
    try:
        done = subprocess.run(
            [*_GIT, *arguments],
            cwd=folder,
            env=os.environ | _ENVIRON,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise OrchError(Kind.UNSUPPORTED, "the program git is not installed", hint="install git") from None
    except subprocess.TimeoutExpired:
        raise OrchError(Kind.DEADLINE, f"git {arguments[0]} took longer than {TIMEOUT_S:g} s") from None
    if done.returncode:
        raise OrchError(Kind.FAILED, _said(done.stderr) or f"git {arguments[0]} exited {done.returncode}")
    return done.stdout


def _said(stderr: bytes) -> str:
    lines: Sequence[str] = stderr.decode(errors="replace").strip().splitlines()
    return lines[0].removeprefix("fatal: ")[:300] if lines else ""


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _pieces(answers: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield an object's content, and leave the stream at the next answer."""
    while size:
        piece = answers.read(min(size, CHUNK))
        if not piece:
            raise _ended()
        size -= len(piece)
        yield piece
    answers.read(1)  # the line end behind it


def _ended() -> OrchError:
    hint = "look whether the repository is whole: git fsck"
    return OrchError(Kind.FAILED, "git ended while it was read from", hint=hint)
