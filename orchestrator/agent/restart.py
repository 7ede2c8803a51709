"""When a worker counts as hung, and when one that died is started again: at once, then later and later."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import assert_never

HEALTHY_S = 60.0  # who lived this long did not die of its start: counting begins anew
LOOP_DEATHS = 3  # quick deaths in a row that make a crash loop
DELAY_MAX_S = 60.0
HUNG_AFTER_S = 15.0
HUNG_CHANGING_S = 120.0  # some compilers hold the interpreter; but who answers nothing serves nobody either
START_TIMEOUT_S = 600.0  # compiling 256 models on 2 cores takes minutes
HUNG_POLLS = 5
POLL_S = 2.0
POLLS_PER_S_MAX = (
    15.0  # of all workers together: each costs the agent 0.4 ms, and idling shall cost below 1 % of a core
)
DELAY_AFTER_SERVING_MAX_S = 0.5  # who came up and served is wanted back within two seconds (DESIGN.md section 10)


def pause_s(workers: int) -> float:
    """Return the seconds between two looks at so many workers: longer where there are many."""
    return max(POLL_S, workers / POLLS_PER_S_MAX)


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


class Stage(enum.Enum):
    """What a worker is about, as far as it is known."""

    STARTING = "starting"  # it has not been ready yet
    CHANGING = "changing"
    SERVING = "serving"


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a worker has not answered."""

    seconds: float
    polls: int
    """How often it was asked in that time."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker may be silent until it counts as hung."""

    serving_s: float = HUNG_AFTER_S
    changing_s: float = HUNG_CHANGING_S
    start_s: float = START_TIMEOUT_S
    """While it starts; from then on as if it served."""
    polls: int = HUNG_POLLS
    """Asked at least so often: an agent that slept itself has not waited."""

    def is_over(self, silence: Silence, stage: Stage, age_s: float) -> bool:
        """Tell whether a worker of this age counts as hung."""
        if silence.polls < self.polls or silence.seconds < self.serving_s:
            return False
        match stage:
            case Stage.SERVING:
                return True
            case Stage.CHANGING:
                return silence.seconds >= self.changing_s
            case Stage.STARTING:
                return age_s >= self.start_s
        assert_never(stage)
