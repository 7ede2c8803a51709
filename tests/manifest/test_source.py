"""What YAML text becomes: plain values, their places, and complaints."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import OrchError
from orchestrator.manifest import source
from orchestrator.manifest.source import decode, lookup, parse

MIB = 2**20


def value(text: str) -> Any:
    parsed = parse(text, "f.yaml")
    assert parsed.findings == ()
    return parsed.documents[0].root.value


def complaints(text: str) -> list[str]:
    return [f"{finding.problem.where} {finding.problem.what}" for finding in parse(text, "f").findings]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1", 1),
        ("a: +7", 7),
        ("a: -0", 0),
        ("a: 1.5", 1.5),
        ("a: 1.0e+3", 1000.0),
        ("a: .5", 0.5),
        ("a: true", True),
        ("a: False", False),
        ("a: ~", None),
        ("a: null", None),
        ("a:", None),
        ("a: y", "y"),
        ("a: '010'", "010"),
        ('a: "on"', "on"),
        ("a: 40ms", "40ms"),
        ("a: 1..512", "1..512"),
        ("a: 127.0.0.1:8000", "127.0.0.1:8000"),
        ("a: 2026.4", 2026.4),
        ("a: 1.2.3", "1.2.3"),
        ("a: |\n  x\n  y\n", "x\ny\n"),
        ('a: "\\u00e9"', "é"),
        ("a: [1, {b: c}]", [1, {"b": "c"}]),
        ("a: {}", {}),
    ],
)
def test_a_value_is_what_every_yaml_reader_takes_it_for(text: str, expected: object) -> None:
    read = value(text)["a"]
    assert (read, type(read)) == (expected, type(expected))


@pytest.mark.parametrize(
    "word",
    [
        *("on", "Off", "YES", "no", "1:30", "190:20:30.15", "010", "0x1F", "0o17", "0b11", "1_000", "1e3", "1.0e3"),
        *(".inf", "-.INF", ".NaN", "2024-01-01", "2024-01-01T10:00:00Z", "1.0e+999", "9" * 19),
    ],
)
def test_a_word_that_yaml_readers_take_for_different_things_is_refused_once(word: str) -> None:
    found = parse(f"a: {word}", "f").findings
    assert [str(finding.position) for finding in found] == ["f:1:4"]
    assert word in found[0].problem.what
    assert found[0].problem.hint is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: !!python/object:os.system x", "f:1:4 tags are not supported, got '!!python/object:os.system'"),
        ("a: !!str x", "f:1:4 tags are not supported, got '!!str'"),
        ("a: !foo {}", "f:1:4 tags are not supported, got '!foo'"),
        ("a: ! ", "f:1:4 tags are not supported, got '!'"),
        ("a: 1\nb: 2\na: 3", "f:3:1 duplicate key 'a', first at 1:1"),
        ("a: &x {b: 1}\nc: {<<: *x}", "f:2:5 merge keys (<<) are not supported"),
        ("a: *x", "f:1:4 no anchor &x before"),
        ("a: &x [*x]", "f:1:8 *x stands inside its own anchor"),
        ("a: &x 1\nb: &x 2", "f:2:4 the anchor &x is defined twice"),
        ("1: x", "f:1:1 a key must be text, got 1"),
        ("true: x", "f:1:1 a key must be text, got true"),
        ("? \n: x", "f:1:2 a key must be text, got nothing"),
        ("a: {{ b }}", "f:1:5 a key must be text, got braces or brackets"),
        ("on: x", "f:1:1 unquoted on is true to YAML 1.1 and text to YAML 1.2"),
        ("a:\n\tb: 1", "f:2:1 a tab cannot indent YAML"),
        ('a: "\\0"', "f:1:4 the text holds the control character U+0000"),
        ('a: "\\e[31m"', "f:1:4 the text holds the control character U+001B"),
        ("a: \x07", "f:1:4 the control character U+0007 is not allowed"),
        ("a\0b", "f:1:2 the file holds a NUL byte, so it is no text"),
        ("%TAG ! tag:x:\n--- a", "f:1:1 %TAG directives are not supported"),
        ("a: [1", "f:1:6 cannot be read as YAML: did not find expected ',' or ']'"),
        ("a: b: c", "f:1:5 cannot be read as YAML: mapping values are not allowed in this context"),
    ],
)
def test_what_is_not_safe_yaml_is_refused_at_its_place(text: str, expected: str) -> None:
    found = complaints(text)
    assert found[0].startswith(expected)
    assert len(found) == 1


def test_all_complaints_of_a_text_come_at_once() -> None:
    assert complaints("a: on\nb: !x 1\nb: 2\nc: 010") == [
        "f:1:4 unquoted on is true to YAML 1.1 and text to YAML 1.2",
        "f:2:4 tags are not supported, got '!x'",
        "f:3:1 duplicate key 'b', first at 2:1",
        "f:4:4 unquoted 010 is an octal number to YAML 1.1 and a decimal one to YAML 1.2",
    ]


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
DEEP_BY_ALIAS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "more than 30000 values"),
        (DEEP_BY_ALIAS, "nested deeper than 32 levels"),
        ("[" * (MIB - 1), "nested deeper than 32 levels"),
        ("{a: " * (MIB // 4), "nested deeper than 32 levels"),
        ("- " * (MIB // 2), "nested deeper than 32 levels"),
        ("? " * (MIB // 2), "nested deeper than 32 levels"),
        ("[" + "0," * (MIB // 2 - 2) + "]", "more than 30000 values"),
        ("---\n" * (MIB // 4), "more than 30000 values"),
        ("a: 1\n" * (MIB // 5), "duplicate key 'a'"),
        ("!" * MIB, "tags are not supported"),
        ("[" + "!a b," * (MIB // 6) + "]", "tags are not supported"),
        ("\t" * MIB, "a tab cannot indent YAML"),
        ("%" * MIB, "cannot be read as YAML"),
        ('"' + "x" * (MIB - 2), "cannot be read as YAML"),
        ("a: " + "1" * (MIB - 10), "more than 18 digits"),
    ],
    ids=lambda text: text[:12] if len(text) < 200 else None,
)
def test_text_made_to_exhaust_the_reader_is_refused(text: str, expected: str) -> None:
    assert expected in parse(text, "f").findings[0].problem.what


def test_nesting_and_values_up_to_the_limits_are_read() -> None:
    assert parse("[" * source.DEPTH_MAX + "]" * source.DEPTH_MAX, "f").findings == ()
    assert parse("- 0\n" * (source.NODES_MAX - 1), "f").findings == ()


def test_an_alias_is_the_value_of_its_anchor() -> None:
    assert value("a: &x {b: [1, 2]}\nc: *x\nd: *x") == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": {"b": [1, 2]}}


def test_documents_keep_their_own_text_and_line() -> None:
    text = "# head\na: 1\n---\n# two\nb: 2\n---\n---\nc: 3\n"
    documents = parse(text, "f").documents
    assert [(document.text, document.line, document.root.value) for document in documents] == [
        ("# head\na: 1\n", 1, {"a": 1}),
        ("---\n# two\nb: 2\n", 3, {"b": 2}),
        ("---\nc: 3\n", 7, {"c": 3}),
    ]


@pytest.mark.parametrize(
    ("loc", "path", "place"),
    [
        ((), (), "1:1"),
        (("a",), ("a",), "1:4"),
        (("b", 1, "c"), ("b", 1, "c"), "4:9"),
        (("b", 1, "c", "constrained-int"), ("b", 1, "c"), "4:9"),
        (("b", 7), ("b",), "3:3"),
        (("b", -1), ("b",), "3:3"),
        (("missing",), (), "1:1"),
        (("e",), ("e",), "5:1"),
        (("a", "[key]"), ("a",), "1:4"),
    ],
)
def test_a_loc_leads_to_the_nearest_place_that_exists(
    loc: tuple[str | int, ...], path: tuple[str | int, ...], place: str
) -> None:
    root = parse("a: é\nb:\n  - x\n  - {c: 1}\ne:\n", "f").documents[0].root
    found = lookup(root, loc)
    assert (found.path, f"{found.position.line}:{found.position.column}") == (path, place)


def test_columns_count_characters_not_bytes() -> None:
    root = parse("{ééé: 1, b: 2}", "f").documents[0].root
    assert lookup(root, ("b",)).key_position.column == 10


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: 1\nb: \xff\n", "f:2:4: is not UTF-8 text: byte 0xff at offset 8"),
        ("a: 1".encode("utf-16"), "f:1:1: the file is UTF-16 text, only UTF-8 is read"),
        ("a: 1".encode("utf-32"), "f:1:1: the file is UTF-32 text, only UTF-8 is read"),
        (b"\x7fELF\x02\x01\x01\xff", "f:1:8: is not UTF-8 text: byte 0xff at offset 7"),
        (b"x" * (MIB + 1), "f:1:1: a manifest may have 1048576 bytes (1 MiB), this is longer"),
    ],
    ids=["latin-1", "utf-16", "utf-32", "binary", "too long"],
)
def test_bytes_that_are_no_utf8_text_are_refused(data: bytes, expected: str) -> None:
    with pytest.raises(OrchError) as caught:
        decode(data, "f")
    assert str(caught.value) == expected


def test_a_byte_order_mark_of_utf8_is_passed_over() -> None:
    assert decode(b"\xef\xbb\xbfa: 1", "f") == "a: 1"
