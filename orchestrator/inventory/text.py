"""Inventories as text: the YAML file that planning for another machine reads, and the table that people read."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator import units
from orchestrator.inventory.device import Device, Host, Inventory
from orchestrator.manifest import emit, typed

HINT = "write the file anew with: orch devices -o yaml"
# What devices list among OPTIMIZATION_CAPABILITIES that is no precision.
NOT_PRECISIONS = frozenset({"WINOGRAD", "EXPORT_IMPORT", "GPU_HW_MATMUL", "GPU_USM_MEMORY"})


def inventory_to_yaml(inventory: Inventory) -> str:
    """Return the inventory as YAML; the same inventory gives the same bytes."""
    facts = inventory.model_dump(mode="json", exclude_none=True)
    facts["devices"] = [
        device | {"properties": dict(sorted(device["properties"].items()))} for device in facts["devices"]
    ]
    return emit.to_yaml(facts)


def inventory_from_yaml(text: str, name: str) -> Inventory:
    """Read one inventory; raise OrchError with every problem at `name:line:column`."""
    return typed.from_yaml(Inventory, text, name, called="inventory", hint=HINT)


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
