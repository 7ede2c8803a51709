"""Tell machines apart by what decides speed, so that a profile measured on one is never believed on another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from orchestrator.inventory.device import Inventory

DIGITS = 16
GIB = 2**30


def fingerprint(inventory: Inventory) -> str:
    """Return 16 hexadecimal digits over processor, cores, quota, devices, memory and OpenVINO's version.

    Name and kernel of the host are left out: equal machines of a fleet share their profiles.
    """
    return fingerprint_of(deciding_facts(inventory))


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """Return the fingerprint of the machine of which `deciding_facts` are these."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:DIGITS]


def deciding_facts(inventory: Inventory) -> dict[str, Any]:
    """Return what of the machine the fingerprint is made of, as plain values."""
    host = inventory.host
    memory = host.memory_bytes if host.memory_limit_bytes is None else min(host.memory_bytes, host.memory_limit_bytes)
    return {
        "cpu": host.cpu,
        "isa": sorted(host.isa),
        "effective_cpus": host.effective_cpus,
        "quota_cpus": host.quota_cpus,
        "threads_per_core": host.cores.threads_per_core,
        "devices": sorted([device.name, device.full_name] for device in inventory.devices),
        "memory_gib": round(memory / GIB),
        "openvino": inventory.openvino,
    }
