"""Says what an unquoted word of YAML is, and refuses those that YAML readers take for different things."""

from __future__ import annotations

import math
import re
from typing import Any

NUMBER_MAX = 64  # characters; what is longer and no integer is text to anybody
DIGITS_MAX = 18  # fits 64 bits, and stays far below Python's limit for reading integers

_CONSTANTS = {
    **dict.fromkeys(("~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TRUE_WORDS = frozenset({"on", "On", "ON", "yes", "Yes", "YES"})
_FALSE_WORDS = frozenset({"off", "Off", "OFF", "no", "No", "NO"})
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?")
# What YAML 1.1 and 1.2 readers take for different things: refused, so that no reader can be surprised.
_SURPRISES = (
    (re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"), "a number in base 60 to YAML 1.1"),
    (re.compile(r"[-+]?0[0-9_]+"), "an octal number to YAML 1.1 and a decimal one to YAML 1.2"),
    (re.compile(r"[-+]?0[xX][0-9a-fA-F_]+|[-+]?0o[0-7_]+|[-+]?0b[01_]+"), "a number that is not decimal"),
    (re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?"), "a number with underscores to YAML 1.1, text to YAML 1.2"),
    (
        re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+"),
        "a number to some readers and text to others",
    ),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"), "no finite number"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ][-0-9Zz:. +]*)?"), "a date to YAML 1.1"),
)


def resolve(text: str) -> tuple[Any, str | None, str | None]:
    """Return the value of an unquoted scalar, and the complaint and hint where YAML readers disagree about it."""
    if text in _CONSTANTS:
        return _CONSTANTS[text], None, None
    if text in _TRUE_WORDS or text in _FALSE_WORDS:
        word = "true" if text in _TRUE_WORDS else "false"
        return (
            text,
            f"unquoted {text} is {word} to YAML 1.1 and text to YAML 1.2",
            f'write {word}, or "{text}" for text',
        )
    if text[0] not in "+-.0123456789":
        return text, None, None
    if _INTEGER.fullmatch(text):
        if len(text) > DIGITS_MAX:
            return text, f"the number has more than {DIGITS_MAX} digits: {text[:40]}", "quote it if it is text"
        return int(text), None, None
    if len(text) > NUMBER_MAX:
        return text, None, None
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text), None, None
    for pattern, words in _SURPRISES:
        if pattern.fullmatch(text):
            return text, f"unquoted {text} is {words}", f'write a plain decimal number, or "{text}" for text'
    return text, None, None
