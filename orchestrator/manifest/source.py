"""Reads safe YAML: text in, plain values and the place of each of them out, every complaint with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.manifest import scalar

# A manifest of 256 models with every key set fits in (a test holds that), and the worst input that passes is
# answered in about half a second, also where libyaml is missing.
BYTES_MAX = 2**20
DEPTH_MAX = 32
NODES_MAX = 30_000
PROBLEMS_MAX = 1_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is 20 times faster; a few builds lack it

_UTF8_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a text; both numbers count from 1."""

    name: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}"


@dataclass(slots=True)
class Node:
    """A value and where it stands; `children` follow the value's own shape, `keys` holds where each key stands."""

    value: Any
    position: Position
    empty: bool = False  # nothing was written after the key
    size: int = 1
    height: int = 1
    keys: dict[str, Position] = field(default_factory=dict)
    children: dict[str, Node] | list[Node] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Where a path of keys and indexes leads: the part of it that exists, its node, and the position to show."""

    path: tuple[str | int, ...]
    node: Node
    position: Position
    key_position: Position


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem together with its position, to sort by and to report each place once."""

    position: Position
    problem: Problem


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document of a text: its root, its own text, and the line on which that begins."""

    root: Node
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Parsed:
    """All documents of a text that could be read, and all that is wrong with it."""

    documents: tuple[YamlDocument, ...]
    findings: tuple[Finding, ...]

    @property
    def positions(self) -> frozenset[Position]:
        """Where the problems stand, so that nobody complains twice about one value."""
        return frozenset(finding.position for finding in self.findings)


def decode(data: bytes, name: str) -> str:
    """Return the text of a file's bytes; raise OrchError for anything but UTF-8 text within the limit."""
    where = Position(name, 1, 1)
    if len(data) > BYTES_MAX:
        raise too_large(name, None)
    for bom, encoding in _WIDE_BOMS.items():
        if data.startswith(bom):
            raise _invalid(where, f"the file is {encoding} text, only UTF-8 is read", "save it as UTF-8")
    try:
        return data.removeprefix(_UTF8_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}"
        before = data[: error.start].decode("utf-8", "replace")
        raise _invalid(_position(name, before, len(before)), what, "is this a manifest? save it as UTF-8") from None


def too_large(name: str, size: int | None) -> OrchError:
    """Return the error for a text over the limit; `size` in bytes if known."""
    seen = f"has {size} bytes" if size is not None else "is longer"
    return _invalid(Position(name, 1, 1), f"a manifest may have {BYTES_MAX} bytes (1 MiB), this {seen}", None)


def parse(text: str, name: str) -> Parsed:
    """Return the documents of the text and its problems; never raises for what the text holds."""
    reader = _Reader(text, name)
    bad = _UNPRINTABLE.search(text)
    if bad is not None:
        return Parsed((), (_unprintable(text, name, bad),))
    try:
        reader.read()
    except _Stop:
        pass
    except yaml.YAMLError as error:
        reader.syntax(error)
    return Parsed(tuple(reader.documents()), tuple(reader.findings))


def lookup(root: Node, loc: Sequence[str | int]) -> Found:
    """Follow pydantic's `loc` as far as the document goes; the names of union members in it are passed over."""
    node, key_position, path = root, root.position, []
    for part in loc:
        child: Node | None = None
        if isinstance(node.children, dict) and isinstance(part, str):
            child = node.children.get(part)
        elif isinstance(node.children, list) and isinstance(part, int) and 0 <= part < len(node.children):
            child = node.children[part]
        if child is None:
            continue
        key_position = node.keys[part] if isinstance(part, str) else child.position
        node = child
        path.append(part)
    return Found(tuple(path), node, key_position if node.empty else node.position, key_position)


class _Stop(Exception):  # noqa: N818 - not an error: the rest of the text cannot be read, its problems are kept
    """Ends the reading of one text."""


class _Reader:
    """Builds nodes from the parser's events and keeps count of what they cost."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.findings: list[Finding] = []
        self.positions: set[Position] = set()
        self._anchors: dict[str, Node | None] = {}
        self._nodes = 0
        self._roots: list[tuple[int, Node]] = []
        self._events: Iterator[Any] = iter(())

    def read(self) -> None:
        """Read every document of the text."""
        self._events = yaml.parse(self.text, Loader=_LOADER)
        event: Any
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors = {}
                if event.tags:
                    self.complain(self._at(event), "%TAG directives are not supported", "delete the line")
                # Comments in front of the first document belong to it.
                start = self._start(event) if self._roots else 0
                self._roots.append((start, self._node(next(self._events), 1)))

    def _start(self, event: Any) -> int:
        return int(event.start_mark.index)

    def documents(self) -> Iterator[YamlDocument]:
        """Yield what was read, each document with its own text; empty ones are passed over."""
        starts = [start for start, _ in self._roots]
        line = 1
        for (start, root), end in zip(self._roots, [*starts, len(self.text)][1:], strict=True):
            text = self.text[start:end]
            if not root.empty:
                yield YamlDocument(root, text, line)
            line += text.count("\n")

    def complain(self, at: Position, what: str, hint: str | None = None) -> None:
        """Note a problem and go on, unless there are too many."""
        self.findings.append(Finding(at, Problem(what, str(at), hint)))
        self.positions.add(at)
        if len(self.findings) >= PROBLEMS_MAX:
            raise _Stop

    def syntax(self, error: yaml.YAMLError) -> None:
        """Note what the YAML parser could not read."""
        mark = getattr(error, "problem_mark", None)
        at = _within(
            self.text, Position(self.name, mark.line + 1, mark.column + 1) if mark else Position(self.name, 1, 1)
        )
        what, hint = _syntax_words(self.text, at, error)
        self.findings.append(Finding(at, Problem(what, str(at), hint)))

    def _stop(self, at: Position, what: str, hint: str | None = None) -> NoReturn:
        self.complain(at, what, hint)
        raise _Stop

    def _at(self, event: Any) -> Position:
        return Position(self.name, event.start_mark.line + 1, event.start_mark.column + 1)

    def _count(self, at: Position, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            self._stop(at, f"the text holds more than {NODES_MAX} values, aliases counted each time they are used")

    def _node(self, event: Any, depth: int) -> Node:
        at = self._at(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, at, depth)
        self._count(at, 1)
        if event.tag is not None:
            self.complain(at, f"tags are not supported, got {_tag(event.tag)}", "delete the tag; quote text if needed")
        anchor = event.anchor
        if anchor is not None:
            if anchor in self._anchors:
                self.complain(at, f"the anchor &{anchor[:80]} is defined twice")
            self._anchors[anchor] = None  # not complete: an alias inside it would have no end
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, at)
        elif depth > DEPTH_MAX:
            self._stop(at, f"nested deeper than {DEPTH_MAX} levels")
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(at, depth)
        else:
            node = self._mapping(at, depth)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _alias(self, anchor: Any, at: Position, depth: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            inside = anchor in self._anchors
            self._stop(
                at, f"*{anchor[:80]} stands inside its own anchor" if inside else f"no anchor &{anchor[:80]} before"
            )
        self._count(at, node.size)
        if depth + node.height - 1 > DEPTH_MAX + 1:
            self._stop(at, f"nested deeper than {DEPTH_MAX} levels through the alias *{anchor[:80]}")
        return node

    def _sequence(self, at: Position, depth: int) -> Node:
        children = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            children.append(self._node(event, depth + 1))
        return _container([child.value for child in children], at, children, children)

    def _mapping(self, at: Position, depth: int) -> Node:
        children: dict[str, Node] = {}
        keys: dict[str, Position] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_at = self._at(event)
            key = self._key(event, self._node(event, depth + 1), key_at)
            child = self._node(next(self._events), depth + 1)
            if key is None:
                continue
            if key in keys:
                first = keys[key]
                self.complain(key_at, f"duplicate key {_short(key)}, first at {first.line}:{first.column}", "keep one")
                continue
            keys[key], children[key] = key_at, child
        node = _container({key: child.value for key, child in children.items()}, at, children, list(children.values()))
        node.keys = keys
        return node

    def _key(self, event: Any, node: Node, at: Position) -> str | None:
        """Return the key as text, or None after complaining."""
        if isinstance(event, yaml.ScalarEvent) and not event.style and event.value == "<<":
            self.complain(at, "merge keys (<<) are not supported", "write the keys out")
            return None
        if at in self.positions:  # complained about already
            return None
        if isinstance(node.value, str):
            return node.value
        if isinstance(node.value, dict | list):
            self.complain(at, "a key must be text, got braces or brackets", "quote a value that begins with { or [")
        else:
            word = "nothing" if node.empty else event.value if isinstance(event, yaml.ScalarEvent) else "an alias"
            self.complain(
                at, f"a key must be text, got {word[:60]}", None if node.empty else f'quote it: "{word[:60]}"'
            )
        return None

    def _scalar(self, event: Any, at: Position) -> Node:
        value: str = event.value
        if event.style:
            bad = _UNPRINTABLE.search(value)
            if bad is not None:
                self.complain(at, f"the text holds the control character U+{ord(bad[0]):04X}", "remove the escape")
            return Node(value, at)
        if value == "":
            return Node(None, at, empty=True)
        plain, complaint, hint = scalar.resolve(value)
        if complaint is not None:
            self.complain(at, complaint, hint)
        return Node(plain, at)


def _container(value: Any, at: Position, children: dict[str, Node] | list[Node], nodes: list[Node]) -> Node:
    size = 1 + sum(child.size for child in nodes)
    height = 1 + max((child.height for child in nodes), default=0)
    return Node(value, at, size=size, height=height, children=children)


def _unprintable(text: str, name: str, bad: re.Match[str]) -> Finding:
    at = _position(name, text, bad.start())
    if bad[0] == "\0":
        return Finding(at, Problem("the file holds a NUL byte, so it is no text", str(at), "is this a manifest?"))
    return Finding(at, Problem(f"the control character U+{ord(bad[0]):04X} is not allowed", str(at), "delete it"))


def _within(text: str, at: Position) -> Position:
    """Return the position, or the end of the text where the parser points behind it."""
    lines = text.splitlines() or [""]
    return at if at.line <= len(lines) else Position(at.name, len(lines), len(lines[-1]) + 1)


def _syntax_words(text: str, at: Position, error: yaml.YAMLError) -> tuple[str, str | None]:
    line = [*text.splitlines(), ""][at.line - 1]
    if "\t" in line[: len(line) - len(line.lstrip())] or line[at.column - 1 : at.column] == "\t":
        return "a tab cannot indent YAML", "indent with spaces"
    problem = str(getattr(error, "problem", None) or error)[:200]
    what = f"cannot be read as YAML: {problem}"
    context, mark = getattr(error, "context", None), getattr(error, "context_mark", None)
    if context:
        what += f", {str(context)[:200]}" + (f" that begins at {mark.line + 1}:{mark.column + 1}" if mark else "")
    return what, _syntax_hint(problem)


_SYNTAX_HINTS = (
    ("mapping values are not allowed", "is a colon in text that wants quotes, or is the indentation off?"),
    ("did not find expected key", "check the indentation and the quotes of this line and the one before"),
    ("expected <block end>", "check the indentation of this line and the one before"),
    ("did not find expected '-' indicator", "check the indentation of this line and the one before"),
    ("could not find expected ':'", "a key is followed by a colon and a space"),
    ("cannot start any token", "quote text that begins with @, ` or %"),
)


def _syntax_hint(problem: str) -> str | None:
    return next((hint for words, hint in _SYNTAX_HINTS if words in problem), None)


def _position(name: str, text: str, index: int) -> Position:
    return Position(name, text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _tag(tag: str) -> str:
    return _short(tag.replace("tag:yaml.org,2002:", "!!", 1))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _invalid(at: Position, what: str, hint: str | None) -> OrchError:
    return OrchError(Kind.INVALID, [Problem(what, str(at), hint)])
