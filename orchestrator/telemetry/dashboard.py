"""The Grafana dashboard, as the JSON that Grafana imports, laid out of the table of panels."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.telemetry.panels import ROWS, Panel, Query

WIDTH = 24  # columns of Grafana's grid
TALL, LOW = 8, 4
SCHEMA = 39  # of Grafana 10 and 11; later ones migrate it
COLOURS = ("green", "yellow", "orange", "red")


def panels() -> list[Panel]:
    """Return every panel, in order."""
    return [panel for _, row in ROWS for panel in row]


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    return {
        "uid": "orch",
        "title": "orch",
        "description": "OpenVINO models under an SLO: load, latency, how full each pool is and why.",
        "tags": ["openvino", "inference", "orch"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": _laid_out(),
    }


def text() -> str:
    """Return the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "type": "datasource", "label": "Prometheus", "query": "prometheus", "hide": 0}
    return [
        source,
        _label("deployment", "Deployment", "label_values(orch_worker_start_time_seconds, deployment)"),
        _label("model", "Model", 'label_values(orch_infer_requests{deployment=~"$deployment"}, model)'),
    ]


def _label(name: str, label: str, query: str) -> dict[str, Any]:
    every = {"selected": True, "text": ["All"], "value": ["$__all"]}
    return {
        "name": name,
        "type": "query",
        "label": label,
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes: deployments come and go
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": every,
        "sort": 1,
        "hide": 0,
    }


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _laid_out() -> list[dict[str, Any]]:
    """Return rows and panels with their places and numbers."""
    made: list[dict[str, Any]] = []
    x = y = 0
    for title, row in ROWS:
        place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
        made.append({"type": "row", "title": title, "id": len(made) + 1, "gridPos": place, "panels": []})
        x, y, height = 0, y + 1, 0
        for panel in row:
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            height = LOW if panel.kind == "stat" else TALL
            place = {"h": height, "w": panel.width, "x": x, "y": y}
            made.append(_panel(panel) | {"id": len(made) + 1, "gridPos": place})
            x += panel.width
        y += height
    return made


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [_target(panel, query, chr(ord("A") + index)) for index, query in enumerate(panel.queries)],
    }


def _target(panel: Panel, query: Query, letter: str) -> dict[str, Any]:
    target = {"refId": letter, "datasource": _SOURCE, "expr": query.expr, "legendFormat": query.legend}
    return target | ({"instant": True, "range": False, "format": "table"} if panel.kind == "table" else {})


def _defaults(panel: Panel) -> dict[str, Any]:
    steps = [{"color": colour, "value": None if value == 0 else value} for colour, value in panel.steps]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if steps:
        defaults |= {"thresholds": {"mode": "absolute", "steps": steps}, "color": {"mode": "thresholds"}}
    if panel.kind == "timeseries":
        defaults |= {"color": {"mode": "palette-classic"}, "custom": {"fillOpacity": 8, "lineWidth": 1}}
    if panel.words:
        told = zip(panel.words, COLOURS, strict=True)
        mapped = {str(value): {"text": word, "color": colour} for value, (word, colour) in enumerate(told)}
        defaults |= {"mappings": [{"type": "value", "options": mapped}], "max": len(panel.words) - 1}
    return defaults


_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "area"},
    "state-timeline": {"mergeValues": True, "showValue": "auto", "legend": {"displayMode": "list"}},
    "table": {"showHeader": True},
}
