"""A remote repository as an agent sees it: its head, and each commit of it as a read-only folder.

Every call blocks, has a deadline (`GitRemote.timeout_s`), and belongs into a thread. What is wrong is an OrchError
with a hint, and no text ever holds a credential:

    UNAVAILABLE, DEADLINE       the remote is gone or slow, or this machine's disk is full: try again later
    UNAUTHORIZED                the remote wants another token or key
    NOT_FOUND                   there is no such repository, branch, commit or path
    INVALID, TOO_LARGE          the commit breaks a rule (not signed by an allowed signer, a link that leads out, over a
                                limit), or the remote is described wrongly: not to be tried again until something changed
    UNSUPPORTED                 this machine lacks the git program, or ssh
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class GitRemote:
    """Where a repository is, what of it is wanted, and what opens it."""

    url: str
    """https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, file:///PATH or /PATH; never with a password or token."""
    branch: str | None = None
    """None: the one that the remote's HEAD names."""
    path: str = "."
    """Folder in the repository that holds the manifests; `.` is the whole."""
    token_file: Path | None = None
    """One line: TOKEN or USER:TOKEN, for https."""
    ssh_key_file: Path | None = None
    known_hosts_file: Path | None = None
    """None: ssh's own files. A host that is in neither is refused, always."""
    allowed_signers_file: Path | None = None
    """As ssh-keygen reads it; set: only commits signed by one of them."""
    timeout_s: float = TIMEOUT_S
    """Of each call."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit; its texts hold no control characters and are cut to a line."""

    id: str
    author: str
    """`Name <mail>`; empty for a folder."""
    time: float
    """Seconds since 1970 when it was authored."""
    subject: str


@dataclass(frozen=True, slots=True)
class Checkout:
    """A commit's files; one folder per commit, read only, not changed afterwards except that `bring` adds files."""

    commit: Commit
    root: Path
    """The repository's own root: what stands in it stands where the repository has it."""
    folder: Path
    """`root` / GitRemote.path; the manifests are here."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one commit may cost."""

    files: int = 20_000
    file_bytes: int = 8 * 2**30
    """Of one file, Git LFS included."""
    total_bytes: int = 16 * 2**30
    """Of all files that are taken of one commit."""


class Repository:
    """One remote and what was fetched of it, in a folder that is its own. Not for two threads at a time."""

    def __init__(self, folder: Path, remote: GitRemote, limits: Limits | None = None) -> None:
        self._folder = folder
        self._remote = remote
        self._limits = limits or Limits()

    def head(self) -> str:
        """Return the commit id that the branch has at the remote now; nothing is fetched."""
        raise NotImplementedError

    def fetch(self, commit_id: str) -> Checkout:
        """Return the commit's checkout, fetched where it is not there: everything in `GitRemote.path`.

        What manifests name elsewhere in the repository (`../models/x.onnx`) is added by `bring`.
        """
        raise NotImplementedError

    def bring(self, checkout: Checkout, paths: Iterable[str]) -> tuple[str, ...]:
        """Add files or whole folders of the commit to its checkout; return which of `paths` the commit has.

        Paths are relative to `checkout.root`, without `..`. What is there already costs nothing; what the commit does
        not have is passed over; links are followed to what they name. Git LFS pointers become the files they stand for.
        """
        raise NotImplementedError

    def authored(self, checkout: Checkout, file: Path, line: int) -> Commit:
        """Return who last touched that line, as far as is known: the fetched history is one commit deep."""
        raise NotImplementedError

    def keep(self, ids: Collection[str]) -> None:
        """Remove the checkouts of all other commits, and what only they needed."""
        raise NotImplementedError
