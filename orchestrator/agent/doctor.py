"""Judges what `orch doctor` found: what is well, what deserves a look, what is wrong, and the command that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from orchestrator.agent import doctor_machine, doctor_software, doctor_state
from orchestrator.agent.doctor_check import Check, Level
from orchestrator.agent.doctor_facts import Engine, Facts, Machine, State, Unknown

NAMES = (
    *(
        "software",
        "python",
        "packages",
        "openvino",
        "devices",
        "machine",
        "processors",
        "memory",
        "swap",
        "clock-speed",
    ),
    *("clock", "files", "shared-memory", "state", "state-path", "state-folder", "disk", "state-file", "agent"),
    *("agent-version", "workers", "ports", "git", "sources", "certificates"),
)
"""Every check, as docs/operations.md lists them."""


def judge(facts: Facts) -> tuple[Check, ...]:
    """Return the findings, in the order in which a person would look."""
    parts: tuple[tuple[str, object, Callable[..., Iterator[Check]]], ...] = (
        ("software", facts.software, doctor_software.software),
        ("openvino", facts.engine, doctor_software.engine),
        ("machine", facts.machine, doctor_machine.machine),
        ("state", facts.state, lambda state: doctor_state.state(state, facts.software, facts.now)),
    )
    found: list[Check] = []
    for name, part, look in parts:
        if isinstance(part, Unknown):
            found.append(Check(name, Level.FAIL, part.why))
        else:
            found += look(part)
    if isinstance(facts.machine, Machine) and isinstance(facts.engine, Engine):
        planned = facts.state.devices if isinstance(facts.state, State) else frozenset[str]()
        found += doctor_software.devices(facts.machine, facts.engine, planned)
    order = {name: place for place, name in enumerate(NAMES)}
    return tuple(sorted(found, key=lambda check: order.get(check.name, len(order))))
