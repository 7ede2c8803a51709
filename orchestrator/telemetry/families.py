"""Metric families of prometheus_client out of a table whose lines say name, kind, labels and how to read a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

Values = Mapping[tuple[str, ...], float]
"""Numbers by the values of the labels."""
SUFFIXES = {"counter": "_total", "info": "_info"}
"""What prometheus_client appends to a name."""

Report = TypeVar("Report")


@dataclass(frozen=True, slots=True)
class Line(Generic[Report]):
    """One line of a table; the value of an info is always 1."""

    name: str
    type: Literal["counter", "gauge", "info"]
    help: str
    labels: tuple[str, ...]
    read: Callable[[Report], Values]

    @property
    def exported(self) -> str:
        """Return the name as queries write it."""
        return self.name + SUFFIXES.get(self.type, "")


def families(table: Iterable[Line[Report]], report: Report) -> Iterable[Metric]:
    """Return one family for each line that has a value."""
    for line in table:
        family = _family(line, line.read(report))
        if family.samples:
            yield family


def _family(line: Line[Report], values: Values) -> Metric:
    if line.type == "info":
        info = InfoMetricFamily(line.name, line.help)
        for labels in values:
            info.add_metric([], dict(zip(line.labels, labels, strict=True)))
        return info
    kind = CounterMetricFamily if line.type == "counter" else GaugeMetricFamily
    family = kind(line.name, line.help, labels=line.labels)
    for labels, number in values.items():
        family.add_metric(labels, number)
    return family
