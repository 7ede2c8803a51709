"""Runs a program for a repository: within a deadline, within limits, with all it started ended in the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops.checkouts import disk

OUT_MAX = 64 * 2**20  # of a listing: some 600,000 files
ERR_MAX = 16 * 1024  # of messages, the last ones
PIECE_BYTES = 256 * 1024
LOCK = "running"
KILLED_S = 2.0  # for the kernel to end processes that were killed
ADDRESS_SPACE_BYTES = 4 * 2**30  # git maps packs in windows; what wants more is a commit made to exhaust the machine
# The limits are set by a shell, because Python cannot set them between fork and exec while it has threads.
# It yields to inference (nice); `ulimit -f` counts blocks of 512 bytes, `-v` those of 1024.
# Without its signal a file over the limit is an error that git can say.
_LIMITED = 'trap "" XFSZ; ulimit -c 0; ulimit -f "$1"; ulimit -v "$2"; echo $$ > "$3"; shift 3; exec nice -n 10 "$@"'


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a call must have ended, and what its limit was, for the error."""

    at: float
    timeout_s: float

    @classmethod
    def of(cls, timeout_s: float) -> Deadline:
        """Return the deadline of a call that begins now."""
        return cls(time.monotonic() + timeout_s, timeout_s)

    def left(self, doing: str) -> float:
        """Return the seconds that are left; raise DEADLINE where none are."""
        left = self.at - time.monotonic()
        if left <= 0:
            hint = "raise its timeout, or look at the network to the remote"
            raise OrchError(Kind.DEADLINE, f"{doing} took longer than {self.timeout_s:g} s", hint=hint)
        return left


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    status: int
    out: bytes
    err: str


def need(program: str, path: str, why: str) -> None:
    """Raise UNSUPPORTED where this machine does not have the program."""
    if shutil.which(program, path=path) is None:
        hint = f"install it, such as with: apt-get install {_PACKAGES.get(program, program)}"
        raise OrchError(Kind.UNSUPPORTED, f"the program {program} is not installed, {why}", hint=hint)


_PACKAGES = {"ssh": "openssh-client", "ssh-keygen": "openssh-client"}


class Running:
    """A program whose output is read piece by piece; a context manager that ends it and all it started."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        deadline: Deadline,
        stdin: bytes = b"",
        file_max: int = 2**40,
    ) -> None:
        self._lock = cwd / LOCK
        limits = [str(-(-file_max // 512)), str(ADDRESS_SPACE_BYTES // 1024), str(self._lock)]
        self._command = ["/bin/sh", "-c", _LIMITED, "sh", *limits, *command]
        self._doing = " ".join(command[:1])
        self._environment = dict(environment)
        self._cwd = cwd
        self._deadline = deadline
        self._stdin = stdin
        self._err = bytearray()
        self._input: IO[bytes]
        self._alone: IO[bytes]
        self._process: subprocess.Popen[bytes]
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Running:
        with disk(self._lock):
            self._alone = _alone(self._lock)
        self._input = tempfile.TemporaryFile()  # a pipe could stop both sides, each waiting for the other
        try:
            self._input.write(self._stdin)
            self._input.seek(0)
            self._process = subprocess.Popen(
                self._command,
                stdin=self._input,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._cwd,
                env=self._environment,
                bufsize=0,
                pass_fds=[self._alone.fileno()],
                start_new_session=True,  # one group, to be ended together; no terminal to ask on
            )
        except OSError as error:
            self._input.close()
            self._alone.close()
            raise OrchError(Kind.UNAVAILABLE, f"cannot start {self._doing}: {error.strerror}") from None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._selector.register(self._process.stderr, selectors.EVENT_READ)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._until_gone()
        self._selector.close()
        for pipe in (self._process.stdout, self._process.stderr, self._input, self._alone):
            assert pipe is not None
            pipe.close()

    def pieces(self) -> Iterator[bytes]:
        """Yield its output as it comes, to the end; raise DEADLINE."""
        while self._selector.get_map():
            for key, _ in self._selector.select(self._deadline.left(self._doing)):
                data = os.read(key.fd, PIECE_BYTES)
                if not data:
                    self._selector.unregister(key.fileobj)
                elif key.fileobj is self._process.stderr:
                    self._err = (self._err + data)[-ERR_MAX:]
                else:
                    yield data

    def _until_gone(self) -> None:
        """Wait for those that were killed: each holds an end of our pipes for as long as it lives."""
        until = time.monotonic() + KILLED_S
        while self._selector.get_map() and time.monotonic() < until:
            for key, _ in self._selector.select(0.1):
                if not os.read(key.fd, PIECE_BYTES):
                    self._selector.unregister(key.fileobj)

    def end(self) -> Ended:
        """Wait for its end, after its output has ended; raise DEADLINE."""
        try:
            status = self._process.wait(self._deadline.left(self._doing))
        except subprocess.TimeoutExpired:
            self._deadline.left(self._doing)
            raise
        return Ended(status, b"", self._err.decode("utf-8", "replace"))


def _alone(path: Path) -> IO[bytes]:
    """Return a lock that a program holds with all that it starts; end what still holds it.

    That is what an agent which was killed has left: it would go on writing where the next one does.
    """
    lock = path.open("ab")
    until = time.monotonic() + KILLED_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                lock.close()
                what, hint = "what an earlier agent started still runs", "end it, or wait for its end"
                raise OrchError(Kind.UNAVAILABLE, what, where=str(path), hint=hint) from None
            _end_group(path)
            time.sleep(0.02)
        else:
            lock.truncate(0)  # the number in it may be another's by now
            return lock


def _end_group(path: Path) -> None:
    """Kill the group that the lock names: nobody outside of it has the lock, so the number is still its own."""
    with contextlib.suppress(OSError, ValueError):
        group = int(path.read_text(encoding="ascii"))
        if group > 1 and group != os.getpgrp():
            os.killpg(group, signal.SIGKILL)


def run(running: Running, *, out_max: int = OUT_MAX) -> Ended:
    """Run to the end; raise DEADLINE, and TOO_LARGE for output over `out_max` bytes."""
    out = bytearray()
    with running:
        for piece in running.pieces():
            out += piece
            if len(out) > out_max:
                raise OrchError(
                    Kind.TOO_LARGE, f"git lists more than {out_max} bytes", hint="name a smaller repository"
                )
        ended = running.end()
    return Ended(ended.status, bytes(out), ended.err)
