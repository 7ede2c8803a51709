"""Turns pydantic's findings about a manifest into problems in plain words, each with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from orchestrator.errors import Problem
from orchestrator.manifest import source, spec

SEEN_MAX = 60  # characters of a value that an error shows
WHAT_MAX = 400  # characters of one message, whatever a value in it holds

Path = tuple[str | int, ...]


# What a value must be, by pydantic's type of error; the values come from the error's context.
# https://docs.pydantic.dev/latest/errors/validation_errors/
_TYPES: dict[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "none_required": "null",
    "literal_error": "{expected}",
}
_LIMITS: dict[str, str] = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
}
_MISSING = {
    "apiVersion": f"add apiVersion: {spec.API_VERSION}",
    "kind": "add kind: Deployment",
    "metadata": "add metadata: {name: my-deployment}",
    "spec": "add spec: with what is wanted",
    "models": "add models: with one entry for each model",
    "name": "add name: with the name clients ask for",
    "source": "add source: with the model file, relative to the manifest",
    "latency": "add latency: with its unit, such as 40ms",
    "url": "add url: with the address of the repository",
    "secret_file": "add secret_file: with the file that holds the secret",
}


_UNREAD = Problem("")  # stands for a problem that is only counted


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is wrong, in which kind of document."""

    root: source.Node
    at: source.Position
    kind: type[BaseModel]


def explain(
    root: source.Node, errors: Iterable[ErrorDetails], limit: int, kind: type[BaseModel] = spec.Deployment
) -> list[source.Finding]:
    """Return one finding for each place that an error points at, in the document's order; `kind` is what it is.

    Only the first `limit` have words: there may be tens of thousands, and nobody reads more.
    """
    groups: dict[tuple[Path, bool], list[ErrorDetails]] = {}
    for error in errors:
        path = source.lookup(root, error["loc"]).path
        if error["type"] == "missing":
            path = (*path, error["loc"][-1])
        groups.setdefault((path, error["loc"][-1] == "[key]"), []).append(error)
    places = [(_place(root, path, is_key, group), path, is_key) for (path, is_key), group in groups.items()]
    places.sort(key=lambda place: (place[0].line, place[0].column))
    return [
        source.Finding(
            at, _problem(Place(root, at, kind), path, is_key, groups[path, is_key]) if rank < limit else _UNREAD
        )
        for rank, (at, path, is_key) in enumerate(places)
    ]


def dotted(path: Iterable[str | int]) -> str:
    """Return a path as people write it: `spec.models[0].slo.latency`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("_", "").replace("-", "").isalnum():
            text += f".{_cut(part)}" if text else _cut(part)
        else:
            text += f"[{_cut(part)!r}]"
    return text


def seen(value: object) -> str:
    """Return a value as the manifest would show it, shortened."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case dict():
            return "a mapping" if value else "{}"
        case list():
            return "a list" if value else "[]"
        case str():
            return repr(_cut(value))
        case _:
            return str(value)


def _place(root: source.Node, path: Path, is_key: bool, group: list[ErrorDetails]) -> source.Position:
    found = source.lookup(root, path)
    return found.key_position if is_key or group[0]["type"] == "extra_forbidden" else found.position


def _problem(place: Place, path: Path, is_key: bool, group: list[ErrorDetails]) -> Problem:
    """Put one place's errors into words."""
    match group[0]["type"]:
        case "missing":
            what, hint = f"the key {path[-1]!r} is missing", _MISSING.get(str(path[-1]))
            path = path[:-1]
        case "extra_forbidden":
            what, hint = _unknown_key(place.kind, path)
            path = path[:-1]
        case _:
            what, hint = _value_words(place.root, source.lookup(place.root, path), group)
    if is_key:
        what = f"the key {what}"
    name = dotted(path)
    return Problem(f"{name}: {_cut(what, WHAT_MAX)}" if name else _cut(what, WHAT_MAX), str(place.at), hint)


def _value_words(root: source.Node, found: source.Found, group: list[ErrorDetails]) -> tuple[str, str | None]:
    """Say what the value must be; among the members of a union, a broken limit says more than a wrong type."""
    telling = [error for error in group if error["type"] not in _TYPES] or group
    error = telling[0]
    context: Mapping[str, Any] = error.get("ctx", {})
    if error["type"] in _TYPES:
        kinds = dict.fromkeys(_TYPES[each["type"]].format(**each.get("ctx", {})) for each in telling)
        if "a number" in kinds:
            kinds.pop("a whole number", None)
        allowed = " or ".join(kinds)
        return _mismatch(allowed, found, group)
    if error["type"] in _LIMITS:
        limit = _LIMITS[error["type"]].format(**{key: _number(value) for key, value in context.items()})
        limit = limit.replace(" 1 characters", " 1 character").replace(" 1 entries", " 1 entry")
        return f"{limit}, got {_counted(error)}", None
    if error["type"] == "string_pattern_mismatch":
        words = spec.PATTERN_WORDS.get(context["pattern"], f"match {context['pattern']}")
        return f"must be {words}, got {seen(error['input'])}", None
    if error["type"] == spec.CONTRADICTION:
        return error["msg"] + _first(root, error), context.get("hint")
    if error["type"] == "value_error":
        what, _, near = str(context["error"]).partition("; did you mean ")
        if "got " not in what and seen(error["input"]) not in what and not isinstance(error["input"], dict | list):
            what += f", got {seen(error['input'])}"
        return what, f"did you mean {near}" if near else None
    return f"{error['msg']}, got {seen(error['input'])}", None


def _mismatch(allowed: str, found: source.Found, group: list[ErrorDetails]) -> tuple[str, str | None]:
    if found.node.empty:
        return f"must be {allowed}, got nothing", "write a value, or remove it"
    value = found.node.value
    words = [word.strip("' ") for each in group if each["type"] == "literal_error" for word in _words(each)]
    hint = _did_you_mean(value, words) if isinstance(value, str) else None
    if hint is None and isinstance(value, str) and any(each["type"] in {"int_type", "float_type"} for each in group):
        hint = "write the number without quotes" if value.strip().isdecimal() else None
    if hint is None and group[0]["type"] == "string_type" and isinstance(value, bool | int | float):
        hint = f'quote it: "{seen(value)}"'
    return f"must be {allowed}, got {seen(value)}", hint


def _words(error: ErrorDetails) -> list[str]:
    return str(error.get("ctx", {}).get("expected", "")).replace(" or ", ",").split(",")


def _counted(error: ErrorDetails) -> str:
    value = error["input"]
    if error["type"].startswith("string_too"):
        return str(len(value))
    if error["type"].startswith("too_"):
        return str(error["ctx"]["actual_length"] or len(value))
    return seen(value)


def _first(root: source.Node, error: ErrorDetails) -> str:
    """Return where the other one stands, for an error that names one in its context."""
    if "first" not in error["ctx"]:
        return ""
    at = source.lookup(root, (*error["loc"][:-2], error["ctx"]["first"], error["loc"][-1])).position
    return f", first at {at.line}:{at.column}"


def _unknown_key(kind: type[BaseModel], path: Path) -> tuple[str, str | None]:
    key = str(path[-1])
    model = _model_at(kind, path[:-1])
    what = f"unknown key {seen(key)}"
    if model is None:
        return what, None
    allowed = _keys(model)
    home = _home(key, allowed)
    if home is not None:
        return what, f"{key!r} belongs under {home!r}"
    return what, _did_you_mean(key, allowed) or f"allowed here: {', '.join(allowed)}"


def _home(key: str, allowed: Mapping[str, type[BaseModel] | None]) -> str | None:
    """Return where the key belongs among the objects further in: `spec.models.compile`."""
    for name, inner in allowed.items():
        keys = _keys(inner) if inner is not None else {}
        if key in keys:
            return name
        further = _home(key, keys)
        if further is not None:
            return f"{name}.{further}"
    return None


def _did_you_mean(word: str, known: Iterable[str]) -> str | None:
    import difflib  # only a wrong word needs it

    folded = {each.lower(): each for each in known}
    near = difflib.get_close_matches(word[:SEEN_MAX].lower(), list(folded), n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]!r}?" if near else None


def _keys(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """Return the keys of a manifest object, with the object that each holds, if it is one."""
    return {field.alias or name: _object(field.annotation) for name, field in model.model_fields.items()}


def _object(annotation: Any) -> type[BaseModel] | None:
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _model_at(kind: type[BaseModel], path: Path) -> type[BaseModel] | None:
    model: type[BaseModel] | None = kind
    for part in path:
        if model is not None and isinstance(part, str):
            model = _keys(model).get(part)
    return model


def _number(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def _cut(text: str, limit: int = SEEN_MAX) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
