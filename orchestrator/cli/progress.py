"""Shows on standard error how far long work has come: live lines on a terminal, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.cli.render import cut_end, talk

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESH_PER_S = 8
FINAL_PHASES = frozenset({"created", "replaced", "updated", "deleted", "failed", "serving", "unchanged", "done"})
Show = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def progress() -> Iterator[Show]:
    """Yield what shows one progress message of the agent: {"deployment", "model", "phase", "message"}."""
    if sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield lambda message: talk(progress_line(message))


def progress_line(message: Mapping[str, Any]) -> str:
    """Return the message as one line."""
    head = ": ".join(part for part in (_name(message), str(message["phase"])) if part)
    return f"{head} ({message['message']})" if message.get("message") else head


def _name(message: Mapping[str, Any]) -> str:
    return "/".join(part for part in (message.get("deployment"), message.get("model")) if part)


@dataclass(slots=True)
class _Line:
    """What is known of one model."""

    phase: str
    message: str
    since: float


@contextlib.contextmanager
def _live() -> Iterator[Show]:
    """Show one line for each model, with a spinner and the seconds of its phase; gone at the end."""
    # rich costs 120 ms, which commands without live progress do not pay.
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    lines: dict[str, _Line] = {}

    def show(message: Mapping[str, Any]) -> None:
        # What is told of a part replaces what was told of the whole: nobody says that this has ended.
        for whole in ("", str(message.get("deployment"))):
            lines.pop(whole, None)
        before, phase = lines.get(_name(message)), message["phase"]
        since = before.since if before is not None and before.phase == phase else time.monotonic()
        lines[_name(message)] = _Line(phase, message.get("message") or "", since)

    with Live(
        get_renderable=lambda: _rows(lines, console.width),
        console=console,
        refresh_per_second=REFRESH_PER_S,
        transient=True,
    ):
        yield show


def _words(name: str, line: _Line, now: float) -> Iterator[str]:
    yield from (name, line.phase) if name else (line.phase,)
    if line.phase not in FINAL_PHASES:
        yield f"{now - line.since:.0f}s"
    if line.message:
        yield f"({line.message})"


def _rows(lines: Mapping[str, _Line], width: int) -> RenderableType:
    from rich.console import Group  # as above
    from rich.spinner import Spinner
    from rich.text import Text

    now = time.monotonic()
    rows: list[RenderableType] = []
    for name, line in lines.items():
        text = Text(cut_end(" ".join(_words(name, line, now)), max(20, width - 4)))
        rows.append(Text("  ") + text if line.phase in FINAL_PHASES else Spinner("dots", text))
    return Group(*rows)
