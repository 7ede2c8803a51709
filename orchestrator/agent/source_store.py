"""What the agent remembers of its sources, in the same SQLite file as its deployments."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.agent.source_state import Row, SourcePlan, SourceRecord, SourceState
from orchestrator.agent.store import Store
from orchestrator.planner.plan import DeploymentPlan, digest

_SELECT = "SELECT name, manifest, origin, labels, spec, generation, created, state FROM sources"


class SourceStore:
    """The sources in an open store; used from the store's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self) -> list[SourceRecord]:
        """Return all sources by name."""
        return [_record(row) for row in self._store.read(_SELECT + " ORDER BY name")]

    def one(self, name: str) -> SourceRecord | None:
        """Return one source."""
        rows = self._store.read(_SELECT + " WHERE name = ?", name)
        return _record(rows[0]) if rows else None

    def put(self, record: SourceRecord) -> None:
        """Keep a source as it is wanted, with how far it is."""
        labels = json.dumps(record.labels, sort_keys=True)
        values = (record.name, record.manifest, record.path, "", labels, record.plan.model_dump_json())
        with self._store.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO sources"
                " (name, manifest, origin, base, labels, spec, generation, created, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, record.generation, record.created, record.state.model_dump_json()),
            )

    def keep(self, name: str, state: SourceState) -> None:
        """Keep how far a source is."""
        with self._store.write() as connection:
            connection.execute("UPDATE sources SET state = ? WHERE name = ?", (state.model_dump_json(), name))

    def forget(self, name: str) -> None:
        """Forget a source; its deployments are then nobody's."""
        with self._store.write() as connection:
            connection.execute("DELETE FROM sources WHERE name = ?", (name,))
            connection.execute("UPDATE deployments SET source = NULL WHERE source = ?", (name,))

    def rows(self) -> dict[str, Row]:
        """Return of every deployment what shows whether it is as its source has it; no plan is parsed."""
        sql = "SELECT name, source, commit_id, desired, applied IS desired FROM deployments ORDER BY name"
        return {
            name: Row(source, commit, digest(desired)[:12], bool(settled))
            for name, source, commit, desired, settled in self._store.read(sql)
        }

    def kinds(self) -> dict[str, str]:
        """Return what kind of place each source is: git or folder."""
        sql = "SELECT name, CASE WHEN json_extract(spec, '$.folder') IS NULL THEN 'git' ELSE 'folder' END FROM sources"
        return dict(self._store.read(sql))

    def ran(self, name: str, number: int) -> tuple[str, DeploymentPlan] | None:
        """Return the manifest and the plan of a revision, None where it is not kept any more."""
        sql = "SELECT manifest, plan FROM revisions WHERE deployment = ? AND number = ?"
        rows = self._store.read(sql, name, number)
        return (rows[0][0], DeploymentPlan.model_validate_json(rows[0][1])) if rows else None

    def last_plans(self, kept: int) -> list[str]:
        """Return the plans, as they are kept, of the last so many revisions of each deployment, and all that run."""
        sql = (
            "SELECT plan FROM revisions AS r WHERE deployment IN (SELECT name FROM deployments)"
            " AND number > ? + (SELECT coalesce(max(number), 0) FROM revisions WHERE deployment = r.deployment)"
            " UNION SELECT desired FROM deployments"
            " UNION SELECT applied FROM deployments WHERE applied IS NOT NULL"
        )
        return [plan for (plan,) in self._store.read(sql, -kept)]


def to_text(record: SourceRecord) -> str:
    """Return what a lost store is rebuilt from: the source as it is wanted."""
    plan = record.plan.model_dump(mode="json")
    wish = {"name": record.name, "manifest": record.manifest, "path": record.path, "labels": record.labels}
    return json.dumps(wish | {"plan": plan, "generation": record.generation, "created": record.created})


def from_text(text: str) -> SourceRecord:
    """Return the source of which nothing was taken yet; raise ValueError, KeyError or TypeError for a damaged text."""
    wish = json.loads(text)
    plan = SourcePlan.model_validate_json(json.dumps(wish.pop("plan")))
    return SourceRecord(**wish, plan=plan, state=SourceState())


def _record(row: tuple[Any, ...]) -> SourceRecord:
    name, manifest, path, labels, spec, generation, created, state = row
    return SourceRecord(
        name=name,
        manifest=manifest,
        path=path,
        labels=json.loads(labels),
        plan=SourcePlan.model_validate_json(spec),
        generation=generation,
        created=created,
        state=SourceState.model_validate_json(state),
    )
