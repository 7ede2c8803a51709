"""The engine's words in ours: messages without source lines, property values in one spelling."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.errors import Kind, OrchError

MESSAGE_MAX = 500
# Where in OpenVINO's sources something was thrown: true, and of no use to whoever wrote the manifest.
_NOISE = re.compile(r"Exception from \S+:\d+:?|Check '.*' failed at \S+:\d+:?|FrontEnd API failed with \w+:?|[\s;:.]*")
_PREFIX = re.compile(r"^(?:Caught exception: |NotFound: |ParameterMismatch: |(?:Exception from \S+:\d+:\s*))+")
_FOLDERS = re.compile(r"(?:/[^/\s\":]+)+/(lib[^/\s\":]+\.so)")


def clean(message: str, asked: str) -> str:
    """Return the last line of an engine's message that says something, or `asked` when none does (trap 7)."""
    lines = [_PREFIX.sub("", line.strip()).strip() for line in message.splitlines()]
    telling = [line for line in lines if not _NOISE.fullmatch(line)]
    last = telling[-1].strip(" ;") if telling else f"OpenVINO refused {asked} and gave no reason"
    return _FOLDERS.sub(r"\1", last)[:MESSAGE_MAX]


def spell(value: Any) -> str:
    """Return a property's value as OpenVINO writes it in text: YES, THROUGHPUT, f32, `GPU,CPU` (trap 29)."""
    if isinstance(value, bool):
        return "YES" if value else "NO"
    if isinstance(value, Mapping):
        return ",".join(f"{spell(key)}:{spell(entry)}" for key, entry in sorted(value.items(), key=str))
    if isinstance(value, set | frozenset):
        return ",".join(sorted(spell(entry) for entry in value))
    if isinstance(value, list | tuple):
        return ",".join(spell(entry) for entry in value)
    if hasattr(value, "get_type_name"):  # an element type, whose name would be C++'s
        return str(value.get_type_name())
    name = getattr(value, "name", None)  # an enumeration of the binding
    return name if isinstance(name, str) else str(value)


def unspell(value: str) -> str:
    """Return a value as every plugin reads it: YES and NO for truth values, all else as it is."""
    return {"true": "YES", "false": "NO"}.get(value.lower(), value)


def written(values: Mapping[str, object]) -> str:
    """Return settings as people write them: `KEY=VALUE`, by their keys."""
    return ", ".join(f"{key}={values[key]}" for key in sorted(values))


@contextlib.contextmanager
def engine_errors(
    asked: str, where: str | None = None, hint: str | None = None, kind: Kind = Kind.FAILED
) -> Iterator[None]:
    """Turn whatever the engine throws into an OrchError that says what the engine said."""
    try:
        yield
    except OrchError:
        raise
    except Exception as error:  # the binding and its frontends raise types of their own
        raise OrchError(kind, clean(str(error), asked), where=where, hint=hint) from error
