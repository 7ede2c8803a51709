"""A comparison as Markdown for a pull request, short enough for a comment and safe from what manifests say.

Whatever comes from a manifest, a lock or a file name stands in code: there neither Markdown nor HTML means anything,
nobody is mentioned, no issue is closed and no command is run.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from orchestrator.errors import Problem
from orchestrator.planner.compare import Comparison, Difference
from orchestrator.planner.diff import Change
from orchestrator.planner.text import model_to_text, summary

T = TypeVar("T")
LENGTH_MAX = 65_000  # characters; GitHub takes 65,536 in a comment, and whoever posts it may add a line
LENGTH_MIN = 2_000
CELL_MAX = 240  # of one value in a line
BLOCK_MAX = 6_000  # of one block of details
LISTED_MAX = 40
MACHINES_MAX = 3  # named in a row of the table
LISTS_SHARE, ROWS_SHARE = 0.3, 0.6  # of the length, at most, until the end of each; details have the rest
ENDING = 300  # kept free for the line that says what was left out

_HEAD = "\n| | model | what changes | on |\n|---|---|---|---|\n"


def to_markdown(comparison: Comparison, *, limit: int = LENGTH_MAX) -> str:
    """Return the comparison in at most `limit` characters; the same comparison gives the same text.

    What does not fit is counted at the end.
    """
    assert limit >= LENGTH_MIN, "too short for a title and an ending"
    room = limit - ENDING
    text = _title(comparison)
    text += _listed("To look at", comparison.problems, _problem, int(room * LISTS_SHARE / 2))
    text += _listed("Not compared", comparison.notes, _note, int(room * LISTS_SHARE / 2))
    rows, rows_left = _fitting(comparison.differences, _row, int(room * ROWS_SHARE) - len(text) - len(_HEAD))
    text += "".join([_HEAD, *rows]) if rows else ""
    details, details_left = _fitting(comparison.differences, _details, room - len(text))
    return text + "".join(details) + _left_out(rows_left, details_left)


def code(text: str) -> str:
    """Return the text as a code span of one line that can stand in a table, cut where it is very long.

    A bar is shown as a broken bar: tables are cut into cells at bars before code is told from text.
    """
    line = _one_line(text).replace("|", "\N{BROKEN BAR}")
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line or ' '}{pad}{fence}"


def block(text: str) -> str:
    """Return the text as a block of code, line ends kept, cut where it is very long."""
    body = "\n".join(_visible(line) for line in text.splitlines())
    if len(body) > BLOCK_MAX:
        body = f"{body[:BLOCK_MAX]}\n…"
    fence = "`" * max(3, _longest_run(body) + 1)
    return f"{fence}text\n{body}\n{fence}\n"


def _title(comparison: Comparison) -> str:
    base = code(comparison.base)
    if not comparison.differences:
        return f"### orch: nothing changes against {base}\n"
    counts = summary(_once_each(comparison.differences))
    of = f"{comparison.changed} of {comparison.total}" if comparison.total else f"{comparison.changed}"
    return f"### orch: what changes against {base}\n\n**{counts}**; deployments that change: {of}.\n"


def _once_each(differences: Sequence[Difference]) -> Iterable[Change]:
    """Return each model's change once, however many machines see it differently."""
    return {(each.deployment, each.change.model): each.change for each in reversed(differences)}.values()


def _listed(title: str, found: Sequence[T], line: Callable[[T], str], room: int) -> str:
    if not found:
        return ""
    taken, left = _fitting(found[:LISTED_MAX], line, room)
    left += max(0, len(found) - LISTED_MAX)
    more = f"- and {left} more\n" if left else ""
    return "".join([f"\n**{title}**\n\n", *taken, more])


def _problem(problem: Problem) -> str:
    where = f"{code(problem.where)}: " if problem.where else ""
    return f"- {where}{code(problem.what)}\n"


def _note(note: str) -> str:
    return f"- {code(note)}\n"


def _row(difference: Difference) -> str:
    change, machines = difference.change, difference.machines
    on = ", ".join(code(machine) for machine in machines[:MACHINES_MAX])
    on += f" and {len(machines) - MACHINES_MAX} more" if len(machines) > MACHINES_MAX else ""
    cells = [change.symbol, code(_name(difference)), code(f"{change.action}: {change.cause}"), on]
    return f"| {' | '.join(cells)} |\n"


def _details(difference: Difference) -> str:
    change, shown = difference.change, difference.after or difference.before
    text = "\n".join(change.details)
    if shown is not None:
        text += ("\n\n" if text else "") + model_to_text(shown)
    on = f" on {difference.machines[0]}" if difference.machines else ""
    on += f" and {len(difference.machines) - 1} more" if len(difference.machines) > 1 else ""
    title = html.escape(_one_line(f"{change.symbol} {_name(difference)}{on}"))
    # The blank line lets Markdown begin again within HTML.
    return f"\n<details><summary><code>{title}</code></summary>\n\n{block(text)}\n</details>\n"


def _name(difference: Difference) -> str:
    return f"{difference.deployment}/{difference.change.model or 'worker'}"


def _fitting(found: Sequence[T], written: Callable[[T], str], room: int) -> tuple[list[str], int]:
    """Return the first of them as written, as many as fit into so many characters together, and how many are left."""
    taken: list[str] = []
    for each in found:
        text = written(each)
        if len(text) > room:
            break
        taken.append(text)
        room -= len(text)
    return taken, len(found) - len(taken)


def _left_out(rows: int, details: int) -> str:
    parts = [f"{rows} more changes"] if rows else []
    parts += [f"the details of {details}"] if details else []
    return f"\n_Too long for a comment: left out are {' and '.join(parts)}._\n" if parts else ""


def _one_line(text: str) -> str:
    line = _visible(" ".join(text.split()))
    return line if len(line) <= CELL_MAX else f"{line[: CELL_MAX - 1]}…"


def _visible(text: str) -> str:
    """Return the text with what does not show, or turns the direction of the rest, written as an escape."""
    return "".join(char if unicodedata.category(char)[0] != "C" else ascii(char)[1:-1] for char in text)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
