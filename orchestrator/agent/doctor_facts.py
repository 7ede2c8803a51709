"""What `orch doctor` looks at, as plain data: the software, the machine, the state folder and what runs from it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Package:
    """A package that orch needs."""

    name: str
    installed: str | None
    """Its version; None where it is not installed."""
    wanted: str
    """The versions supported, as in `>=1.2,<2`."""


@dataclass(frozen=True, slots=True)
class Software:
    """What is installed."""

    orch: str
    python: str
    python_wanted: str
    packages: tuple[Package, ...]
    git: str | None = None
    """Version of the git program; None where there is none."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What OpenVINO says, asked in a process of its own."""

    version: str | None
    devices: tuple[str, ...] = ()
    error: str | None = None
    """Why it could not be asked."""


SHARED_MEMORY = "/dev/shm"  # noqa: S108 - only named


class DeviceKind(enum.Enum):
    """Whose device files these are."""

    GPU = "GPU"
    NPU = "NPU"


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """A device file of an accelerator."""

    path: str
    kind: DeviceKind
    intel: bool | None
    """Whether it is Intel's; None where the kernel does not say."""
    usable: bool
    """Whether this user may open it."""
    group: str
    """The group that may."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, as this process may use it."""

    user: str
    cpus: int
    """In the affinity mask."""
    quota_cpus: float | None
    memory_bytes: int
    available_bytes: int | None
    limit_bytes: int | None
    """Of the cgroup."""
    used_bytes: int | None
    """In the cgroup, what can be given back left out."""
    swapped_bytes_s: float
    """To and from the disk, while it was looked at."""
    governors: tuple[str, ...]
    """Of the processors, each once; none where the kernel shows none."""
    self_governing: bool
    """The processor decides by itself (intel_pstate, amd-pstate): its `powersave` is no fixed low clock."""
    throttled_share: float
    """Share of the time looked at in which the cgroup's quota stopped its processes."""
    hot: int
    """How often processors were slowed down for heat while it was looked at."""
    synchronised: bool | None
    """Whether the kernel's clock follows another; None where it does not say."""
    stepped_s: float
    """How far the clock jumped while it was looked at."""
    files_max: int | None
    """Files that a process may raise its limit to; None for no limit."""
    shared_memory_free: float | None
    """Share of /dev/shm that is free."""
    device_files: tuple[DeviceFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """The space where a folder lies."""

    path: str
    what: str
    """What is kept there, for people."""
    free_bytes: int
    total_bytes: int
    free_files: int | None
    """None where the file system does not count."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The state folder."""

    path: str
    exists: bool
    too_long: bool = False
    """Too long for the sockets in it."""
    owner: str = ""
    owned: bool = True
    mode: int = 0o700
    filesystem: str = ""
    odd_modes: tuple[tuple[str, int], ...] = ()
    """Sockets and files that others may use, with their modes."""


@dataclass(frozen=True, slots=True)
class StateFile:
    """The state file."""

    path: str
    newest: int
    """The version that this orch makes."""
    version: int | None = None
    """None where there is no file, or it cannot be read."""
    problem: str | None = None
    damaged: tuple[str, ...] = ()
    """Files that were put aside as damaged."""


class AgentState(enum.Enum):
    """How the agent does."""

    RUNS = "runs"
    SILENT = "does not answer"
    NONE = "none runs"
    KILLED = "ended unasked"


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent of the state folder."""

    state: AgentState
    pid: int | None = None
    version: str | None = None
    unit: str | None = None
    """The systemd unit that is to run it, as `systemctl` takes it: `--user orch-agent.service`."""
    beside: bool = False
    """It runs, but not by that unit."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's folder, or process, or both."""

    name: str
    folder: str
    recorded: bool
    """Whether a deployment is recorded for it."""
    pid: int | None
    answers: bool = False


@dataclass(frozen=True, slots=True)
class Port:
    """An address of a recorded deployment that somebody else listens on."""

    deployment: str
    field: str
    address: str
    holder: str


@dataclass(frozen=True, slots=True)
class Source:
    """A source of manifests."""

    name: str
    message: str | None
    """Why it does not get on; None when it does."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that a recorded deployment serves with."""

    deployment: str
    path: str
    expires: float | None
    """Unix time; None where it cannot be read."""


@dataclass(frozen=True, slots=True)
class State:
    """What lies in the state folder, and what runs from it."""

    folder: Folder
    file: StateFile
    agent: Agent
    deployments: tuple[str, ...] = ()
    devices: frozenset[str] = field(default_factory=frozenset)
    """Kinds of devices that recorded deployments are planned on: CPU, GPU, NPU."""
    workers: tuple[Worker, ...] = ()
    ports: tuple[Port, ...] = ()
    shared_memory: tuple[str, ...] = ()
    """Regions left behind by clients of deployments that are gone."""
    sources: tuple[Source, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    rooms: tuple[Room, ...] = ()


@dataclass(frozen=True, slots=True)
class Unknown:
    """What could not be found out in time, or at all."""

    why: str


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was found out."""

    now: float
    software: Software | Unknown
    engine: Engine | Unknown
    machine: Machine | Unknown
    state: State | Unknown
