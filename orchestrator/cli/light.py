"""Typer commands that read texts, choices and flags without pydantic, which Typer would load for each parameter."""

from __future__ import annotations

import enum
from typing import Any

import typer
import typer.core


class LightCommand(typer.core.TyperCommand):
    """Gives parameters that are texts, choices or flags a conversion of their own; all others keep Typer's.

    From 0.29 Typer builds a pydantic TypeAdapter for every parameter, 60 ms even for plain text: as much as all else
    that `orch status` does. Versions before have no such conversion and are left alone.
    """

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, --help included, prepared."""
        return _lightened(super().get_params(ctx))


class LightGroup(typer.core.TyperGroup):
    """The same for a group of commands."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, --help included, prepared."""
        return _lightened(super().get_params(ctx))


def _lightened(params: Any) -> Any:
    for param in params:
        _lighten(param)
    return params


def _lighten(param: Any) -> None:
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if annotation in (str, list[str]):
        param._runtime_param = _Texts()  # noqa: SLF001 - see the class above
    elif annotation is bool:
        param._runtime_param = _Flag()  # noqa: SLF001
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        param._runtime_param = _Choice(annotation)  # noqa: SLF001


class _Texts:
    """Leaves texts as they are; what is not given is an empty list or None, as in Typer."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ARG002 - Typer's signature
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        return value


class _Flag:
    """Leaves a flag as it is: none of ours takes a value."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ARG002 - Typer's signature
        return value


class _Choice:
    """Turns a word into a member of an enum."""

    def __init__(self, choices: type[enum.Enum]) -> None:
        self._choices = choices

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None or isinstance(value, self._choices):
            return value
        try:
            return self._choices(value)
        except ValueError:
            words = ", ".join(str(choice.value) for choice in self._choices)
            raise typer.BadParameter(f"{value!r} is none of {words}.", ctx=ctx, param=param) from None
