"""The results of an overload run as Markdown, and each goal with whether it was met: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Final

GOODPUT_GOALS: Final[Mapping[float, float]] = {1.5: 0.95, 2.0: 0.92, 5.0: 0.80}
P99_GOAL: Final = 1.05  # of the SLO
REFUSED_GOAL_MS: Final = 10.0
RECOVERY_GOAL_S: Final = 1.0
STATUSES_GOAL: Final = frozenset({"200", "503"})
Record = Mapping[str, Any]


def good(records: Sequence[Record]) -> list[Record]:
    """Return the records of the rounds that ended well."""
    return [record for record in records if "error" not in record]


def capacity(records: Sequence[Record]) -> float:
    """Return the median closed-loop capacity."""
    return median(record["capacity"]["per_s"] for record in records)


def at(records: Sequence[Record], multiple: float) -> list[Record]:
    """Return the steps at a multiple of the capacity, one of each round."""
    return [step for record in records for step in record["steps"] if step["multiple"] == multiple]


def middle(values: Iterable[float | None]) -> float | None:
    """Return the median of what there is; None when there is nothing."""
    there = [value for value in values if value is not None]
    return median(there) if there else None


def share(records: Sequence[Record], multiple: float) -> float | None:
    """Return the median over rounds of the goodput as a share of that round's capacity."""
    ratios = [
        step["score"]["in_time_per_s"] / record["capacity"]["per_s"]
        for record in records
        for step in record["steps"]
        if step["multiple"] == multiple
    ]
    return middle(ratios)


def multiples(records: Sequence[Record]) -> list[float]:
    """Return the multiples of the capacity that were offered."""
    return [step["multiple"] for step in records[0]["steps"]]


def worst(records: Sequence[Record], figure: str) -> float | None:
    """Return the median over rounds of the worst figure of any load."""
    return middle(
        max((step["score"][figure] for step in record["steps"] if step["score"][figure] is not None), default=None)
        for record in records
    )


def statuses(records: Sequence[Record]) -> set[str]:
    """Return all statuses that were seen."""
    return {status for record in records for step in record["steps"] for status in step["score"]["statuses"]}


def recovered(records: Sequence[Record]) -> tuple[float | None, float]:
    """Return the longest time until well again, None when a round did not see it, and how long was looked."""
    last = [record["steps"][-1] for record in records]
    seen = [step["recovery_s"] for step in last]
    return None if None in seen else max(seen), last[0]["fall_seen_s"]


def markdown(results: Record) -> str:
    """Return all tables."""
    there = {key: good(records) for key, records in results["records"].items() if key != "bars"}
    there = {key: records for key, records in there.items() if records}
    repeated = {key: [record] for key, record in results["anything"].items() if "error" not in record}
    parts = [_goodput(there, results), _manners(there, results["slo_ms"]), _any(repeated), _notes(results)]
    return "\n\n".join(parts)


def _goodput(there: Mapping[str, Sequence[Record]], results: Record) -> str:
    offered = multiples(next(iter(there.values())))
    head = " | ".join(f"{multiple:g}x" for multiple in offered)
    lines = [
        f"| answers in time per second (share of capacity) | capacity | {head} |",
        "|---" * (len(offered) + 2) + "|",
    ]
    bars = results["records"].get("bars", [])
    empty = " |" * len(offered)
    lines += [
        f"| {key} | {median(bar[key]['per_s'] for bar in bars):.0f} |{empty}" for key in (bars[0] if bars else ())
    ]
    for key, records in there.items():
        cells = " | ".join(_cell(records, multiple) for multiple in offered)
        lines += [f"| {key} | {capacity(records):.0f} | {cells} |"]
    return "\n".join(lines)


def _cell(records: Sequence[Record], multiple: float) -> str:
    per_s = middle(step["score"]["in_time_per_s"] for step in at(records, multiple))
    return f"{per_s:.0f} ({share(records, multiple):.2f})"


def _manners(there: Mapping[str, Sequence[Record]], slo_ms: float) -> str:
    lines = [
        "| | p99 of the answered, worst load | p99 of refusals, worst load | memory at 5x | well again after "
        "| other than 200 and 503 | goals |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, records in there.items():
        memory = middle(record["steps"][-1]["memory_mb"] for record in records)
        other = ", ".join(_named(status) for status in sorted(statuses(records) - STATUSES_GOAL)) or "none"
        lines.append(
            f"| {key} | {_ms(worst(records, 'answered_ms_p99'))} | {_ms(worst(records, 'refused_ms_p99'))} "
            f"| {memory:.0f} MB | {_recovery(records)} | {other} | {_goals(records, slo_ms)} |"
        )
    return "\n".join(lines)


def _any(repeated: Mapping[str, Sequence[Record]]) -> str:
    offered = [1.0, 1.5, 2.0, 5.0]
    head = " | ".join(f"{multiple:g}x" for multiple in offered)
    lines = [
        f"| orch, nothing set by hand | capacity | {head} | p99 of the answered | p99 of refusals | well again after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, records in repeated.items():
        cells = " | ".join(f"{share(records, multiple):.2f}" for multiple in offered)
        lines.append(
            f"| {key} | {capacity(records):.0f} | {cells} | {_ms(worst(records, 'answered_ms_p99'))} "
            f"| {_ms(worst(records, 'refused_ms_p99'))} | {_recovery(records)} |"
        )
    return "\n".join(lines)


def missed(records: Sequence[Record], slo_ms: float) -> list[str]:
    """Return the goals that were missed, each with its figure."""
    found = []
    for multiple, goal in GOODPUT_GOALS.items():
        got = share(records, multiple)
        if got is not None and got < goal:
            found.append(f"{multiple:g}x {got:.2f} < {goal:.2f}")
    p99, refused = worst(records, "answered_ms_p99"), worst(records, "refused_ms_p99")
    if p99 is None or p99 > P99_GOAL * slo_ms:
        found.append(f"p99 {_ms(p99)}")
    if refused is not None and refused > REFUSED_GOAL_MS:
        found.append(f"refusals {_ms(refused)}")
    well, _ = recovered(records)
    if well is None or well > RECOVERY_GOAL_S:
        found.append(f"well again {_recovery(records)}")
    other = statuses(records) - STATUSES_GOAL
    if other:
        found.append("statuses")
    return found


def _goals(records: Sequence[Record], slo_ms: float) -> str:
    return "; ".join(missed(records, slo_ms)) or "all met"


def _recovery(records: Sequence[Record]) -> str:
    well, looked = recovered(records)
    return f"> {looked:g} s" if well is None else f"{well:g} s"


def _named(status: str) -> str:
    return {"-1": "no answer within 1 s", "0": "broken connections"}.get(status, status)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _notes(results: Record) -> str:
    every = [record for records in results["records"].values() for record in records if "steps" in record]
    every += [record for record in results["anything"].values() if "steps" in record]
    steps = [step for record in every for step in record["steps"]]
    tainted = sum(step["tainted"] for step in steps)
    bottlenecks = sum(step["bottleneck"] is not None for step in steps)
    peers = ", ".join(f"{name} {version}" for name, version in results["peers"].items())
    return (
        f"{len(steps)} loads; {tainted} with neighbours above the limit also when repeated; in {bottlenecks} the "
        f"client was the bottleneck. {results['machine']}; {peers}; {results['when']}"
    )
