"""An apply on its way: what it is about, how far its planning is, and whether somebody called it off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.agent.planning import Wanted
from orchestrator.errors import Kind, OrchError

ATTEMPTS_MAX = 16  # each plans in a thread of its own


@dataclass(slots=True, eq=False)
class Attempt:
    """One apply, from its manifests on."""

    wanted: Sequence[Wanted]
    since: float
    """Unix time."""
    messages: dict[str, str] = field(default_factory=dict)
    """What is being tried, by deployment."""
    refusals: dict[str, OrchError] = field(default_factory=dict)
    """Why it shall not go on, by deployment."""
    scope: asyncio.Timeout | None = None
    """Bounds the planning under way."""

    def of(self, name: str) -> Wanted | None:
        """Return what is wanted of a deployment that this apply is about and that was not called off."""
        return next((one for one in self.wanted if one.name == name and name not in self.refusals), None)

    def note(self, deployment: str, model: str | None, phase: str, message: str) -> None:
        """Remember what is being tried."""
        self.messages[deployment] = ": ".join(part for part in (model, phase, message) if part)

    def message(self, name: str) -> str:
        """Return what is being tried for a deployment."""
        return self.messages.get(name, "asking OpenVINO about this machine and its models")

    def call_off(self, name: str, error: OrchError) -> None:
        """Let no more be done for the deployment; planning that is under way ends."""
        self.refusals[name] = error
        if self.scope is not None and not self.scope.expired():
            self.scope.reschedule(asyncio.get_running_loop().time())

    def check(self, name: str) -> None:
        """Raise why the deployment shall not go on, if it was called off."""
        if name in self.refusals:
            raise self.refusals[name]

    def check_all(self) -> None:
        """Raise why one of the deployments shall not go on, if one was called off."""
        for one in self.wanted:
            self.check(one.name)


class Attempts:
    """The applies on their way, the oldest first."""

    def __init__(self) -> None:
        self._all: list[Attempt] = []

    def begin(self, attempt: Attempt) -> None:
        """Add an apply; raise OVERLOADED where there are too many."""
        if len(self._all) >= ATTEMPTS_MAX:
            hint = "repeat the command when one of them has ended"
            raise OrchError(Kind.OVERLOADED, f"{ATTEMPTS_MAX} applies are under way, which is the most", hint=hint)
        self._all.append(attempt)

    def end(self, attempt: Attempt) -> None:
        """Forget an apply."""
        self._all.remove(attempt)

    def of(self, name: str) -> Attempt | None:
        """Return the apply that is about the deployment, the oldest of several."""
        return next((attempt for attempt in self._all if attempt.of(name) is not None), None)

    def names(self) -> list[str]:
        """Return the deployments that applies are about, sorted."""
        return sorted({one.name for attempt in self._all for one in attempt.wanted if attempt.of(one.name)})

    def call_off(self, name: str, error: OrchError) -> None:
        """Let all applies of the deployment end."""
        for attempt in self._all:
            if attempt.of(name) is not None:
                attempt.call_off(name, error)


def deleted(name: str) -> OrchError:
    """Return the error of an apply whose deployment was deleted while it was planned."""
    return OrchError(Kind.CONFLICT, "it was deleted meanwhile", where=name, hint="apply it again if it is still wanted")


def changed(name: str) -> OrchError:
    """Return the error of an apply whose deployment became another while it was planned."""
    return OrchError(Kind.CONFLICT, "it was changed meanwhile", where=name, hint="look at orch diff, then apply again")


def stopping(name: str) -> OrchError:
    """Return the error of an apply that the agent's end overtook."""
    hint = "apply it again: that starts the next agent"
    return OrchError(Kind.UNAVAILABLE, "the agent is being stopped", where=name, hint=hint)
