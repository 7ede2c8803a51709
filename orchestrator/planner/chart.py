"""Draws latency against arrival rate as SVG that needs no script: curves, SLO line, capacities, direct labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from math import floor, hypot, log10

from orchestrator.planner.curve import Point
from orchestrator.planner.decision import Capacity
from orchestrator.planner.explain import duration, rate
from orchestrator.planner.report_style import SERIES

DASHES = ("", "8 4", "2 4", "11 3 2 3")
LETTER_WIDTH = 0.56  # of the font size, on average, in the sans serif faces that the page asks for
NAMED_ALL = 7  # with more arms than this only the first few are named beside their curves; all have their letter
NAMED_FIRST = 4
ASKED_BEYOND = 2.5  # a rate asked for that is this much above all else is told at the edge, not drawn to scale


@dataclass(frozen=True, slots=True)
class Series:
    """One arm in the chart."""

    number: int
    """From 0, which is the chosen one; decides letter, colour, shape and dashes."""
    name: str
    target: str
    """Id of its row in the table, to which its mark leads."""
    points: tuple[Point, ...]
    capacity: Capacity | None

    @property
    def letter(self) -> str:
        """Return what names the arm in chart and table: A to Z, then A2."""
        turn, place = divmod(self.number, 26)
        return chr(ord("A") + place) + (str(turn + 1) if turn else "")

    @property
    def colour(self) -> str:
        """Return the class that colours it; the first is kept for the chosen arm."""
        return f"s{1 + (self.number - 1) % (SERIES - 1) if self.number else 0}"


@dataclass(frozen=True, slots=True)
class Drawing:
    """What one chart shows."""

    title: str
    described: str
    percentile: float
    slo_s: float | None
    asked_per_s: float | None
    seen: Point | None
    """Rate of the proof and the percentile observed there."""
    series: tuple[Series, ...]
    ceiling_s: float
    axis: str = ""
    """What is drawn upwards; by default the latency at the percentile."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Maps rates and latencies to the pixels of one size of the chart."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    font: int
    names: bool
    """Whether there is room for the names of the arms, not only their letters."""
    most_per_s: float
    ceiling_s: float

    def x(self, per_s: float) -> float:
        """Return the pixels from the left."""
        return self.left + (self.width - self.left - self.right) * min(1.0, per_s / self.most_per_s)

    def y(self, latency_s: float) -> float:
        """Return the pixels from the top."""
        return self.base - (self.base - self.top) * min(1.0, latency_s / self.ceiling_s)

    @property
    def base(self) -> int:
        """Return where the horizontal axis is."""
        return self.height - self.bottom

    @property
    def end(self) -> int:
        """Return where the plot ends to the right."""
        return self.width - self.right


@dataclass(slots=True)
class _Room:
    """What of the plot is taken while labels are placed; lives for one drawing only."""

    frame: Frame
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    dots: list[tuple[float, float]] = field(default_factory=list)

    def box(self, x: float, y: float, text: str, anchor: str) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom of a text whose baseline begins, or ends, at the point."""
        wide = len(text) * LETTER_WIDTH * self.frame.font + 4
        left = x - wide if anchor == "end" else x
        return left, y - self.frame.font, left + wide, y + 4

    def cost(self, box: tuple[float, float, float, float]) -> float:
        """Return how bad it is to print there: over other text worst, over lines less."""
        left, top, right, bottom = box
        if left < self.frame.left or right > self.frame.end + 4 or top < self.frame.top - 4 or bottom > self.frame.base:
            return 1e6
        over = sum(left < b[2] and b[0] < right and top < b[3] and b[1] < bottom for b in self.boxes)
        return 1e3 * over + sum(left < x < right and top < y < bottom for x, y in self.dots)


def chart(drawing: Drawing, ident: str) -> str:
    """Return the chart in a wide and a narrow size; the style sheet shows one of them."""
    return _svg(drawing, ident, narrow=False) + _svg(drawing, ident, narrow=True)


def shape(number: int, x: float, y: float, r: float = 6.0) -> str:
    """Return the mark of an arm: a shape of its own, so that colour is not all that tells arms apart."""
    if number % 6 == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"/>'
    corners = {
        1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        2: ((0, -1.15), (1.05, 0.85), (-1.05, 0.85)),
        3: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        4: ((0, 1.15), (1.05, -0.85), (-1.05, -0.85)),
        5: ((-0.55, -1.1), (0.55, -1.1), (1.15, 0), (0.55, 1.1), (-0.55, 1.1), (-1.15, 0)),
    }[number % 6]
    points = " ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" points="{points}"/>'


def ticks(most: float, wanted: int) -> tuple[float, ...]:
    """Return round values from 0 up to `most`, about as many as wanted: steps of 1, 2 or 5 times a power of ten."""
    raw = most / wanted
    power = 10.0 ** floor(log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    return tuple(step * number for number in range(int(most / step + 1e-9) + 1))


def _svg(drawing: Drawing, ident: str, *, narrow: bool) -> str:
    frame = _frame(drawing, narrow=narrow)
    room = _Room(frame)
    base = f"{ident}-{'narrow' if narrow else 'wide'}"
    parts = [
        f'<svg class="chart {"narrow" if narrow else "wide"}" viewBox="0 0 {frame.width} {frame.height}" role="group"'
        f' aria-labelledby="{base}-title {base}-desc" font-size="{frame.font}">',
        f'<title id="{base}-title">{escape(drawing.title)}</title>',
        f'<desc id="{base}-desc">{escape(drawing.described)}</desc>',
        _grid(frame, drawing),
        _lines(frame, drawing, room),
        _arms(frame, drawing, room),
        _seen(frame, drawing, room),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def _frame(drawing: Drawing, *, narrow: bool) -> Frame:
    rates = [each.capacity.high_per_s for each in drawing.series if each.capacity]
    rates += [each.points[-1].per_s for each in drawing.series if each.points]
    rates += [drawing.seen.per_s] if drawing.seen else []
    most = max(rates, default=0.0) or drawing.asked_per_s or 1.0
    if drawing.asked_per_s and drawing.asked_per_s <= ASKED_BEYOND * most:
        most = max(most, drawing.asked_per_s)
    sizes = (360, 350, 46, 10, 30, 46, 13) if narrow else (1040, 470, 66, 20, 36, 52, 15)
    return Frame(*sizes, names=not narrow, most_per_s=1.06 * most, ceiling_s=drawing.ceiling_s)


def _unit(ceiling_s: float) -> tuple[str, float]:
    if ceiling_s >= 2:
        return "s", 1.0
    return ("ms", 1e3) if ceiling_s >= 0.002 else ("us", 1e6)


def _grid(frame: Frame, drawing: Drawing) -> str:
    unit, factor = _unit(frame.ceiling_s)
    parts = []
    if drawing.slo_s is not None:
        high = frame.y(drawing.slo_s) - frame.top
        wide = frame.end - frame.left
        parts.append(f'<rect class="over" x="{frame.left}" y="{frame.top}" width="{wide}" height="{high:.1f}"/>')
    for value in ticks(frame.ceiling_s * factor, 5):
        y = frame.y(value / factor)
        parts.append(f'<path class="grid" d="M{frame.left} {y:.1f}H{frame.end}"/>')
        parts.append(words(frame.left - 8, y + 4, f"{value:g}", "soft", "end"))
    for value in ticks(frame.most_per_s, 5 if frame.width < 500 else 9):
        x = frame.x(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {frame.base}v5"/>')
        parts.append(words(x, frame.base + 5 + frame.font, f"{value:g}", "soft", "middle"))
    parts.append(f'<path class="axis" d="M{frame.left} {frame.base}H{frame.end}"/>')
    parts.append(
        words(4, frame.top - 14, f"{drawing.axis or f'p{drawing.percentile:g} latency'}, {unit}", "soft", "start")
    )
    parts.append(words(frame.end, frame.height - 8, "arrival rate, requests per second", "soft", "end"))
    return "\n".join(parts)


def _lines(frame: Frame, drawing: Drawing, room: _Room) -> str:
    """Return the SLO line and the line of the rate asked for."""
    parts = []
    if drawing.slo_s is not None:
        y = frame.y(drawing.slo_s)
        parts.append(f'<path class="slo" stroke-width="2" d="M{frame.left} {y:.1f}H{frame.end}"/>')
        says = f"SLO {duration(drawing.slo_s)}" + (", missed above" if frame.names else "")
        parts.append(words(frame.left + 8, y - 7, says, "slo-text halo", "start"))
        room.boxes.append(room.box(frame.left + 8, y - 7, says, "start"))
        room.dots += [(float(x), y) for x in range(frame.left, frame.end, 6)]
    if drawing.asked_per_s:
        says = f"asked {rate(drawing.asked_per_s)}"
        beyond = drawing.asked_per_s > frame.most_per_s
        x = frame.x(drawing.asked_per_s)
        if not beyond:
            parts.append(f'<path class="asked" d="M{x:.1f} {frame.top}V{frame.base}"/>')
            room.dots += [(x, float(y)) for y in range(frame.top, frame.base, 6)]
        anchor = "end" if beyond or x > frame.end - 90 else "middle"
        if x < frame.left + 12 * frame.font:  # beside the name of the axis
            x, anchor = max(x, frame.left + 7.0 * frame.font), "start"
        parts.append(words(x, frame.top - 14, says + (" \N{RIGHTWARDS ARROW}" if beyond else ""), "", anchor))
    return "\n".join(parts)


def _arms(frame: Frame, drawing: Drawing, room: _Room) -> str:
    """Return all arms, the chosen one last and so on top, but labelled first and so best."""
    paths = {each.number: _path(frame, each.points) for each in drawing.series}
    marks = {each.number: _mark_at(frame, drawing, each) for each in drawing.series}
    for number, path in paths.items():
        room.dots += _dense(path)
        if mark := marks[number]:
            room.boxes.append((mark[0] - 7, mark[1] - 7, mark[0] + 7, mark[1] + 7))
    drawn = [
        _arm(frame, drawing, each, paths[each.number], mark, room)
        for each in drawing.series
        if (mark := marks[each.number])
    ]
    return "\n".join(reversed(drawn))


def _path(frame: Frame, points: Sequence[Point]) -> list[tuple[float, float]]:
    """Return the curve in pixels, cut where it leaves the plot."""
    path: list[tuple[float, float]] = []
    for here, then in pairwise([*points, *points[-1:]]):
        if here.latency_s > frame.ceiling_s:
            break
        path.append((frame.x(here.per_s), frame.y(here.latency_s)))
        if then.latency_s > frame.ceiling_s:
            share = (frame.ceiling_s - here.latency_s) / (then.latency_s - here.latency_s)
            path.append((frame.x(here.per_s + share * (then.per_s - here.per_s)), float(frame.top)))
            break
    return path


def _dense(path: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points along the path at most 6 pixels apart."""
    found = []
    for (x, y), (then_x, then_y) in pairwise(path):
        count = max(1, int(hypot(then_x - x, then_y - y) / 6))
        found += [(x + (then_x - x) * k / count, y + (then_y - y) * k / count) for k in range(count)]
    return [*found, *path[-1:]]


def _mark_at(frame: Frame, drawing: Drawing, series: Series) -> tuple[float, float] | None:
    """Return where the arm's mark is: at its capacity on the SLO line, else at its lowest load."""
    if series.capacity and series.capacity.per_s > 0 and drawing.slo_s is not None:
        return frame.x(series.capacity.per_s), frame.y(drawing.slo_s)
    if series.points:
        return frame.x(series.points[0].per_s), frame.y(series.points[0].latency_s)
    return None


def _arm(
    frame: Frame,
    drawing: Drawing,
    series: Series,
    path: list[tuple[float, float]],
    mark: tuple[float, float],
    room: _Room,
) -> str:
    says = _spoken(drawing, series)
    named = frame.names and (len(drawing.series) <= NAMED_ALL or series.number < NAMED_FIRST)
    label = f"{series.letter}  {series.name}" if named else series.letter
    if series.points and not path:  # all of it lies above the plot
        label += f" \N{UPWARDS ARROW} {duration(series.points[0].latency_s)}"
    x, y, anchor = _place(room, _dense(path) or [mark], mark, label)
    dash = DASHES[series.number % len(DASHES)] if series.number else ""
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in path)
    parts = [
        f'<g class="arm {series.colour}{"" if series.number else " chosen"}">',
        f'<polyline class="curve" points="{line}"{f" stroke-dasharray={dash!r}" if dash else ""}/>'.replace("'", '"'),
        _spread(frame, drawing, series),
        f'<a href="#{escape(series.target)}" aria-label="{escape(says)}"><title>{escape(says)}</title>',
        f'<circle class="ring" cx="{mark[0]:.1f}" cy="{mark[1]:.1f}" r="11"/>',
        shape(series.number, *mark, 6.5 if series.number == 0 else 5.5),
        words(x, y, label, "name", anchor),
        "</a></g>",
    ]
    return "\n".join(part for part in parts if part)


def _spoken(drawing: Drawing, series: Series) -> str:
    chosen = ", chosen" if series.number == 0 else ""
    head = f"{series.letter}: {series.name}{chosen}"
    if series.capacity and series.capacity.per_s > 0 and drawing.slo_s is not None:
        low, high = rate(series.capacity.low_per_s), rate(series.capacity.high_per_s)
        within = f"p{drawing.percentile:g} within {duration(drawing.slo_s)}"
        return f"{head}: holds {within} up to {rate(series.capacity.per_s)}, between {low} and {high}"
    if series.points:
        lowest = f"p{drawing.percentile:g} of {duration(series.points[0].latency_s)} at {rate(series.points[0].per_s)}"
        return f"{head}: {lowest}"
    return head


def _spread(frame: Frame, drawing: Drawing, series: Series) -> str:
    if series.capacity is None or series.capacity.per_s <= 0 or drawing.slo_s is None:
        return ""
    y = frame.y(drawing.slo_s)
    low, high = frame.x(series.capacity.low_per_s), frame.x(series.capacity.high_per_s)
    return f'<path class="spread" d="M{low:.1f} {y - 5:.1f}v10m0 -5H{high:.1f}m0 -5v10"/>'


def _place(
    room: _Room, path: Sequence[tuple[float, float]], mark: tuple[float, float], label: str
) -> tuple[float, float, str]:
    """Return where the label costs least: beside the curve, near the mark."""
    candidates = [
        (mark[0] + dx, mark[1] + dy, anchor) for dx, anchor in ((12, "start"), (-12, "end")) for dy in (22, -14)
    ]
    for x, y in path[:: max(1, len(path) // 60)]:
        candidates += [(x + 9, y + 5, "start"), (x - 9, y + 5, "end"), (x + 3, y + 20, "start"), (x - 3, y - 9, "end")]

    def cost(candidate: tuple[float, float, str]) -> float:
        away = hypot(candidate[0] - mark[0], candidate[1] - mark[1])
        return room.cost(room.box(candidate[0], candidate[1], label, candidate[2])) + away / 60

    best = min(candidates, key=cost)
    room.boxes.append(room.box(best[0], best[1], label, best[2]))
    return best


def _seen(frame: Frame, drawing: Drawing, room: _Room) -> str:
    """Return the cross of what the proof observed."""
    if drawing.seen is None:
        return ""
    x, y = frame.x(drawing.seen.per_s), frame.y(drawing.seen.latency_s)
    says = f"observed p{drawing.percentile:g}: {duration(drawing.seen.latency_s)} at {rate(drawing.seen.per_s)}"
    shown = says if frame.names else "observed"
    room.boxes.append((x - 7, y - 7, x + 7, y + 7))
    left, base, anchor = _place(room, [(x, y)], (x, y), shown)
    cross = f'<path class="seen" d="M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12"><title>{escape(says)}</title></path>'
    return cross + words(left, base, shown, "halo", anchor)


def words(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    """Return a text whose baseline begins, ends or is centred at the point."""
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
