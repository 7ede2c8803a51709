"""Whether a pool's inferences end well: from those that callers asked for, and from made-up ones while nobody asks."""

from __future__ import annotations

from orchestrator.errors import Kind, OrchError

FAILED_MAX = 3  # so many failed inferences in a row are no accident
PROBE_EVERY_S = 10.0  # how old a good inference may be before an idle pool tries one; readiness tells the truth
PROBE_SHARE = 0.01  # of an idle pool's time at most: slow models are probed more seldom


class Health:
    """What the last inferences say. Its owner holds the lock."""

    __slots__ = ("_failed_in_a_row", "_probe_failed", "_probed", "last_good")

    def __init__(self, now: float) -> None:
        self.last_good = now  # the check before the start was one
        self._probed = now
        self._failed_in_a_row = 0
        self._probe_failed = False

    def ended_well(self, now: float) -> None:
        """Take a good end into account."""
        self.last_good = now
        self._failed_in_a_row = 0
        self._probe_failed = False

    def failed(self, error: OrchError, *, probe: bool) -> None:
        """Take a failure into account; one that the input caused, or a lack of memory, says nothing."""
        if probe:
            self._probe_failed = True
        elif error.kind not in (Kind.INVALID, Kind.OVERLOADED):
            self._failed_in_a_row += 1

    @property
    def good(self) -> bool:
        """Tell whether neither the last few inferences nor the last probe failed."""
        return not self._probe_failed and self._failed_in_a_row < FAILED_MAX

    def probe_due(self, now: float, service_s: float) -> bool:
        """Tell whether an idle pool should try an inference."""
        return now - max(self.last_good, self._probed) >= max(PROBE_EVERY_S, service_s / PROBE_SHARE)

    def probing(self, now: float) -> None:
        """Note that one is tried."""
        self._probed = now
