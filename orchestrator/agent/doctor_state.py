"""Judges the state folder and what runs from it: files, agent, workers, ports, sources, certificates."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from orchestrator.agent import doctor_software
from orchestrator.agent.doctor_check import GIB, MIB, Check, Level, size, some, well
from orchestrator.agent.doctor_facts import (
    SHARED_MEMORY,
    Agent,
    AgentState,
    Folder,
    Room,
    Software,
    State,
    StateFile,
    Unknown,
    Worker,
)

SPACE_FAIL_BYTES = 100 * MIB  # the state file and logs could not be written for long
SPACE_WARN_BYTES = GIB
FILES_WARN = 1000
CERTIFICATE_WARN_S = 14 * 86_400
NETWORK_FILESYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"})


def state(found: State, software: Software | Unknown, now: float) -> Iterator[Check]:
    """Judge the state folder; `now` is Unix time."""
    yield from _folder(found.folder)
    yield from (_room(room) for room in found.rooms)
    yield from _state_file(found.file)
    ours = software.orch if isinstance(software, Software) else None
    yield from _agent(found.agent, found.deployments, ours)
    yield from _workers(found)
    yield from _ports(found)
    if found.shared_memory and _read(found.file):
        what = f"left behind in {SHARED_MEMORY} by clients of deployments that are gone: {some(found.shared_memory)}"
        yield Check(
            "shared-memory", Level.WARN, what, _remove([f"{SHARED_MEMORY}/{name}" for name in found.shared_memory])
        )
    if found.sources:
        yield from doctor_software.git(software)
        yield from _sources(found)
    yield from _certificates(found, now)


def _folder(folder: Folder) -> Iterator[Check]:
    if folder.too_long:
        what = f"{folder.path}: the path is too long for the sockets in it"
        yield Check("state-path", Level.FAIL, what, "export ORCH_HOME=$HOME/.orch")
    if not folder.exists:
        yield well("state-folder", f"{folder.path}: none yet; orch apply makes it")
        return
    place = shlex.quote(folder.path)
    if not folder.owned:
        what = f"{folder.path} belongs to {folder.owner}: only that user's agent can use it"
        yield Check(
            "state-folder", Level.FAIL, what, f"sudo -u {shlex.quote(folder.owner)} ORCH_HOME={place} orch doctor"
        )
    elif folder.filesystem in NETWORK_FILESYSTEMS:
        what = f"{folder.path} is on {folder.filesystem}: the state file needs a local file system"
        yield Check("state-folder", Level.FAIL, what, "export ORCH_HOME=/var/lib/orch")
    elif folder.mode & 0o077:
        what = f"{folder.path} has mode {folder.mode:04o}: others can reach the agent, who may do everything"
        yield Check("state-folder", Level.FAIL, what, f"chmod 700 {place}")
    elif folder.odd_modes:
        told = some([f"{path} ({mode:04o})" for path, mode in folder.odd_modes])
        command = "chmod 600 " + " ".join(shlex.quote(path) for path, _ in folder.odd_modes)
        yield Check("state-folder", Level.FAIL, f"others may use {told}", command)
    else:
        yield well("state-folder", f"{folder.path}, mode {folder.mode:04o}")


def _room(room: Room) -> Check:
    free = f"{size(room.free_bytes)} free for {room.what}, {room.path}"
    look = f"du -xh --max-depth=2 {shlex.quote(room.path)} | sort -h | tail"
    if room.free_bytes < SPACE_FAIL_BYTES:
        return Check("disk", Level.FAIL, free, look)
    if room.free_files is not None and room.free_files < FILES_WARN:
        what = f"{room.free_files} files can still be made for {room.what}, {room.path}"
        return Check("disk", Level.FAIL, what, f"du --inodes -x {shlex.quote(room.path)} | sort -n | tail")
    return Check("disk", Level.WARN, free, look) if room.free_bytes < SPACE_WARN_BYTES else well("disk", free)


def _state_file(file: StateFile) -> Iterator[Check]:
    if file.problem is not None:
        command = "orch agent stop; orch agent start"  # who opens a damaged file rebuilds it from the workers
        yield Check("state-file", Level.FAIL, f"{file.problem}", command)
    elif file.version is not None and file.version > file.newest:
        what = f"a newer orch wrote it: version {file.version}, and this orch reads up to {file.newest}"
        yield Check("state-file", Level.FAIL, what, f"orch agent downgrade --to {file.newest}  # with the newer orch")
    elif file.version is not None:
        later = "" if file.version == file.newest else f"; the agent upgrades it to {file.newest} when it starts"
        yield well("state-file", f"whole, version {file.version}{later}")
    else:
        yield well("state-file", "none yet")
    if file.damaged:
        what = f"put aside as damaged: {some(file.damaged)}; deployments were rebuilt"
        yield Check("state-file", Level.WARN, what, _remove(file.damaged))


def _agent(agent: Agent, deployments: Sequence[str], ours: str | None) -> Iterator[Check]:
    recorded = f"{len(deployments)} deployment{'' if len(deployments) == 1 else 's'} recorded"
    start = f"systemctl start {agent.unit}" if agent.unit else "orch agent start"
    match agent.state:
        case AgentState.SILENT:
            what = f"the agent (process {agent.pid or 'unknown'}) does not answer; deployments go on serving"
            yield Check(
                "agent",
                Level.FAIL,
                what,
                f"kill -9 {agent.pid}; {start}" if agent.pid else "orch agent status",
            )
        case AgentState.KILLED:
            what = f"the agent ended without being asked to; {recorded}"
            yield Check("agent", Level.FAIL, what, start)
        case AgentState.NONE if deployments:
            yield Check("agent", Level.FAIL, f"no agent runs, and {recorded}", start)
        case AgentState.NONE:
            yield well("agent", "none runs, and no deployment is recorded")
        case AgentState.RUNS:
            yield well("agent", f"runs (process {agent.pid}), {recorded}")
    if agent.beside:
        what = f"it runs beside its systemd unit ({agent.unit}), which cannot start and does not watch over it"
        yield Check("agent", Level.WARN, what, f"orch agent stop; systemctl start {agent.unit}")
    if agent.version is not None and ours is not None and agent.version != ours:
        what = f"the agent is {agent.version}, this command {ours}"
        yield Check("agent-version", Level.WARN, what, "orch agent stop; orch agent start")


def _workers(state: State) -> Iterator[Check]:
    checks = [check for worker in state.workers if (check := _worker(worker, _read(state.file))) is not None]
    missing = sorted(set(state.deployments) - {worker.name for worker in state.workers if worker.pid is not None})
    if missing and state.agent.state is AgentState.RUNS:
        what = f"nothing serves {some(missing)}"
        checks.append(Check("workers", Level.FAIL, what, f"orch logs {shlex.quote(missing[0])}"))
    serving = sum(worker.pid is not None for worker in state.workers)
    yield from checks or [well("workers", f"{serving} serving")]


def _read(file: StateFile) -> bool:
    """Tell whether it is known what is recorded; an agent rebuilds a damaged file from the workers' folders."""
    return file.version is not None and file.version <= file.newest


def _worker(worker: Worker, known: bool) -> Check | None:
    if worker.pid is not None and not worker.answers:
        what = f"{worker.name}: its worker (process {worker.pid}) does not answer"
        return Check("workers", Level.FAIL, what, f"orch logs {shlex.quote(worker.name)}")
    if not known:
        return None
    if worker.pid is not None and not worker.recorded:
        what = f"worker {worker.name} (process {worker.pid}) serves no recorded deployment; a new agent ends it"
        return Check("workers", Level.WARN, what, "orch agent stop; orch agent start")
    if worker.pid is None and not worker.recorded:
        what = f"{worker.folder} is left of a deployment that is gone"
        return Check("workers", Level.WARN, what, f"rm -r {shlex.quote(worker.folder)}")
    return None


def _ports(state: State) -> Iterator[Check]:
    for port in state.ports:
        number = port.address.rpartition(":")[2]
        what = (
            f"{port.deployment}: {port.field} {port.address} is taken by {port.holder}; free it, or change the manifest"
        )
        yield Check("ports", Level.FAIL, what, f"sudo ss -ltnp 'sport = :{number}'")
    if not state.ports and state.deployments:
        yield well("ports", "those of the deployments are theirs or free")


def _sources(state: State) -> Iterator[Check]:
    stalled = [source for source in state.sources if source.message is not None]
    for source in stalled:
        what = f"{source.name} does not get on: {source.message}"
        yield Check("sources", Level.FAIL, what, f"orch source describe {shlex.quote(source.name)}")
    if not stalled:
        yield well("sources", f"{len(state.sources)}, none stalled")


def _certificates(state: State, now: float) -> Iterator[Check]:
    for one in state.certificates:
        look = f"openssl x509 -noout -enddate -in {shlex.quote(one.path)}"
        if one.expires is None:
            yield Check(
                "certificates",
                Level.FAIL,
                f"{one.deployment}: {one.path} cannot be read",
                f"ls -l {shlex.quote(one.path)}",
            )
        elif one.expires <= now:
            yield Check("certificates", Level.FAIL, f"{one.deployment}: {one.path} has expired", look)
        elif one.expires - now < CERTIFICATE_WARN_S:
            what = f"{one.deployment}: {one.path} expires in {(one.expires - now) / 86_400:.0f} days"
            yield Check("certificates", Level.WARN, what, look)
        else:
            yield well("certificates", f"{one.path}: {(one.expires - now) / 86_400:.0f} days left")


def _remove(paths: Sequence[str]) -> str:
    return "rm " + " ".join(shlex.quote(path) for path in paths)
