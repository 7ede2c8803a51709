"""Where a source is taken from: what the agent asks of a repository or a folder, from threads that end with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from orchestrator.agent.source_state import SourcePlan
from orchestrator.gitops.remote import Checkout, Commit

T = TypeVar("T")
AT_ONCE_MAX = 4  # remotes that are asked at the same time; each is a process


class Place(Protocol):
    """A repository or a folder; its calls block, have deadlines, and are made one at a time."""

    def head(self) -> str:
        """Return the commit that is there now."""

    def fetch(self, commit_id: str, /) -> Checkout:
        """Return the commit's files."""

    def known(self, commit_id: str, /) -> Commit:
        """Return what is known of a commit, also of one that could not be fetched whole."""

    def bring(self, checkout: Checkout, paths: Iterable[str], /) -> Collection[str]:
        """Add files of the repository to the checkout."""

    def authored(self, checkout: Checkout, file: Path, line: int, /) -> Commit:
        """Return who touched a line last."""

    def keep(self, ids: Collection[str], /) -> None:
        """Remove the files of all other commits."""


Open = Callable[[Path, SourcePlan], Place]


def open_place(folder: Path, plan: SourcePlan) -> Place:
    """Return the place that the plan names; what is taken of it lies in `folder`."""
    if plan.folder is not None:
        from orchestrator.gitops.folder import Folder  # a repository does without

        return Folder(Path(plan.folder), folder, plan.path)
    from orchestrator.gitops.remote import GitRemote, Repository  # a folder does without

    assert plan.url is not None, "a source is a repository or a folder"
    remote = GitRemote(
        url=plan.url,
        branch=plan.branch,
        path=plan.path,
        token_file=_path(plan.token_file),
        ssh_key_file=_path(plan.ssh_key_file),
        known_hosts_file=_path(plan.known_hosts_file),
        allowed_signers_file=_path(plan.allowed_signers_file),
        timeout_s=plan.timeout_s,
    )
    return Repository(folder, remote)


def _path(path: str | None) -> Path | None:
    return None if path is None else Path(path)


class Threads:
    """Runs blocking calls in threads that do not keep the agent from ending: a remote may be silent for a minute."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE_MAX)

    async def run(self, call: Callable[[], T]) -> T:
        """Return what the call returns, or raise what it raises."""
        async with self._room:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[T] = loop.create_future()
            threading.Thread(target=_into, args=(call, loop, done), daemon=True).start()
            return await done


def _into(call: Callable[[], T], loop: asyncio.AbstractEventLoop, done: asyncio.Future[T]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        _tell(loop, done, lambda error=error: done.set_exception(error))  # type: ignore[misc]
    else:
        _tell(loop, done, lambda: done.set_result(result))


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Future[T], tell: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the agent has ended
        loop.call_soon_threadsafe(lambda: None if done.done() else tell())
