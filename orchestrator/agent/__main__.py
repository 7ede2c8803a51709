"""The agent process: one for each state folder, until SIGTERM; its workers go on without it."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.metadata
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from orchestrator.agent import paths, process, scrape, state_file
from orchestrator.agent.adoption import Adoption
from orchestrator.agent.api import Api
from orchestrator.agent.attempt import ATTEMPTS_MAX
from orchestrator.agent.client import worker_environ
from orchestrator.agent.history import History
from orchestrator.agent.monitor import Monitor
from orchestrator.agent.paths import Layout
from orchestrator.agent.planning import Planner, plan_on_this_machine, this_machine
from orchestrator.agent.reconcile import Reconciler
from orchestrator.agent.restart import Patience
from orchestrator.agent.source_place import open_place
from orchestrator.agent.source_round import Site
from orchestrator.agent.source_store import SourceStore
from orchestrator.agent.sources import Sources
from orchestrator.agent.store import open_or_renew
from orchestrator.agent.supervisor import Supervisor
from orchestrator.agent.systemd import READY, STOPPING, Notifier, notifier
from orchestrator.agent.upkeep import keep_up
from orchestrator.errors import Kind, OrchError, render
from orchestrator.serving import admin
from orchestrator.telemetry import logs

WORKER_COMMAND = (sys.executable, "-m", "orchestrator.serving")
DEFAULT_PATIENCE = Patience()
LOCK_TIMEOUT_S = 2.0
LOCK_POLL_S = 0.02
THREADS_MAX = 2 * ATTEMPTS_MAX  # of which planning takes half at most
FINISH_TIMEOUT_S = 10.0  # for an apply under way when the agent is asked to stop; the next agent resumes it

log = logging.getLogger("orchestrator.agent")


def _locked(holder: IO[str]) -> bool:
    """Take the lock, waiting a little for an agent that is about to end."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(LOCK_POLL_S)
        else:
            return True


def lock(layout: Layout) -> IO[str]:
    """Take the state folder for this process; raise CONFLICT with the pid of the agent that has it."""
    try:
        holder = layout.lock.open("a+", encoding="utf-8")
    except OSError as error:
        raise paths.state_error(error, layout.lock) from None
    if not _locked(holder):
        holder.seek(0)
        pid = holder.read(32).strip() or "unknown"
        holder.close()
        what = f"an agent runs already, pid {pid}"
        raise OrchError(Kind.CONFLICT, what, where=str(layout.root), hint="orch agent stop") from None
    holder.truncate(0)
    holder.write(f"{os.getpid()}\n")
    holder.flush()
    return holder


async def serve(
    layout: Layout,
    environ: Mapping[str, str],
    command: Sequence[str],
    planner: Planner,
    patience: Patience,
    machine: Callable[[], str],
) -> None:
    """Run an agent on the state folder until it is asked to stop."""
    started = time.time()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS_MAX))
    kept = state_file.keep_before_upgrade(layout.database)
    if kept is not None:
        log.info("the state is upgraded; as it was, it lies in %s", kept)
    store, damaged = open_or_renew(layout.database, time.strftime("%Y%m%dT%H%M%S", time.gmtime(started)))
    supervisor = Supervisor(layout, store, command, worker_environ(environ))
    reconciler = Reconciler(store, supervisor, planner)
    monitor = Monitor(store, supervisor, reconciler, patience)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    version = _version()
    adoption = Adoption(layout, store, supervisor, reconciler)
    site = Site(
        layout.sources,
        store,
        SourceStore(store),
        reconciler,
        supervisor,
        _machine(version),
        open_place,
        asyncio.Event(),
    )
    sources = Sources(site)
    history = History(store, reconciler, machine, sources)
    api = Api(
        layout, store, supervisor, reconciler, monitor, history, sources, version, started, stopping, adoption.done
    )
    try:
        async with scraped(environ, api):
            await _until_stopped(api, adoption, damaged, notifier(environ))
    finally:
        supervisor.close()
        store.close()
        log.info("stopped")


@asynccontextmanager
async def scraped(environ: Mapping[str, str], api: Api) -> AsyncIterator[None]:
    """Tell Prometheus on the address that the environment names, if any; an agent without is better than none."""
    address, server = environ.get(scrape.ADDRESS), None
    try:
        if address:
            server = await scrape.serve(address, lambda accept: scrape.page(api, accept))
    except OrchError as error:
        log.error("no metrics: %s", error)
    try:
        yield
    finally:
        if server is not None:
            server.close()


async def _until_stopped(api: Api, adoption: Adoption, damaged: Path | None, systemd: Notifier) -> None:
    log.info("agent %s, pid %d, in %s", api.version, os.getpid(), api.layout.root)
    # Adoption first: it has the turn before any caller can ask for a change.
    works = (adoption.run(damaged), api.monitor.watch(), keep_up(api.layout, systemd))
    own = [asyncio.create_task(work) for work in works]
    own.append(asyncio.create_task(api.sources.run(adoption.done, rebuild=damaged is not None)))
    for task in own:
        task.add_done_callback(_on_task_end)
    await asyncio.sleep(0)
    server = await admin.serve(api.layout.socket, api.methods(), on_bug=_on_bug)
    systemd.tell(READY)
    await api.stopping.wait()
    systemd.tell(STOPPING)
    api.sources.stop()
    api.reconciler.call_off_all()
    server.close()
    paths.retire(api.layout)
    if changing := [*api.tasks, *api.sources.tasks]:
        await asyncio.wait(changing, timeout=FINISH_TIMEOUT_S)
    rest = [*own, *api.tasks, *api.sources.tasks]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _on_bug(error: BaseException) -> None:
    log.error("a bug of ours", exc_info=error)


def _on_task_end(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _on_bug(error)


def _machine(version: str) -> str:
    """Return what decides, of this machine, whether a commit can run here, as far as it costs nothing to know."""
    cores = sorted(os.sched_getaffinity(0))
    return f"{process.boot_id()} {version} {_installed('openvino')} {cores}"


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _version() -> str:
    try:
        return importlib.metadata.version("orch-openvino")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "0"


def run(
    environ: Mapping[str, str],
    command: Sequence[str],
    planner: Planner,
    patience: Patience = DEFAULT_PATIENCE,
    machine: Callable[[], str] = this_machine,
) -> int:
    """Run an agent to its end and return the exit code; the one boundary of this process."""
    # Times in UTC, as in the events.
    logging.Formatter.converter = time.gmtime
    form = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    os.umask(0o077)  # nothing here is for other users
    try:
        logs.begin(environ, form, process="agent")
        if address := environ.get(scrape.ADDRESS):
            scrape.split(address)
        layout = paths.create(paths.state_dir(environ))
        with lock(layout):
            os.chdir(layout.root)
            asyncio.run(serve(layout, environ, command, planner, patience, machine))
    except OrchError as error:
        sys.stderr.write(render(error) + "\n")
        return 1
    return 0


def main(arguments: Sequence[str]) -> int:
    """Be the agent of the state folder that the environment names."""
    if arguments:
        sys.stderr.write("usage: python -m orchestrator.agent (ORCH_HOME names the state folder)\n")
        return 2
    return run(os.environ, WORKER_COMMAND, plan_on_this_machine)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
