"""Finds out what `orch doctor` judges: all at once, each part within its own time, so that nothing can hold it up."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from orchestrator.agent import doctor_home, doctor_host, paths
from orchestrator.agent.doctor_facts import Engine, Facts, Machine, Package, Software, State, Unknown
from orchestrator.agent.paths import Layout
from orchestrator.backend.probe import probe_inventory
from orchestrator.errors import OrchError

DISTRIBUTION = "orch-openvino"
ENGINE_TIMEOUT_S = 60.0  # a GPU driver compiles its kernels at first use
PART_TIMEOUT_S = 20.0  # of every other part: a file system that hangs holds up no more than its own
SAMPLE_S = 1.0
GIT_TIMEOUT_S = 5.0
Part = TypeVar("Part")


def look(environ: Mapping[str, str]) -> Facts:
    """Return the facts; what cannot be found out in time is Unknown."""
    layout = Layout(paths.state_dir(environ))
    waiting = (
        _begin(_software, "the software", PART_TIMEOUT_S),
        _begin(_engine, "OpenVINO", ENGINE_TIMEOUT_S + PART_TIMEOUT_S),
        _begin(_machine, "the machine", PART_TIMEOUT_S),
        _begin(lambda: doctor_home.look(layout), f"the state folder {layout.root}", PART_TIMEOUT_S),
    )
    software, engine, machine, state = (wait() for wait in waiting)
    return Facts(
        now=time.time(),
        software=_as(software, Software),
        engine=_as(engine, Engine),
        machine=_as(machine, Machine),
        state=_as(state, State),
    )


def _as(found: object, kind: type[Part]) -> Part | Unknown:
    assert isinstance(found, (kind, Unknown)), "each part returns its own"
    return found


def _begin(work: Callable[[], object], what: str, timeout_s: float) -> Callable[[], object]:
    """Start the work in a thread and return what waits for it, until `timeout_s` from now."""
    found: list[object] = [Unknown(f"{what} could not be looked at within {timeout_s:g} s")]
    deadline = time.monotonic() + timeout_s

    def run() -> None:
        try:
            found[0] = work()
        except (OrchError, OSError, ValueError, KeyError, TypeError) as error:
            found[0] = Unknown(f"{what} could not be looked at: {error}")

    # A daemon: a thread that hangs in the kernel must not keep the program from ending.
    thread = threading.Thread(target=run, name=f"doctor: {what}", daemon=True)
    thread.start()

    def wait() -> object:
        thread.join(max(0.0, deadline - time.monotonic()))
        return found[0]

    return wait


def _software() -> Software:
    about = metadata.metadata(DISTRIBUTION)
    wanted = [_requirement(text) for text in metadata.requires(DISTRIBUTION) or () if "extra ==" not in text]
    packages = tuple(Package(name, _installed(name), versions) for name, versions in wanted)
    python = ".".join(map(str, sys.version_info[:3]))
    return Software(metadata.version(DISTRIBUTION), python, about["Requires-Python"] or "", packages, _git())


def _requirement(text: str) -> tuple[str, str]:
    """Return name and versions of a requirement such as `numpy<3,>=2.0`."""
    name, versions = re.split(r"(?=[\s\[(<>=!~;])", text.partition(";")[0], maxsplit=1)[0], text.partition(";")[0]
    return name, re.sub(r"\[.*?\]", "", versions.removeprefix(name)).strip(" ()")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git() -> str | None:
    try:
        ran = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\d+(\.\d+)+", ran.stdout)
    return match[0] if match else None


def _engine() -> Engine:
    try:
        inventory = probe_inventory(ENGINE_TIMEOUT_S)
    except OrchError as error:
        return Engine(None, error=error.problems[0].what)
    return Engine(inventory.openvino, tuple(device.name for device in inventory.devices))


def _machine() -> Machine:
    before = doctor_host.moment()
    time.sleep(SAMPLE_S)
    return doctor_host.machine(before, doctor_host.moment(), Path("/"))
