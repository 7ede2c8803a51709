"""Remembers what ran before a commit was tried, and puts it back when the commit fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.agent.reconcile import Reconciler
from orchestrator.agent.source_state import Before
from orchestrator.agent.source_store import SourceStore
from orchestrator.agent.store import Origin, Store
from orchestrator.agent.turns import Report
from orchestrator.errors import OrchError


@dataclass(frozen=True, slots=True)
class Undo:
    """Puts back what ran."""

    store: Store
    sources: SourceStore
    reconciler: Reconciler

    def remember(self, names: Sequence[str]) -> dict[str, Before]:
        """Return how the deployments are now; one that is wanted and never ran is left out, nothing brings it back."""
        found = {}
        for name in names:
            record = self.store.deployment(name)
            if record is None:
                found[name] = Before(revision=None)
            elif record.applied_revision is not None:
                origin = record.origin
                found[name] = Before(
                    revision=record.applied_revision,
                    path=origin.path,
                    base=origin.base,
                    labels=origin.labels,
                    source=origin.source,
                    commit=origin.commit,
                )
        return found

    async def put_back(self, before: Mapping[str, Before], report: Report, deadline: float) -> list[OrchError]:
        """Bring the deployments back to how they were, the last first; return why some are not."""
        errors = []
        for name in reversed(list(before)):
            try:
                await self._one(name, before[name], report, deadline)
            except OrchError as error:
                errors.append(error)
        return errors

    async def _one(self, name: str, before: Before, report: Report, deadline: float) -> None:
        record = self.store.deployment(name)
        if before.revision is None:
            if record is not None:
                await self.reconciler.delete([name], report)
            return
        ran = self.sources.ran(name, before.revision)
        if ran is None:  # not kept any more: a hundred revisions came since
            return
        manifest, plan = ran
        whence = (before.path, before.base, before.labels, before.source, before.commit)
        origin = Origin(manifest, *whence, note="put back after a commit that failed")
        if record is None or record.origin != origin or record.desired != plan:
            # Not on trial: it is what there is to go back to.
            await self.reconciler.put_back(origin, plan, report, deadline, trial=False)
