"""When a worker that died is started again: at once, then later and later."""

from __future__ import annotations

import enum
from dataclasses import dataclass

HEALTHY_S = 60.0  # who lived this long did not die of its start: counting begins anew
LOOP_DEATHS = 3  # quick deaths in a row that make a crash loop
DELAY_MAX_S = 60.0
DELAY_AFTER_SERVING_MAX_S = 0.5  # who came up and served is wanted back within two seconds (DESIGN.md section 10)


class UnitState(enum.Enum):
    """What the agent does for a deployment's worker."""

    RUNNING = "Running"
    BACKOFF = "BackOff"
    CRASH_LOOP = "CrashLoop"
    FAILED = "Failed"  # its plan cannot run: trying again would not help
    MISSING = "Missing"


@dataclass(frozen=True, slots=True)
class Deaths:
    """The quick deaths in a row of one deployment's workers."""

    quick: int = 0
    served: bool = False
    """Whether the last to die had come up."""

    def after(self, healthy_s: float | None) -> Deaths:
        """Return the count after one more death, of a worker that had been healthy for so long; None: never."""
        if healthy_s is None:
            return Deaths(self.quick + 1)
        return Deaths(1 if healthy_s >= HEALTHY_S else self.quick + 1, served=True)

    @property
    def delay_s(self) -> float:
        """Return how long to wait before the next start: nothing, then 1, 2, 4 ... seconds."""
        if self.quick <= 1:
            return 0.0
        longest_s = DELAY_AFTER_SERVING_MAX_S if self.served else DELAY_MAX_S
        return float(min(longest_s, 2.0 ** min(self.quick - 2, 10)))

    @property
    def looping(self) -> bool:
        """Tell whether this is a crash loop."""
        return self.quick >= LOOP_DEATHS
