"""The names that a shell offers for completion: deployments, their models, and sources."""

from __future__ import annotations

from orchestrator.agent.status import Json
from orchestrator.agent.store import Store

_MODELS = (
    "SELECT d.name || '/' || json_extract(m.value, '$.name') FROM deployments d,"
    " json_each(coalesce(d.applied, d.desired), '$.models') m ORDER BY 1"
)


def names(store: Store) -> Json:
    """Return the names of each kind; SQLite finds the models, as somebody waits with a finger on TAB."""
    return {
        "deployments": [row[0] for row in store.read("SELECT name FROM deployments ORDER BY name")],
        "models": [row[0] for row in store.read(_MODELS)],
        "sources": [row[0] for row in store.read("SELECT name FROM sources ORDER BY name")],
    }
