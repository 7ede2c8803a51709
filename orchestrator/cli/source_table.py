"""Turns sources into the table that `orch source list` shows, and one of them into the text of `describe`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.cli.description import events_table
from orchestrator.cli.render import NONE, Cell, Colour, Column, Screen, Table, cut_end, table
from orchestrator.cli.status_table import REASON_MAX, age

Json = Mapping[str, Any]
SHORT = 8  # digits of a commit for people

COLUMNS = (
    Column("NAME"),
    Column("TYPE", drop_rank=2),
    Column("PLACE", drop_rank=5),
    Column("PATH", wide_only=True),
    Column("HEALTH"),
    Column("APPLIED"),
    Column("ATTEMPTED", drop_rank=6),
    Column("DEPLOYMENTS", right=True, drop_rank=3),
    Column("INTERVAL", right=True, wide_only=True),
    Column("AUTHOR", wide_only=True),
    Column("SUBJECT", wide_only=True),
    Column("AGE", right=True, drop_rank=1),
    Column("REASON", wide_only=True, in_pipe=True),
)
_HEALTH = {"Healthy": Colour.GOOD, "Progressing": Colour.WARN, "Degraded": Colour.BAD}


def source_table(items: Sequence[Json], now: datetime) -> Table:
    """Return one row for each source, with why it is not as it should be below."""
    return Table(COLUMNS, tuple(_row(item, now) for item in items), tuple(_reason(item) for item in items))


def _row(item: Json, now: datetime) -> tuple[Cell, ...]:
    attempted = item["attempted"] or {}
    return (
        Cell(item["metadata"]["name"]),
        Cell(item["type"]),
        Cell(item["place"]),
        Cell(item["spec"]["path"]),
        Cell(item["health"], _HEALTH.get(item["health"])),
        Cell(_commit(item["applied"])),
        Cell(_commit(item["attempted"])),
        Cell(str(len(item["deployments"]))),
        Cell(f"{item['spec']['interval_s']:g}s"),
        Cell(attempted.get("author") or NONE),
        Cell(cut_end(attempted.get("subject") or NONE, 60)),
        Cell(age(attempted.get("began"), now)),
        Cell(cut_end(_reason(item), REASON_MAX)),
    )


def _commit(tried: Json | None) -> str:
    return NONE if tried is None else str(tried["commit"])[:SHORT]


def _reason(item: Json) -> str:
    return "" if item["health"] == "Healthy" and item["reason"] == "Applied" else str(item["message"])


def description(item: Json, events: Sequence[Json], where: Screen, now: datetime) -> str:
    """Return everything about a source."""
    lines = [f"{label:<13}{value}" for label, value in _facts(item, now) if value]
    for title, more in (("Faults", _faults(item)), ("Conditions", _conditions(item))):
        lines += ["", title, *(f"  {line}" for line in more)] if more else []
    text = "\n".join(lines) + "\n"
    if events:
        text += "\nEvents\n" + table(events_table(events, now, where), where)
    return text


def _facts(item: Json, now: datetime) -> Iterable[tuple[str, str]]:
    spec, remote = item["spec"], item["remote"]
    yield "Name", item["metadata"]["name"]
    yield "Place", item["place"] + (f", branch {spec['branch']}" if spec["branch"] else "")
    yield "Path", spec["path"]
    yield "Interval", f"{spec['interval_s']:g}s"
    yield "Webhook", _webhook(item)
    yield "Locks", spec["locks"]
    yield "Prune", "no" if not spec["prune"] else "yes, also all" if spec["prune_all"] else "yes"
    yield "Health", f"{item['health']} ({item['reason']}): {item['message']}"
    yield "Remote", "" if remote["answers"] else f"{remote['message']} (for {age(remote['since'], now)})"
    yield "Applied", _told(item["applied"], now)
    yield "Attempted", _told(item["attempted"], now)
    yield "Deployments", ", ".join(item["deployments"])
    yield "Held", ", ".join(item["held"])


def _webhook(item: Json) -> str:
    if not item["spec"]["webhook"]:
        return ""
    listening = next((each for each in item["conditions"] if each["type"] == "Listening"), None)
    silent = f" (does not listen: {listening['message']})" if listening and listening["status"] != "True" else ""
    return f"http://{item['spec']['webhook']}/hooks/{item['metadata']['name']}{silent}"


def _told(tried: Json | None, now: datetime) -> str:
    if tried is None:
        return NONE
    author = f" by {tried['author']}" if tried["author"] else ""
    subject = f" ({tried['subject']})" if tried["subject"] else ""
    return f"{tried['commit'][:SHORT]}{author}{subject}, {age(tried['began'], now)} ago, {tried['result']}"


def _faults(item: Json) -> list[str]:
    lines = []
    for fault in (item["attempted"] or {}).get("faults") or ():
        where = f"{fault['where']}: " if fault["where"] else ""
        whose = f" (commit {fault['commit'][:SHORT]}" if fault["commit"] else ""
        whose += f" by {fault['author']})" if whose and fault["author"] else ")" if whose else ""
        lines.append(f"{where}{fault['what']}{whose}")
        if fault["hint"]:
            lines.append(f"  hint: {fault['hint']}")
    return lines


def _conditions(item: Json) -> list[str]:
    return [
        f"{each['type']:<12} {each['status']:<8} {each['reason']} since {each['lastTransitionTime']}"
        for each in item["conditions"]
    ]
