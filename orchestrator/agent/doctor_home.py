"""Reads the state folder for `orch doctor`, and asks what runs from it; changes nothing, waits for nobody for long."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.agent import listener, paths, process, state_file, unit
from orchestrator.agent.doctor_facts import (
    Agent,
    AgentState,
    Certificate,
    Folder,
    Port,
    Room,
    Source,
    State,
    StateFile,
    Worker,
)
from orchestrator.agent.doctor_host import user_name
from orchestrator.agent.paths import Layout
from orchestrator.errors import Kind, OrchError
from orchestrator.manifest import certificate
from orchestrator.serving import admin
from orchestrator.serving.shared_memory import FOLDER as SHARED_MEMORY

AGENT_TIMEOUT_S = 3.0
WORKER_TIMEOUT_S = 5.0  # it may be compiling on all cores
STATE_FILE_TIMEOUT_S = 5.0
ASKED_AT_ONCE = 16
CERTIFICATE_BYTES_MAX = 2**20
REGIONS = ".regions.json"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the state file says."""

    plans: Mapping[str, Json]
    """By deployment: the plan that a worker would be started with."""
    sources: tuple[Source, ...] = ()


def look(layout: Layout, root: Path = Path("/")) -> State:
    """Return what lies in the state folder and what runs from it; `root` holds systemd's files."""
    folder = _folder(layout)
    if not folder.exists or not folder.owned:
        return State(folder, StateFile(str(layout.database), state_file.NEWEST), Agent(AgentState.NONE))
    file, recorded = _state_file(layout)
    agent = _agent(layout)
    service = _unit(layout, root)
    agent = replace(agent, unit=service, beside=service is not None and _is_beside(agent, root))
    workers = _workers(layout, recorded.plans)
    ours = {worker.pid for worker in workers} | {agent.pid}
    plans = recorded.plans
    return State(
        folder=folder,
        file=file,
        agent=agent,
        deployments=tuple(plans),
        devices=frozenset(kind for plan in plans.values() for kind in _devices(plan)),
        workers=workers,
        ports=tuple(port for name, plan in plans.items() for port in _taken(name, plan, ours)),
        shared_memory=tuple(_left_behind(layout, plans)),
        sources=recorded.sources,
        certificates=tuple(one for name, plan in plans.items() for one in _certificates(name, plan)),
        rooms=tuple(_rooms(layout, plans)),
    )


# --- the folder


def _folder(layout: Layout) -> Folder:
    path, too_long = str(layout.root), paths.too_long(layout)
    try:
        status = layout.root.stat()
    except FileNotFoundError:
        return Folder(path, exists=False, too_long=too_long)
    return Folder(
        path=path,
        exists=True,
        too_long=too_long,
        owner=user_name(status.st_uid),
        owned=status.st_uid == os.geteuid(),
        mode=stat.S_IMODE(status.st_mode),
        filesystem=_filesystem(layout.root),
        odd_modes=tuple(_odd_modes(layout)),
    )


def _filesystem(path: Path) -> str:
    """Return the kind of the file system that the path lies on."""
    best, kind = "", ""
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
            _, place, name, *_ = line.split(" ")
            if len(place) >= len(best) and path.resolve().is_relative_to(place.replace("\\040", " ")):
                best, kind = place, name
    return kind


def _odd_modes(layout: Layout) -> Iterator[tuple[str, int]]:
    """Yield what others than the owner may use."""
    files = [layout.socket, layout.database, *sorted(layout.workers.glob("*/*.sock"))]
    for path in files:
        with suppress(OSError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                yield str(path), mode


def _rooms(layout: Layout, plans: Mapping[str, Json]) -> Iterator[Room]:
    places = {str(layout.root): "the state"}
    for name, plan in plans.items():
        for model in plan.get("models", ()):
            cache = model.get("properties", {}).get("CACHE_DIR")
            if cache:
                places.setdefault(str(cache), f"compiled models of {name}")
    for path, what in places.items():
        with suppress(OSError):
            room, usage = os.statvfs(path), shutil.disk_usage(path)
            yield Room(path, what, usage.free, usage.total, room.f_favail if room.f_files else None)


# --- the state file


def _state_file(layout: Layout) -> tuple[StateFile, Recorded]:
    path = layout.database
    damaged = tuple(str(one) for one in sorted(layout.root.glob(f"{path.name}.damaged-*")))
    version, problem, recorded = None, None, Recorded({})
    if path.exists():
        try:
            version = state_file.checked(path, STATE_FILE_TIMEOUT_S)
            if version <= state_file.NEWEST:
                recorded = _recorded(path)
        except OrchError as error:
            problem = error.problems[0].what
    return StateFile(str(path), state_file.NEWEST, version, problem, damaged), recorded


def _recorded(path: Path) -> Recorded:
    with state_file.reading(path, STATE_FILE_TIMEOUT_S) as connection:
        rows = connection.execute("SELECT name, coalesce(applied, desired) FROM deployments ORDER BY name").fetchall()
        sources = tuple(_sources(connection))
    return Recorded({name: json.loads(plan) for name, plan in rows}, sources)


def _sources(connection: sqlite3.Connection) -> Iterator[Source]:
    if "sources" in state_file.tables(connection):
        for name, state in connection.execute("SELECT name, state FROM sources ORDER BY name"):
            yield Source(name, _trouble(json.loads(state)))


def _trouble(state: Json) -> str | None:
    """Return why a source does not get on."""
    if state.get("trouble"):
        return str(state["trouble"].get("what"))
    attempted = state.get("attempted") or {}
    if attempted.get("result") != "failed":
        return None
    faults = attempted.get("faults") or [{}]
    return f"commit {str(attempted.get('commit'))[:12]} failed: {faults[0].get('what', 'no reason kept')}"


# --- what runs


def _agent(layout: Layout) -> Agent:
    pid = _locked_by(layout)
    try:
        answer = admin.call(layout.socket, "version", timeout_s=AGENT_TIMEOUT_S)
        return Agent(AgentState.RUNS, int(answer["pid"]), str(answer["version"]))
    except OrchError as error:
        alive = pid is not None and process.identify(pid) is not None
        if error.kind is Kind.DEADLINE or alive:
            return Agent(AgentState.SILENT, pid)
    return Agent(AgentState.NONE if pid is None else AgentState.KILLED, pid)


def _unit(layout: Layout, root: Path) -> str | None:
    """Return the systemd unit for this state folder, where systemd runs."""
    if not (root / "run/systemd/system").is_dir():
        return None
    settings = paths.config_dir(os.environ)
    for scope, path in (("", root / unit.SYSTEM_FOLDER[1:]), ("--user ", settings / unit.USER_FOLDER)):
        with suppress(OSError):
            if unit.quoted(f"ORCH_HOME={layout.root}") in (path / unit.NAME).read_text():
                return scope + unit.NAME
    return None


def _is_beside(agent: Agent, root: Path) -> bool:
    """Tell whether an agent runs that its unit did not start."""
    if agent.state is not AgentState.RUNS:
        return False
    with suppress(OSError):
        return unit.NAME not in (root / f"proc/{agent.pid}/cgroup").read_text()
    return False


def _locked_by(layout: Layout) -> int | None:
    """Return the process that the lock file names; one that ended of its own will has left it empty."""
    with suppress(OSError):
        text = layout.lock.read_text(errors="replace").strip()
        if text.isdecimal():
            return int(text)
    return None


def _workers(layout: Layout, plans: Mapping[str, Json]) -> tuple[Worker, ...]:
    """Return the folders and the processes of workers, each asked whether it answers."""
    running = process.find(layout.workers)
    names = {layout.worker(name, slot).folder: name for name in plans for slot in (0, 1)}
    folders = {path for path in layout.workers.glob("*") if path.is_dir()} | set(running)
    # A recorded deployment has one folder in use, and perhaps one of the worker before: only processes count there.
    shown = sorted(path for path in folders if path in running or path not in names)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as asking:
        return tuple(asking.map(lambda path: _worker(path, names.get(path), running.get(path, [])), shown))


def _worker(folder: Path, name: str | None, found: list[process.Identity]) -> Worker:
    pid = found[0].pid if found else None
    return Worker(name or folder.name, str(folder), name is not None, pid, pid is not None and _answers(folder))


def _answers(folder: Path) -> bool:
    try:
        admin.call(folder / "control.sock", "status", timeout_s=WORKER_TIMEOUT_S)
    except OrchError:
        return False
    return True


# --- what plans name


def _devices(plan: Json) -> Iterator[str]:
    for model in plan.get("models", ()):
        names = str(model.get("device", "")).partition(":")
        yield from (name.strip().partition(".")[0] for name in (names[2] or names[0]).split(","))


def _taken(name: str, plan: Json, ours: Iterable[int | None]) -> Iterator[Port]:
    for field in ("http", "grpc"):
        address = plan.get("endpoint", {}).get(field)
        number = str(address or "").rpartition(":")[2]
        if not number.isdecimal() or number == "0":
            continue
        holder = listener.holder(int(number))
        if holder is not None and (holder.pid is None or holder.pid not in ours):
            yield Port(name, field, address, str(holder))


def _certificates(name: str, plan: Json) -> Iterator[Certificate]:
    path = (plan.get("endpoint", {}).get("tls") or {}).get("certificate_file")
    if path:
        yield Certificate(name, path, _expires(Path(path)))


def _expires(path: Path) -> float | None:
    """Return when the first of a chain's certificates to expire does."""
    try:
        with path.open("rb") as file:
            chain = certificate.read(file.read(CERTIFICATE_BYTES_MAX))
    except (OSError, ValueError):
        return None
    return min(each.not_after.timestamp() for each in chain)


def _left_behind(layout: Layout, plans: Mapping[str, Json]) -> Iterator[str]:
    """Yield the shared memory that clients registered with deployments that are gone, and that is still there."""
    kept = {layout.regions(name) for name in plans}
    keys: set[str] = set()
    for path in sorted(set(layout.workers.glob(f"*{REGIONS}")) - kept):
        with suppress(OSError, ValueError, TypeError, KeyError):
            keys.update(str(item["key"]).lstrip("/") for item in json.loads(path.read_text()))
    yield from sorted(key for key in keys if key and "/" not in key and (SHARED_MEMORY / key).is_file())
