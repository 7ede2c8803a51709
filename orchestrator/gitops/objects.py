"""Our own bare repository of a remote: fetched into and read from by the git program, never checked out by it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops import failures, hardening
from orchestrator.gitops.checkouts import NoRoomError, disk, no_room, room_in
from orchestrator.gitops.program import Deadline, Ended, Running, need, run
from orchestrator.manifest.git_address import GitAddress, Transport
from orchestrator.units import format_size

HEADS_BYTES_MAX = 64 * 1024
SSH_BYTES_MAX = 1024 * 1024
STORE_BYTES_MAX = 64 * 2**20  # of what git keeps beside the files of the checkouts
PACKS_MAX = 60  # each fetch makes two or three, and git looks into all of them
KEPT_REF = "refs/orch/"
CUT_OFF = "File too large"  # as git says it of a file over the limit that it runs under
_COMMIT_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FORMATS = {40: "sha1", 64: "sha256"}


class DamagedError(Exception):
    """The repository on this machine cannot be read: it is thrown away, and fetched anew."""


def check_commit_id(commit_id: str) -> str:
    """Return the id; raise INVALID for what is none, which git might take for an option or another name."""
    if _COMMIT_ID.fullmatch(commit_id) is None:
        hint = "write all of its 40 or 64 hexadecimal digits"
        raise OrchError(Kind.INVALID, f"is not the id of a commit: {commit_id[:80]!r}", hint=hint)
    return commit_id


class Objects:
    """The commits, trees and blobs that were fetched of one remote; `home` is a folder of our own."""

    def __init__(self, home: Path, address: GitAddress, credentials: hardening.Credentials) -> None:
        self._home = home
        self._store = home / "git"
        self._whole = home / "whole"
        self._address = address
        self._credentials = credentials

    # At the remote

    def head(self, branch: str | None, deadline: Deadline) -> str:
        """Return the id of the branch's commit at the remote; raise NOT_FOUND where there is no such branch."""
        name = "HEAD" if branch is None else f"refs/heads/{branch}"
        ended = self._git(["ls-remote", "--quiet", "origin", name], deadline, out_max=HEADS_BYTES_MAX, store=False)
        for line in ended.out.decode("utf-8", "replace").splitlines():
            commit_id, _, ref = line.partition("\t")
            if ref == name and _COMMIT_ID.fullmatch(commit_id):
                return commit_id
        what = "the remote is empty" if branch is None else f"the remote has no branch {branch!r}"
        raise OrchError(Kind.NOT_FOUND, what, where=self._address.url, hint="check the branch; what runs goes on")

    def fetch_commit(self, commit_id: str, deadline: Deadline, file_max: int) -> None:
        """Fetch the commit and its trees where they are not there; the remote leaves out blobs, if it can."""
        self._prepare(commit_id)
        if self._git(["cat-file", "-e", commit_id + "^{tree}"], deadline, check=False).status == 0:
            return
        left_out = [] if self._whole.exists() else ["--filter=blob:none"]
        fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--depth=1", *left_out, "origin"]
        ended = self._fetch([*fetch, f"+{commit_id}:{KEPT_REF}{commit_id}"], deadline, file_max)
        self._checked(ended, True)
        if "filtering not recognized" in ended.err:
            self._sends_all("the remote leaves no blobs out")

    def fetch_blobs(self, ids: Sequence[str], deadline: Deadline, file_max: int) -> None:
        """Fetch blobs that the remote left out, as git itself fetches those of a partial clone."""
        noop = ["-c", "fetch.negotiationAlgorithm=noop"]
        fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--filter=blob:none", "--stdin", "origin"]
        ended = self._fetch([*noop, *fetch], deadline, file_max, stdin=_lines(ids))
        if "unadvertised object" in ended.err:  # protocol 0, as over ssh where sshd passes on no GIT_PROTOCOL
            self._sends_all("the remote leaves blobs out, and does not send them afterwards")
            raise DamagedError("the remote does not send single blobs")
        self._checked(ended, True)

    def _fetch(self, words: Sequence[str], deadline: Deadline, file_max: int, *, stdin: bytes = b"") -> Ended:
        """Fetch no more than the disk has room for: how much comes is not known before. Raise NoRoomError."""
        room = room_in(self._home)
        if room <= 0:
            raise no_room(self._home, "a commit to be fetched", room)
        ended = self._git(words, deadline, stdin=stdin, file_max=min(file_max, room), check=False)
        if ended.status != 0 and room < file_max and CUT_OFF in ended.err:
            raise no_room(self._home, f"more than {format_size(room)} to be fetched", room)
        return ended

    # On this machine

    def verify(self, commit_id: str, deadline: Deadline) -> None:
        """Raise INVALID unless an allowed signer signed the commit."""
        ended = self._git(["verify-commit", "--raw", commit_id], deadline, check=False)
        if ended.status == 0 and re.search(r'^Good "git" signature for ', ended.err, re.MULTILINE):
            return
        hint = f"sign it with a key that {self._credentials.allowed_signers_file} lists, or add the signer there"
        raise OrchError(Kind.INVALID, f"the commit {commit_id[:12]} {_unsigned(ended.err)}", hint=hint)

    def about(self, commit_id: str, deadline: Deadline) -> tuple[str, float, str]:
        """Return author, time and subject as they may be shown."""
        ended = self._git(["log", "-1", "--no-show-signature", "--format=%an <%ae>%x00%at%x00%s", commit_id], deadline)
        author, when, subject = ended.out.decode("utf-8", "replace").split("\0", 2)
        seconds = float(when) if when.isdigit() and len(when) < 12 else 0.0
        return failures.shown(author), seconds, failures.shown(subject)

    def listing(self, commit_id: str, deadline: Deadline) -> bytes:
        """Return what the commit holds, as tree.parse_listing reads it."""
        return self._git(["ls-tree", "-r", "-z", "--full-tree", commit_id], deadline).out

    def sizes(self, ids: Iterable[str], deadline: Deadline) -> Mapping[str, int]:
        """Return the bytes of the objects that are here."""
        wanted = set(ids)
        # Asked for one that is not here, git would fetch it by itself, or end.
        ended = self._git(["cat-file", "--batch-check", "--batch-all-objects", "--unordered"], deadline)
        found = (line.split(" ") for line in ended.out.decode("ascii", "replace").splitlines())
        return {words[0]: int(words[2]) for words in found if words[0] in wanted}

    def contents(
        self, ids: Sequence[str], deadline: Deadline
    ) -> Generator[tuple[str, int, Iterator[bytes]], None, None]:
        """Yield id, bytes and content of each object in turn; a content is read before the next one is asked for."""
        running = self._running(["cat-file", "--batch"], deadline, stdin=_lines(ids))
        with running:
            stream = _Stream(running.pieces())
            for object_id in ids:
                words = stream.line().split(" ")
                if len(words) != 3 or words[0] != object_id:
                    raise DamagedError(f"git has no object {object_id}")
                size = int(words[2])
                yield object_id, size, stream.take(size)
                stream.line()

    def tidy(self, kept: int) -> None:
        """Throw the repository away where it has grown; `kept` are the bytes of all files that are needed.

        Git never gives back what came of a partial clone, and the contents that are needed are kept elsewhere.
        """
        files = [Path(folder, name) for folder, _, names in os.walk(self._store) for name in names]
        size, packs = sum(file.lstat().st_size for file in files), sum(file.suffix == ".pack" for file in files)
        # What a remote sends all at once it would all send again.
        if size > max(STORE_BYTES_MAX, 2 * kept if self._whole.exists() else 0) or packs > PACKS_MAX:
            self.discard()

    def _sends_all(self, why: str) -> None:
        """Remember that this remote is fetched from as a whole."""
        with disk(self._home):
            self._whole.write_text(why + "\n")

    def discard(self) -> None:
        """Throw the repository away; the next fetch makes it anew."""
        old = self._home / "git.old"
        shutil.rmtree(old, ignore_errors=True)
        if self._store.exists():
            self._store.rename(old)  # at once: a git that outlived its agent then writes where nobody looks
            shutil.rmtree(old, ignore_errors=True)

    def ssh(self, words: Sequence[str], deadline: Deadline) -> Ended:
        """Run a command of the ssh remote's host, such as git-lfs-authenticate; return how it ended."""
        port = ["-p", str(self._address.port)] if self._address.port else []
        host = (f"{self._address.user}@" if self._address.user else "") + str(self._address.host).strip("[]")
        command = [*hardening.ssh_command(self._credentials), *port, "--", host, *words]
        environment = self._environment()
        return run(Running(command, environment=environment, cwd=self._home, deadline=deadline), out_max=SSH_BYTES_MAX)

    def _prepare(self, commit_id: str) -> None:
        if (self._store / "HEAD").exists():
            return
        self.discard()
        self._ready()
        staged = self._home / "git.new"
        shutil.rmtree(staged, ignore_errors=True)
        object_format = f"--object-format={_FORMATS[len(commit_id)]}"
        command = ["git", "init", "--quiet", "--bare", "--template=", object_format, str(staged)]
        deadline = Deadline.of(30.0)
        running = Running(command, environment=self._environment(), cwd=self._home, deadline=deadline)
        self._checked(run(running), False)
        staged.rename(self._store)

    def _ready(self) -> None:
        """Raise UNSUPPORTED where a program is missing; write the configuration where it is not as it should be."""
        path = self._environment().get("PATH", "")
        need("git", path, "which reaches repositories")
        if self._credentials.allowed_signers_file is not None:
            need("ssh-keygen", path, "which checks signatures")
        if self._address.transport is Transport.SSH:
            need("ssh", path, "which the address of the repository needs")
        text = hardening.configuration(self._address, self._credentials, self._store)
        place = self._home / "gitconfig"
        with disk(self._home):
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not place.is_file() or place.read_text(encoding="utf-8") != text:
                staged = place.with_name("gitconfig.new")
                staged.write_text(text, encoding="utf-8")
                staged.replace(place)

    def _environment(self) -> Mapping[str, str]:
        return hardening.environment(self._home, self._address, self._credentials, os.environ)

    def _running(
        self, words: Sequence[str], deadline: Deadline, *, stdin: bytes = b"", file_max: int = 2**40, store: bool = True
    ) -> Running:
        self._ready()
        command = ["git", *([f"--git-dir={self._store}"] if store else []), *words]
        return Running(
            command,
            environment=self._environment(),
            cwd=self._home,
            deadline=deadline,
            stdin=stdin,
            file_max=file_max,
        )

    def _git(
        self,
        words: Sequence[str],
        deadline: Deadline,
        *,
        stdin: bytes = b"",
        file_max: int = 2**40,
        out_max: int | None = None,
        store: bool = True,
        check: bool = True,
    ) -> Ended:
        running = self._running(words, deadline, stdin=stdin, file_max=file_max, store=store)
        ended = run(running) if out_max is None else run(running, out_max=out_max)
        return self._checked(ended, store) if check else ended

    def _checked(self, ended: Ended, store: bool) -> Ended:
        """Return how it ended; raise what its words mean where it failed."""
        if ended.status == 0:
            return ended
        token = hardening.read_token(self._credentials.token_file)
        failure = failures.understand(ended.err, token[1:] if token else ())
        if failure.kind is not None:
            kind_of_error = NoRoomError if failure.what.startswith(failures.FULL) else OrchError
            raise kind_of_error(failure.kind, failure.what, where=self._address.url, hint=failure.hint)
        if store:
            raise DamagedError(failure.what)
        raise OrchError(Kind.UNAVAILABLE, failure.what, where=self._address.url, hint="the next look tries again")


def _lines(ids: Iterable[str]) -> bytes:
    return "".join(f"{each}\n" for each in ids).encode("ascii")


def _unsigned(said: str) -> str:
    """Return how a commit is not signed as it should be."""
    stranger = re.search(r'Good "git" signature with (\S+ key \S+)', said)
    if stranger is not None:
        return f"is signed with the {failures.shown(stranger[1])}, which is not an allowed signer's"
    words = failures.last_words(said)
    return f"has no signature that can be trusted: {words}" if words else "is not signed"


class _Stream:
    """Lines and blocks out of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = b""

    def line(self) -> str:
        while b"\n" not in self._buffer:
            self._buffer += self._next()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("utf-8", "replace")

    def take(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._buffer or self._next()
            self._buffer = piece[size:]
            piece = piece[:size]
            size -= len(piece)
            yield piece

    def _next(self) -> bytes:
        piece = next(self._pieces, b"")
        if not piece:
            raise DamagedError("git ended amid an object")
        return piece
