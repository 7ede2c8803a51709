"""A remote repository as an agent sees it: its head, and each commit of it as a read-only folder.

Every call blocks, has a deadline (`GitRemote.timeout_s`), and belongs into a thread. What is wrong is an OrchError
with a hint, and no text ever holds a credential:

    UNAVAILABLE, DEADLINE       the remote is gone or slow, or this machine's disk is full: try again later
    UNAUTHORIZED                the remote wants another token or key
    NOT_FOUND                   there is no such repository, branch, commit or path
    INVALID, TOO_LARGE          the commit breaks a rule (not signed by an allowed signer, a link that leads out, over a
                                limit), or the remote is described wrongly: not to be tried again before a change
    UNSUPPORTED                 this machine lacks the git program, or ssh
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops.checkouts import Blob, Checkouts, NoRoomError, Record
from orchestrator.gitops.gathering import Gathering, Limits
from orchestrator.gitops.hardening import (
    Credentials,
    check,
    checked_address,
    checked_branch,
    checked_folder,
    read_token,
    reading,
)
from orchestrator.gitops.lfs import LfsFiles
from orchestrator.gitops.objects import DamagedError, Objects, check_commit_id
from orchestrator.gitops.program import Deadline
from orchestrator.gitops.tree import LINK_BYTES_MAX, LINK_MODE, LINKS_MAX, Taken, Tree, parse_listing

TIMEOUT_S = 60.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GitRemote:
    """Where a repository is, what of it is wanted, and what opens it."""

    url: str
    """https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, file:///PATH or /PATH; never with a secret."""
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


class Repository:
    """One remote and what was fetched of it, in a folder that is its own. Not for two threads at a time."""

    def __init__(self, folder: Path, remote: GitRemote, limits: Limits | None = None) -> None:
        self._remote = remote
        self._limits = limits or Limits()
        self._checkouts = Checkouts(folder)
        self._folder = folder

    def head(self) -> str:
        """Return the commit id that the branch has at the remote now; nothing is fetched."""
        branch = None if self._remote.branch is None else checked_branch(self._remote.branch)
        return self._objects().head(branch, self._deadline())

    def fetch(self, commit_id: str) -> Checkout:
        """Return the commit's checkout, fetched where it is not there: everything in `GitRemote.path`.

        What manifests name elsewhere in the repository (`../models/x.onnx`) is added by `bring`.
        """
        check_commit_id(commit_id)
        record = self._checkouts.find(commit_id)
        if record is None or not self._fits(record):
            record = self._repairing(partial(self._fetch, commit_id, record))
        return self._checkout(commit_id, record)

    def bring(self, checkout: Checkout, paths: Iterable[str]) -> tuple[str, ...]:
        """Add files or whole folders of the commit to its checkout; return which of `paths` the commit has.

        Paths are relative to `checkout.root`, without `..`. What is there already costs nothing; what the commit does
        not have is passed over; links are followed to what they name. Git LFS pointers become the files they stand for.
        """
        wanted = [checked_folder(path) for path in paths]
        if all(os.path.lexists(checkout.root / path) and not (checkout.root / path).is_dir() for path in wanted):
            return tuple(wanted)
        return self._repairing(partial(self._bring, checkout.commit.id, wanted))

    def known(self, commit_id: str) -> Commit:
        """Return what is known of a commit without asking the remote, also of one that `fetch` refused."""
        author, when, subject = "", 0.0, ""
        with contextlib.suppress(OrchError, DamagedError):
            author, when, subject = self._objects().about(check_commit_id(commit_id), self._deadline())
        return Commit(commit_id, author, when, subject)

    def authored(self, checkout: Checkout, file: Path, line: int) -> Commit:
        """Return who last touched that line, as far as is known: the fetched history is one commit deep."""
        del file, line
        return checkout.commit

    def keep(self, ids: Collection[str]) -> None:
        """Remove the checkouts of all other commits, and what only they needed."""
        self._objects().tidy(self._checkouts.keep(ids))

    def _objects(self) -> Objects:
        remote = self._remote
        address = checked_address(remote.url)
        credentials = Credentials(
            remote.token_file, remote.ssh_key_file, remote.known_hosts_file, remote.allowed_signers_file
        )
        check(address, credentials)
        read_token(remote.token_file)
        return Objects(self._folder, address, credentials)

    def _deadline(self) -> Deadline:
        return Deadline.of(self._remote.timeout_s)

    def _repairing(self, action: Callable[[Objects, Deadline], T]) -> T:
        """Act; where our own repository turns out to be damaged, throw it away and act once more."""
        objects, deadline = self._objects(), self._deadline()
        try:
            return action(objects, deadline)
        except DamagedError:
            objects.discard()
        except NoRoomError:
            objects.discard()  # else what came in vain would fill the disk for ever
            raise
        try:
            return action(objects, deadline)
        except DamagedError as error:
            objects.discard()
            raise OrchError(Kind.UNAVAILABLE, f"git failed twice: {error}", where=str(self._folder)) from None

    def _wanted(self) -> dict[str, str | float]:
        """Return what a checkout is made for: which folder, and whom to believe."""
        signers = self._remote.allowed_signers_file
        with reading(signers):
            believed = "" if signers is None else hashlib.sha256(signers.read_bytes()).hexdigest()
        return {"path": checked_folder(self._remote.path), "signers": believed}

    def _fits(self, record: Record) -> bool:
        return all(record.about.get(key) == value for key, value in self._wanted().items())

    def _fetch(self, commit_id: str, record: Record | None, objects: Objects, deadline: Deadline) -> Record:
        wanted = self._wanted()
        objects.fetch_commit(commit_id, deadline, self._limits.total_bytes)
        if self._remote.allowed_signers_file is not None:
            objects.verify(commit_id, deadline)
        path = str(wanted["path"])
        tree = self._tree(commit_id, objects, deadline)
        if not tree.has_folder(path):
            what = f"the commit {commit_id[:12]} has no folder {path!r}"
            raise OrchError(Kind.NOT_FOUND, what, where=self._remote.url, hint="check path, and what was pushed")
        files, links = self._files(tree.take([path]), objects, deadline)
        author, when, subject = objects.about(commit_id, deadline)
        about = {"author": author, "time": when, "subject": subject, **wanted}
        if record is None:
            self._checkouts.place(commit_id, files, links, about)
        else:  # for another folder or other signers; what uses it goes on using it
            self._checkouts.add(commit_id, files, links, about)
        return Record(about, {}, {})

    def _bring(self, commit_id: str, paths: Sequence[str], objects: Objects, deadline: Deadline) -> tuple[str, ...]:
        objects.fetch_commit(commit_id, deadline, self._limits.total_bytes)
        tree = self._tree(commit_id, objects, deadline)
        found = tuple(path for path in paths if tree.has(path))
        files, links = self._files(tree.take(found), objects, deadline)
        self._checkouts.add(commit_id, files, links, None)
        return found

    def _tree(self, commit_id: str, objects: Objects, deadline: Deadline) -> Tree:
        entries = parse_listing(objects.listing(commit_id, deadline))
        links = {entry.path: entry.object_id for entry in entries if entry.mode == LINK_MODE}
        limits = Limits(LINKS_MAX, LINK_BYTES_MAX, LINKS_MAX * LINK_BYTES_MAX)
        blobs = Gathering(self._checkouts, objects, deadline, limits).blobs(links)
        return Tree(entries, {path: os.fsdecode(self._checkouts.read(blob)) for path, blob in blobs.items()})

    def _files(self, taken: Taken, objects: Objects, deadline: Deadline) -> tuple[dict[str, Blob], Mapping[str, str]]:
        gathering = Gathering(self._checkouts, objects, deadline, self._limits)
        blobs = gathering.blobs(taken.files)
        address, token = checked_address(self._remote.url), read_token(self._remote.token_file)
        lfs = LfsFiles(address, token, objects.ssh, deadline)
        return gathering.with_large_files(blobs, lfs), taken.links

    def _checkout(self, commit_id: str, record: Record) -> Checkout:
        about = record.about
        commit = Commit(commit_id, str(about["author"]), float(about["time"]), str(about["subject"]))
        root = self._checkouts.root(commit_id)
        return Checkout(commit, root, root / checked_folder(self._remote.path))
