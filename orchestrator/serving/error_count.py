"""How many inference requests were answered with an error, by protocol and kind: also those that no pool saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from orchestrator.errors import Kind

Protocol = Literal["http", "grpc"]
PROTOCOLS: tuple[Protocol, ...] = ("http", "grpc")


class ErrorCount:
    """Counts on the event loop's thread; may be read on any."""

    def __init__(self) -> None:
        # All from the start: what is first seen at 1 has risen by nothing, for Prometheus.
        self._counts = {(protocol, kind.value): 0 for protocol in PROTOCOLS for kind in Kind}

    def note(self, protocol: Protocol, kind: Kind) -> None:
        """Count one answer."""
        self._counts[protocol, kind.value] += 1

    def counts(self) -> Mapping[tuple[str, str], int]:
        """Return the answers since the start by protocol and kind."""
        return {(protocol, kind): count for (protocol, kind), count in self._counts.items()}
