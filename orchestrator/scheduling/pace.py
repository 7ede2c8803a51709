"""How long an inference takes lately, by its rows: learned from those that ended well, followed as the machine changes.

An inference of a model compiled for a batch takes as long however many of its rows are used, so each compiled size has
a mean of its own. Elsewhere the time is a start plus so much for each row (BentoML and Packrat fit the same), found by
a regression that forgets. The tail is a factor on the mean, moved up a little by each slower inference and down by
each faster one so that the wanted share of them stays below it: no samples are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

# Service times vary little (Clockwork, OSDI'20), so a short memory is enough to follow a machine that gets busier.
MEMORY = 0.1
TAIL_FIRST = 1.1  # before anything was seen
TAIL_STEP = 0.03
TAIL_MIN, TAIL_MAX = 0.5, 8.0  # beyond, it is no tail but a wedged device
SPREAD_MIN = 0.01  # variance of the rows below which nothing tells how the time depends on them


class Pace:
    """The present estimate; `mean_s` is None until one inference was seen or `service_s` given."""

    __slots__ = (
        "_by_size",
        "_full",
        "_product",
        "_row_s",
        "_rows",
        "_sizes",
        "_spread",
        "_start_s",
        "full_s",
        "least_s",
        "mean_s",
        "tail",
    )

    def __init__(self, service_s: float | None = None, sizes: Sequence[int] = (), rows: int = 1, full: int = 1) -> None:
        """Begin with `service_s`, that of an inference of `rows` rows; a full one has `full`."""
        self.mean_s = service_s
        self.tail = TAIL_FIRST
        self._sizes = tuple(sizes)
        self._by_size: dict[int, float] = {}
        self._rows = float(rows)
        self._spread = 0.0
        self._product = 0.0
        self._row_s = 0.0
        self._start_s = service_s or 0.0
        self.least_s = self._start_s
        """The mean time of an inference of one row."""
        self.full_s = self._start_s
        """The mean time of a full one."""
        self._full = full

    def seed(self, size: int, seconds: float) -> None:
        """Tell what an inference of a compiled size was measured to take."""
        self._by_size[size] = seconds
        self._follow()

    def seconds(self, rows: int) -> float:
        """Return the mean time of an inference of that many rows, 0 where nothing is known."""
        if self._by_size:
            return self._of_size(rows)
        return self._start_s + self._row_s * rows

    def tail_s(self, rows: int) -> float:
        """Return the time below which the wanted share of such inferences stays."""
        return self.tail * self.seconds(rows)

    def _of_size(self, rows: int) -> float:
        seconds = self._by_size.get(self.size(rows))
        # A size that was not seen yet: no guess is better than the mean of all.
        return (self.mean_s or 0.0) if seconds is None else seconds

    def size(self, rows: int) -> int:
        """Return the smallest compiled size that holds the rows; the rows themselves where there are no sizes."""
        return next((size for size in self._sizes if size >= rows), rows)

    def learn(self, rows: int, seconds: float, share: float) -> None:
        """Take an inference that ended well into account; `share` of them are to stay below the tail."""
        if self.mean_s is None:
            self.mean_s = self._start_s = seconds
            self._rows = float(rows)
        expected = self.seconds(rows) if self._by_size else self._start_s + self._row_s * rows
        if seconds > self.tail * expected:
            self.tail = min(TAIL_MAX, self.tail + TAIL_STEP * share)
        elif self.tail > TAIL_MIN:
            self.tail -= TAIL_STEP * (1 - share)
        more = seconds - self.mean_s
        self.mean_s += MEMORY * more
        if self._sizes:
            size = self.size(rows)
            before = self._by_size.get(size)
            self._by_size[size] = seconds if before is None else before + MEMORY * (seconds - before)
            self._follow()
            return
        longer = rows - self._rows
        if longer or self._spread:
            self._fit(longer, more)
        self._start_s = self.mean_s - self._row_s * self._rows
        self.least_s = self._start_s + self._row_s
        self.full_s = self._start_s + self._row_s * self._full

    def _follow(self) -> None:
        self.least_s, self.full_s = self.seconds(1), self.seconds(self._full)

    def _fit(self, longer: float, more: float) -> None:
        """Follow how the time depends on the rows: `longer` and `more` than the mean of both."""
        self._rows += MEMORY * longer
        self._spread = (1 - MEMORY) * (self._spread + MEMORY * longer * longer)
        self._product = (1 - MEMORY) * (self._product + MEMORY * longer * more)
        if self._spread < SPREAD_MIN:
            self._spread = self._product = 0.0  # the rows have been alike for long: what was learned of them stays
            self._rows = float(round(self._rows))
            return
        assert self.mean_s is not None
        self._row_s = min(self.mean_s / self._rows, max(0.0, self._product / self._spread))
