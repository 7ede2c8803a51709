"""Judges what is installed: Python, packages, OpenVINO and the devices that it should see."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from orchestrator.agent.doctor_check import Check, Level, well
from orchestrator.agent.doctor_facts import DeviceFile, DeviceKind, Engine, Machine, Software, Unknown

GIT_OLDEST = (2, 34)  # partial clones and signatures as sources use them; docs/gitops.md says the same
DRIVERS = {
    DeviceKind.GPU: "sudo apt-get install intel-opencl-icd",
    DeviceKind.NPU: "sudo apt-get install intel-driver-compiler-npu intel-level-zero-npu",
}


def software(installed: Software) -> Iterator[Check]:
    """Judge Python and the packages."""
    if _fits(installed.python, installed.python_wanted):
        yield well("python", installed.python)
    else:
        what = f"Python {installed.python} is not supported, {installed.python_wanted} is"
        yield Check("python", Level.FAIL, what, "python3.11 -m venv .venv && .venv/bin/pip install orch-openvino")
    wrong = [package for package in installed.packages if not _fits(package.installed, package.wanted)]
    if wrong:
        told = ", ".join(f"{one.name} {one.installed or 'missing'} (wanted {one.wanted})" for one in wrong)
        words = " ".join(shlex.quote(f"{one.name}{one.wanted}") for one in wrong)
        yield Check("packages", Level.FAIL, told, f"python -m pip install {words}")
    else:
        yield well("packages", f"orch {installed.orch}; {len(installed.packages)} packages in the versions supported")


def _fits(version: str | None, wanted: str) -> bool:
    """Tell whether a version is within `>=1.2,<2`; other conditions are not looked at."""
    if version is None:
        return False
    have = numbers(version)
    for condition in wanted.split(","):
        match = re.fullmatch(r"\s*(>=|<)\s*([\d.]+)\s*", condition)
        if match and (have >= numbers(match[2])) != (match[1] == ">="):
            return False
    return True


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, zeros at the end left out so that 2 is 2.0."""
    match = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in match[0].split(".")] if match else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def engine(found: Engine) -> Iterator[Check]:
    """Judge OpenVINO itself."""
    if found.error is not None:
        command = "python -m pip install --force-reinstall openvino"
        yield Check("openvino", Level.FAIL, f"OpenVINO cannot be used: {found.error}", command)
    else:
        yield well("openvino", f"{found.version}, sees {', '.join(found.devices) or 'no device'}")


def devices(machine: Machine, engine: Engine, planned: frozenset[str]) -> Iterator[Check]:
    """Judge whether OpenVINO sees the accelerators there are; `planned` are the kinds that deployments need."""
    checks = [check for kind in DeviceKind for check in _devices_of(kind, machine, engine, planned)]
    yield from checks or [well("devices", "no GPU or NPU here; OpenVINO uses the CPU")]


def _devices_of(kind: DeviceKind, machine: Machine, engine: Engine, planned: frozenset[str]) -> Iterator[Check]:
    files = [file for file in machine.device_files if file.kind is kind]
    seen = any(name.partition(".")[0] == kind.value for name in engine.devices)
    ours = [file for file in files if file.intel is not False]
    level = Level.FAIL if kind.value in planned else Level.WARN
    if seen:
        yield well("devices", f"{kind.value} is seen by OpenVINO")
    elif closed := [file for file in ours if not file.usable]:
        yield _closed(closed[0], machine.user, level)
    elif ours and engine.error is None:
        what = f"{ours[0].path} is there, but OpenVINO sees no {kind.value}: its driver is missing or too old"
        yield Check("devices", level, what, DRIVERS[kind])
    elif files:
        yield well("devices", f"{files[0].path} is not Intel's: OpenVINO does not use it")
    elif kind.value in planned and engine.error is None:
        what = f"a deployment is planned on {kind.value}, and there is none here"
        yield Check("devices", Level.FAIL, what, "orch devices")


def _closed(file: DeviceFile, user: str, level: Level) -> Check:
    what = f"{user} may not use {file.path} (group {file.group}); log in again after the command"
    return Check("devices", level, what, f"sudo usermod -aG {shlex.quote(file.group)} {shlex.quote(user)}")


def git(software: Software | Unknown) -> Iterator[Check]:
    """Judge the program git, which only sources need."""
    version = software.git if isinstance(software, Software) else None
    if version is None:
        yield Check("git", Level.FAIL, "sources need the program git", "sudo apt-get install git")
    elif numbers(version) < GIT_OLDEST:
        what = f"git {version} is too old for sources, which need {'.'.join(map(str, GIT_OLDEST))}"
        yield Check("git", Level.FAIL, what, "sudo apt-get install --only-upgrade git")
    else:
        yield well("git", version)
