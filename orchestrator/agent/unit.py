"""The systemd unit of the agent, as text: for the machine, hardened, or for one user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NAME = "orch-agent.service"
WATCHDOG_S = 60  # an agent that plans on all cores answers its loop well within that
STOP_S = 30  # it finishes a change for ten seconds at most; its workers are not stopped with it
FILES = 65_536
ACCELERATOR_GROUPS = ("render", "video")
SYSTEM_USER = "orch"
SYSTEM_STATE = "/var/lib/orch"
SYSTEM_ENVIRONMENT = "/etc/orch/agent.env"
SYSTEM_FOLDER = "/etc/systemd/system"
USER_FOLDER = "systemd/user"  # in the user's settings
SYSUSERS = "/etc/sysusers.d/orch.conf"
SYSUSERS_TEXT = f'u {SYSTEM_USER} - "orch agent" {SYSTEM_STATE} /usr/sbin/nologin\n'
ENVIRONMENT_TEXT = """\
# Environment of the agent and its workers, NAME=VALUE; read when the unit starts.
# For secrets use files that manifests name, not this.
"""


@dataclass(frozen=True, slots=True)
class Install:
    """What decides the text of the unit."""

    system: bool
    """For the machine, else for one user."""
    command: tuple[str, ...]
    """What the agent is started with, by absolute path."""
    state: str
    environment_file: str
    groups: tuple[str, ...] = ()
    """Groups of this machine that may use its accelerators."""
    python_path: str | None = None
    """Where the package lies, when it is not installed as a copy."""


def unit(install: Install) -> str:
    """Return the text of the unit."""
    sections = [
        ("Unit", _head(install)),
        ("Service", [*_service(install), "", *(_hardened(install) if install.system else _of_a_user())]),
        ("Install", [f"WantedBy={'multi-user.target' if install.system else 'default.target'}"]),
    ]
    return "\n".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in sections)


def _head(install: Install) -> list[str]:
    lines = ["Description=orch: keeps OpenVINO deployments as their manifests say"]
    if install.system:
        lines += ["Wants=network-online.target", "After=network-online.target time-sync.target"]
    return [*lines, "StartLimitIntervalSec=300", "StartLimitBurst=10"]


def _service(install: Install) -> list[str]:
    command = " ".join(quoted(word).replace("$", "$$") for word in install.command)  # the one place with variables
    lines = ["Type=notify", f"ExecStart={command}"]
    lines += [f"Environment={quoted(f'ORCH_HOME={install.state}')}", "Environment=CI=true"]
    if install.python_path is not None:
        lines.append(f"Environment={quoted(f'PYTHONPATH={install.python_path}')}")
    lines.append(f"EnvironmentFile=-{escaped(install.environment_file)}")
    if install.system:
        lines += [f"User={SYSTEM_USER}", f"Group={SYSTEM_USER}"]
        lines += [f"SupplementaryGroups={' '.join(install.groups)}"] if install.groups else []
        lines += ["StateDirectory=orch", "StateDirectoryMode=0700"] if install.state == SYSTEM_STATE else []
    return [
        *lines,
        "Restart=on-failure",
        "RestartSec=1",
        f"WatchdogSec={WATCHDOG_S}",
        f"TimeoutStopSec={STOP_S}",
        "# Only the agent is ended with the unit: workers go on serving, and the next agent adopts them.",
        "KillMode=process",
        "# A worker that the kernel ends for memory is started again by the agent, which must live for that.",
        "OOMPolicy=continue",
        f"LimitNOFILE={FILES}",
        "UMask=0077",
        "SyslogIdentifier=orch-agent",
    ]


def _of_a_user() -> list[str]:
    return [
        "# Of the hardening only what a user's own systemd can do without privileges.",
        "NoNewPrivileges=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "SystemCallArchitectures=native",
    ]


def _hardened(install: Install) -> list[str]:
    return [
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "# Workers write to the state folder alone; model folders, also in homes, are read. A model's CACHE_DIR",
        "# elsewhere needs a ReadWritePaths= of its own: systemctl edit orch-agent",
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        f"ReadWritePaths={quoted(install.state)}",
        "# /tmp stays the machine's: workers outlive the unit, whose private /tmp would be removed under them, and",
        "# `orch plan` and the agent agree there on who measures. /dev/shm is where clients share their tensors.",
        "PrivateTmp=no",
        "ReadWritePaths=-/tmp -/var/tmp",
        "# GPU and NPU by their drivers' names, and what every process has; PrivateDevices= would hide them.",
        "DevicePolicy=closed",
        "DeviceAllow=char-drm rw",
        "DeviceAllow=char-accel rw",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
        "ProtectClock=yes",
        "ProtectHostname=yes",
        "ProtectProc=invisible",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "RemoveIPC=no",
        "LockPersonality=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
        "# MemoryDenyWriteExecute= is left out: OpenVINO's CPU plugin writes machine code and runs it.",
    ]


def quoted(word: str) -> str:
    """Return a word as systemd reads it back: specifiers escaped, quoted where it holds blanks."""
    text = escaped(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if any(sign.isspace() for sign in word) or '"' in word else text


def escaped(word: str) -> str:
    """Return the text with systemd's specifiers escaped."""
    return word.replace("%", "%%")


def steps(install: Install) -> Sequence[tuple[str, ...]]:
    """Return the commands that bring a unit that was written into effect, in their order."""
    if install.system:
        first: list[tuple[str, ...]] = [("systemd-sysusers", SYSUSERS)]
        if install.state != SYSTEM_STATE:
            first.append(("install", "-d", "-o", SYSTEM_USER, "-g", SYSTEM_USER, "-m", "0700", install.state))
        return [*first, ("systemctl", "daemon-reload"), ("systemctl", "enable", "--now", NAME)]
    return [("systemctl", "--user", "daemon-reload"), ("systemctl", "--user", "enable", "--now", NAME)]


def steps_back(*, system: bool) -> Sequence[tuple[str, ...]]:
    """Return the commands to run before a unit's file is removed; workers go on serving."""
    scope = () if system else ("--user",)
    return [("systemctl", *scope, "disable", "--now", NAME)]
