"""Draws answers in time against offered load as SVG that needs no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.planner.chart import Frame, shape, ticks, words
from orchestrator.planner.curve import Point
from orchestrator.planner.explain import rate

ROOM = 1.12  # above the highest figure, for its words


@dataclass(frozen=True, slots=True)
class Goodput:
    """What the picture shows; a `Point`'s second figure is requests a second here."""

    title: str
    described: str
    good: tuple[Point, ...]
    """Answers in time, by rising load."""
    marks: tuple[tuple[float, str, str], ...]
    """Loads to mark by a line upwards: requests a second, words, class of the style."""


def goodput_chart(drawing: Goodput, ident: str) -> str:
    """Return the picture in a wide and a narrow size; the style sheet shows one of them."""
    return _svg(drawing, ident, narrow=False) + _svg(drawing, ident, narrow=True)


def _svg(drawing: Goodput, ident: str, *, narrow: bool) -> str:
    frame = _frame(drawing, narrow=narrow)
    base = f"{ident}-{'narrow' if narrow else 'wide'}"
    parts = [
        f'<svg class="chart {"narrow" if narrow else "wide"}" viewBox="0 0 {frame.width} {frame.height}" role="img"'
        f' aria-labelledby="{base}-title {base}-desc" font-size="{frame.font}">',
        f'<title id="{base}-title">{escape(drawing.title)}</title>',
        f'<desc id="{base}-desc">{escape(drawing.described)}</desc>',
        _grid(frame),
        _offered(frame),
        *_marks(frame, drawing.marks),
        _line(frame, drawing.good),
        "</svg>",
    ]
    return "\n".join(parts)


def _frame(drawing: Goodput, *, narrow: bool) -> Frame:
    most = max([each.per_s for each in drawing.good] + [at for at, _, _ in drawing.marks], default=1.0) or 1.0
    high = max((each.latency_s for each in drawing.good), default=1.0) or 1.0
    sizes = (360, 320, 52, 10, 30, 46, 13) if narrow else (1040, 360, 66, 20, 36, 52, 15)
    return Frame(*sizes, names=not narrow, most_per_s=1.06 * most, ceiling_s=ROOM * high)


def _grid(frame: Frame) -> str:
    parts = []
    for value in ticks(frame.ceiling_s, 5):
        y = frame.y(value)
        parts.append(f'<path class="grid" d="M{frame.left} {y:.1f}H{frame.end}"/>')
        parts.append(words(frame.left - 8, y + 4, f"{value:g}", "soft", "end"))
    for value in ticks(frame.most_per_s, 9 if frame.names else 5):
        x = frame.x(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {frame.base}v5"/>')
        parts.append(words(x, frame.base + 5 + frame.font, f"{value:g}", "soft", "middle"))
    parts.append(f'<path class="axis" d="M{frame.left} {frame.base}H{frame.end}"/>')
    parts.append(words(4, frame.top - 14, "answers in time per second", "soft", "start"))
    parts.append(words(frame.end, frame.height - 8, "arrival rate, requests per second", "soft", "end"))
    return "\n".join(parts)


def _offered(frame: Frame) -> str:
    """Return the line on which every request is answered in time, as far as it is within the plot."""
    end = min(frame.most_per_s, frame.ceiling_s)
    line = f"M{frame.left} {frame.base}L{frame.x(end):.1f} {frame.y(end):.1f}"
    return f'<path class="asked" fill="none" d="{line}"/>'


def _marks(frame: Frame, marks: Sequence[tuple[float, str, str]]) -> list[str]:
    """Return a line upwards for each mark, its words one below the other so that none covers another."""
    parts = []
    for number, (per_s, says, kind) in enumerate(marks):
        x = frame.x(per_s)
        low = frame.base - 10 - (frame.font + 7) * (len(marks) - 1 - number)
        right = x < (frame.left + frame.end) / 2
        parts.append(f'<path class="axis" stroke-dasharray="6 4" d="M{x:.1f} {frame.top}V{frame.base}"/>')
        parts.append(words(x + (7 if right else -7), low, says, kind, "start" if right else "end"))
    return parts


def _line(frame: Frame, good: Sequence[Point]) -> str:
    places = [(frame.x(each.per_s), frame.y(each.latency_s), each) for each in good]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    dots = "".join(
        f"<g><title>{escape(f'{rate(each.latency_s)} in time at {rate(each.per_s)}')}</title>{shape(0, x, y, 4.5)}</g>"
        for x, y, each in places
    )
    return f'<g class="arm s0 chosen"><polyline class="curve" points="{line}"/>{dots}</g>'
