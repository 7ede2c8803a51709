"""The agent's methods about sources: what `orch source` and `orch apply` call over agent.sock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.agent.source_round import Asked
from orchestrator.agent.sources import Sources
from orchestrator.agent.turns import Report
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.serving.admin import Method, Progress

if TYPE_CHECKING:  # an idle agent needs no YAML
    from orchestrator.manifest.load import SourceDocument

Json = dict[str, Any]
Detached = Callable[[Callable[[Report], Awaitable[Json]], Progress], Awaitable[Json]]
RECONCILE_TIMEOUT_S = 600.0
RECONCILE_TIMEOUT_MAX_S = 3600.0


@dataclass(frozen=True, slots=True)
class SourceApi:
    """The methods over the sources of an agent."""

    sources: Sources
    detached: Detached
    """Runs work to its end, also when its caller goes away."""

    def methods(self) -> Mapping[str, Method]:
        """Return the methods by name."""
        return {
            "source_put": self._put,
            "sources": self._list,
            "source_reconcile": self._reconcile,
            "source_suspend": self._suspend,
            "source_delete": self._delete,
        }

    async def _put(self, params: Json, _progress: Progress) -> Json:
        documents = await asyncio.to_thread(_read, params.get("documents"))
        await self.sources.settled()
        return {"sources": await self.sources.put(documents, dry=bool(params.get("dry", False)))}

    async def _list(self, params: Json, _progress: Progress) -> Json:
        await self.sources.settled()
        return {"apiVersion": "orch/v1", "kind": "SourceList", "items": self.sources.items(params.get("names"))}

    async def _reconcile(self, params: Json, progress: Progress) -> Json:
        asked = Asked(prune_all=bool(params.get("prune_all", False)))
        name, timeout_s = _name(params), float(params.get("timeout_s") or RECONCILE_TIMEOUT_S)

        async def work(report: Report) -> Json:
            await self.sources.settled()
            try:
                async with asyncio.timeout(min(timeout_s, RECONCILE_TIMEOUT_MAX_S)):
                    return await self.sources.reconcile(name, asked, report)
            except TimeoutError:
                hint = f"the agent goes on with it; orch source describe {name} shows how far it is"
                raise OrchError(Kind.DEADLINE, "it did not end in time", where=name, hint=hint) from None

        return await self.detached(work, progress)

    async def _suspend(self, params: Json, _progress: Progress) -> Json:
        await self.sources.settled()
        return await self.sources.suspend(_name(params), bool(params.get("on", True)))

    async def _delete(self, params: Json, progress: Progress) -> Json:
        name, kept = _name(params), bool(params.get("keep_deployments", False))

        async def work(report: Report) -> Json:
            await self.sources.settled()
            deleted = await self.sources.delete(name, keep_deployments=kept, report=report)
            return {"deleted": name, "deployments": deleted}

        return await self.detached(work, progress)


def _name(params: Json) -> str:
    return str(params.get("name"))


def _read(texts: Any) -> tuple[SourceDocument, ...]:
    """Return the sources in the texts of a caller; raise OrchError with the problems of all of them."""
    from orchestrator.manifest.files import Text  # an idle agent needs no YAML
    from orchestrator.manifest.load import load_texts  # as above

    if not isinstance(texts, list):
        raise OrchError(Kind.INVALID, f"documents must be a list, got {texts!r}")
    manifests = load_texts([_text(each, Text) for each in texts])
    if manifests.documents:
        at = manifests.documents[0].where("kind")
        raise OrchError(Kind.INVALID, [Problem("kind: must be 'Source' here, got 'Deployment'", str(at))])
    return manifests.sources


def _text(text: Any, made: Callable[[str, str, Path | None, Path], Any]) -> Any:
    path = Path(text["name"]) if Path(text["name"]).is_absolute() else None
    return made(text["name"], text["text"], path, Path(text["base"]))
