"""Inventories as text: the YAML file that planning for another machine reads, and the table that people read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from orchestrator import units
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.device import Device, Host, Inventory
from orchestrator.manifest import scalar, source
from orchestrator.manifest.explain import dotted, seen

HINT = "write the file anew with: orch devices -o yaml"
# What devices list among OPTIMIZATION_CAPABILITIES that is no precision.
NOT_PRECISIONS = frozenset({"WINOGRAD", "EXPORT_IMPORT", "GPU_HW_MATMUL", "GPU_USM_MEMORY"})


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, so that two devices with equal properties stay readable."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the name is PyYAML's
        return True

    def text(self, value: str) -> yaml.ScalarNode:
        """Quote what our own strict reader would not take for this text, such as 08."""
        plain = not value or scalar.resolve(value) == (value, None, None)
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else "'")


_Dumper.add_representer(str, _Dumper.text)


def inventory_to_yaml(inventory: Inventory) -> str:
    """Return the inventory as YAML; the same inventory gives the same bytes."""
    facts = inventory.model_dump(mode="json", exclude_none=True)
    facts["devices"] = [
        device | {"properties": dict(sorted(device["properties"].items()))} for device in facts["devices"]
    ]
    text: str = yaml.dump(
        facts, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )
    return text


def inventory_from_yaml(text: str, name: str) -> Inventory:
    """Read one inventory; raise OrchError with every problem at `name:line:column`."""
    parsed = source.parse(text, name)
    problems = [finding.problem for finding in parsed.findings]
    start = str(source.Position(name, 1, 1))
    if not problems and len(parsed.documents) != 1:
        problems.append(Problem(f"must hold one inventory, got {len(parsed.documents)} documents", start, HINT))
    if problems:
        raise OrchError(Kind.INVALID, problems)
    root = parsed.documents[0].root
    try:
        return Inventory.model_validate(root.value)
    except ValidationError as error:
        raise OrchError(Kind.INVALID, [_problem(root, entry) for entry in error.errors()]) from None


def _problem(root: source.Node, entry: Any) -> Problem:
    """Say what pydantic found, in our words and with its place in the text."""
    found = source.lookup(root, entry["loc"])
    path = dotted(entry["loc"]) or "the inventory"
    if entry["type"] == "extra_forbidden":
        return Problem(f"{path}: unknown key", str(found.key_position), f"delete it, or {HINT}")
    if entry["type"] == "missing":
        return Problem(f"{path}: is missing", str(found.position), HINT)
    words = entry["msg"][:1].lower() + entry["msg"][1:]
    return Problem(f"{path}: {words}, got {seen(entry['input'])}", str(found.position), HINT)


def inventory_to_text(inventory: Inventory) -> str:
    """Return what a person reads: the host, a table of devices, and what could not be asked."""
    lines = [f"OpenVINO {inventory.openvino}", *_host_lines(inventory.host), ""]
    header = ("NAME", "TYPE", "FULL NAME", "STREAMS", "PRECISIONS")
    lines += _table([header, *(_row(device) for device in inventory.devices)]) if inventory.devices else ["no devices"]
    if inventory.problems:
        lines += ["", *(f"problem: {problem}" for problem in inventory.problems)]
    return "\n".join(lines) + "\n"


def _host_lines(host: Host) -> list[str]:
    cores = host.cores
    quota = "none" if host.quota_cpus is None else f"{host.quota_cpus:g} cpus (cgroup {host.cgroup})"
    kinds = f", {len(cores.performance)} P + {len(cores.efficient)} E" if cores.performance and cores.efficient else ""
    threads = f"{cores.threads_per_core} thread{'s' * (cores.threads_per_core > 1)} per core"
    layout = f"{cores.sockets} socket{'s' * (cores.sockets > 1)}, {max(1, len(cores.numa_nodes))} NUMA"
    limit = "none" if host.memory_limit_bytes is None else units.format_size(host.memory_limit_bytes)
    return [
        f"host    {host.name} ({host.cpu})",
        f"cores   {host.effective_cpus} of {len(cores.allowed)} (affinity), quota {quota}",
        f"layout  {cores.physical} physical, {threads}{kinds}, {layout}",
        f"memory  {units.format_size(host.memory_bytes)}, limit {limit}",
        f"isa     {' '.join(host.isa) or 'unknown'}",
    ]


def _row(device: Device) -> tuple[str, ...]:
    streams = "-" if device.range_for_streams is None else "{}-{}".format(*device.range_for_streams)
    precisions = ",".join(name for name in device.capabilities if name not in NOT_PRECISIONS)
    return device.name, device.type or "-", device.full_name, streams, precisions or "-"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
