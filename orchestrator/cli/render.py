"""Writes values as text: tables that fit the terminal, plain rows in a pipe, JSON and YAML."""

from __future__ import annotations

import enum
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TextIO

PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell shows it for tools that the signal ends
GAP = 2  # blanks between columns
CUT_MIN = 8  # no column is cut below this
NONE = "-"
NOTE_INDENT = "  "
NOTE_LINES = 2  # below a row
NOTE_WIDTH_MIN = 20


class Output(enum.StrEnum):
    """How lists are written."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


class Text(enum.StrEnum):
    """How longer texts are written."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


class Colour(enum.Enum):
    """What a colour says, by its escape sequence."""

    GOOD = "32"
    WARN = "33"
    BAD = "31"


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of a row; `short` stands in for the text where the table must be narrow."""

    text: str
    colour: Colour | None = None
    short: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One column. Of those with a rank, the lowest gives way first when the table is too wide for the terminal."""

    header: str
    shorten_rank: int | None = None
    drop_rank: int | None = None
    right: bool = False
    wide_only: bool = False
    in_pipe: bool = False
    """Show it in a pipe too, although it is `wide_only`."""
    cut_end: bool = False
    """Cut it at its end, instead of the first column in its middle, when nothing else helps."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below columns; every row has one cell for each column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    """What a terminal shows below each row, unless the wide table is wanted; empty for nothing."""


@dataclass(frozen=True, slots=True)
class Screen:
    """Where text goes: columns of a terminal, None for a pipe, and whether colours are wanted."""

    width: int | None
    colour: bool = False


def screen(stream: TextIO, environ: Mapping[str, str]) -> Screen:
    """Return what the stream is; NO_COLOR and TERM=dumb turn colours off, COLUMNS sets a terminal's width."""
    if not stream.isatty():
        return Screen(None)
    plain = bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb"
    return Screen(shutil.get_terminal_size().columns, colour=not plain)


def out(text: str) -> None:
    """Write data to standard output; end the program quietly when nobody reads it any more."""
    if not text:
        return
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered must not be written at exit, where Python would complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)


def talk(text: str) -> None:
    """Write a line for people to standard error."""
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()


def to_json(value: Any) -> str:
    """Return the value as indented JSON."""
    import json  # not needed for tables

    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def to_yaml(value: Any) -> str:
    """Return the value as YAML, keys in the order given."""
    import yaml  # not needed for tables

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
    return text


def emit(value: Any, output: Output | Text, text: Callable[[], str]) -> None:
    """Write the value as JSON or YAML, or else what `text` makes of it."""
    match output:
        case Output.JSON | Text.JSON:
            out(to_json(value))
        case Output.YAML | Text.YAML:
            out(to_yaml(value))
        case _:
            out(text())


def table(data: Table, where: Screen, *, wide: bool = False) -> str:
    """Return the table: tab-separated in a pipe, else padded and fitted; `wide` shows everything."""
    if where.width is None:
        chosen = _visible(data, lambda column: wide or column.in_pipe or not column.wide_only)
        return _lines("\t".join(texts) for texts in _texts(chosen))
    if wide:
        return _lines(_padded(data, colour=where.colour))
    head, *rows = _padded(
        _fitted(_visible(data, lambda column: not column.wide_only), where.width), colour=where.colour
    )
    return _lines([head, *_noted(rows, data.notes, where.width)])


def _noted(rows: Sequence[str], notes: Sequence[str], width: int) -> Iterator[str]:
    """Yield the rows, each with its note below."""
    for row, note in zip_longest(rows, notes, fillvalue=""):
        yield row
        yield from _wrapped(note, width)


def _wrapped(note: str, width: int) -> list[str]:
    import textwrap  # only where something is wrong

    return textwrap.wrap(
        note,
        max(width, NOTE_WIDTH_MIN),
        initial_indent=NOTE_INDENT,
        subsequent_indent=NOTE_INDENT,
        max_lines=NOTE_LINES,
        placeholder="…",
        break_on_hyphens=False,
    )


def _visible(data: Table, shown: Callable[[Column], bool]) -> Table:
    return _keep(data, [index for index, column in enumerate(data.columns) if shown(column)])


def _keep(data: Table, indexes: Sequence[int]) -> Table:
    columns = tuple(data.columns[index] for index in indexes)
    return Table(columns, tuple(tuple(row[index] for index in indexes) for row in data.rows))


def _texts(data: Table) -> list[list[str]]:
    rows = [[cell.text for cell in row] for row in data.rows]
    # A tab or line end inside a cell would shift every cell after it.
    return [[" ".join(text.split()) if text else NONE for text in row] for row in [_headers(data), *rows]]


def _headers(data: Table) -> list[str]:
    return [column.header for column in data.columns]


def _widths(data: Table) -> list[int]:
    return [max(len(text) for text in texts) for texts in zip(*_texts(data), strict=True)]


def _total(data: Table) -> int:
    widths = _widths(data)
    return sum(widths) + GAP * (len(widths) - 1)


def _fitted(data: Table, width: int) -> Table:
    """Shorten and drop columns by rank until the table fits, and at last cut the first column."""
    steps = [(rank, column.header, _shortened) for column in data.columns if (rank := column.shorten_rank) is not None]
    steps += [(rank, column.header, _dropped) for column in data.columns if (rank := column.drop_rank) is not None]
    for _, header, step in sorted(steps, key=lambda entry: entry[:2]):
        if _total(data) <= width:
            return data
        data = step(data, header)
    return _cut(data, _total(data) - width)


def _position(data: Table, header: str) -> int | None:
    return next((index for index, column in enumerate(data.columns) if column.header == header), None)


def _dropped(data: Table, header: str) -> Table:
    return _keep(data, [index for index, column in enumerate(data.columns) if column.header != header])


def _shortened(data: Table, header: str) -> Table:
    at = _position(data, header)
    return data if at is None else _mapped(data, at, lambda cell: Cell(cell.short or cell.text, cell.colour))


def _mapped(data: Table, at: int, change: Callable[[Cell], Cell]) -> Table:
    rows = tuple((*row[:at], change(row[at]), *row[at + 1 :]) for row in data.rows)
    return Table(data.columns, rows)


def _cut(data: Table, excess: int) -> Table:
    if excess <= 0:
        return data
    at = next((index for index, column in enumerate(data.columns) if column.cut_end), 0)
    cut = cut_end if data.columns[at].cut_end else cut_middle
    limit = max(CUT_MIN, _widths(data)[at] - excess)
    return _mapped(data, at, lambda cell: Cell(cut(cell.text, limit), cell.colour))


def cut_end(text: str, limit: int) -> str:
    """Return the text in at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def cut_middle(text: str, limit: int) -> str:
    """Return the text in at most `limit` characters: its beginning and its end, which tell names apart."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def _padded(data: Table, *, colour: bool) -> list[str]:
    widths = _widths(data)
    texts = _texts(data)
    colours: list[list[Colour | None]] = [[None] * len(data.columns)]
    colours += [[cell.colour for cell in row] for row in data.rows]
    lines = []
    for row, row_colours in zip(texts, colours, strict=True):
        cells = [
            paint(text.rjust(width) if column.right else text.ljust(width), shade if colour else None)
            for text, width, column, shade in zip(row, widths, data.columns, row_colours, strict=True)
        ]
        lines.append((" " * GAP).join(cells).rstrip())
    return lines


def paint(text: str, colour: Colour | None) -> str:
    """Return the text in the colour, blanks around it left as they are."""
    if colour is None:
        return text
    bare = text.strip()
    return text.replace(bare, f"\x1b[{colour.value}m{bare}\x1b[0m", 1)


def _lines(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in lines)
