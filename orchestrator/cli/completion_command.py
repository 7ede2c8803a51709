"""The command that writes a completion script for a shell: completion."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from orchestrator.cli import render
from orchestrator.cli.app import app
from orchestrator.cli.completion import Command, Option, Shell, Value, Wants, script
from orchestrator.cli.light import LightCommand

# What stands for a place in help says what comes there.
METAVARS = {"FILE": Wants.FILES, "DIR": Wants.FILES, "NAME": Wants.DEPLOYMENTS, "DEPLOYMENT": Wants.DEPLOYMENTS}
SOURCE = "source"  # in this group a NAME is a source's


@app.command(cls=LightCommand)
def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Write a script with which a shell completes commands and names.

    Names of deployments, models and sources come from the running agent; without one there are none.

    \b
    bash  add to ~/.bashrc:  source <(orch completion bash)
    zsh   orch completion zsh > "${fpath[1]}/_orch"
    fish  orch completion fish > ~/.config/fish/completions/orch.fish

    \b
    Example: orch completion bash
    """
    # -P: a folder in which somebody presses TAB must not stand in for this package.
    ask = (sys.executable, "-P", "-m", "orchestrator.cli.names")
    render.out(script(shell, commands(), ask))


def commands() -> list[Command]:
    """Return every command, groups before what is in them."""
    from orchestrator.cli.main import command as all_commands  # it imports this file

    return list(_commands(all_commands([]), ()))


def _commands(found: Any, words: tuple[str, ...]) -> Iterator[Command]:
    inner = getattr(found, "commands", {})
    argument = Value(Wants.WORDS, tuple(inner)) if inner else _argument(found, words)
    yield Command(words, _summary(found), tuple(inner), tuple(_options(found, words)), argument)
    for name, each in inner.items():
        yield from _commands(each, (*words, name))


def _summary(found: Any) -> str:
    text: str = found.get_short_help_str(limit=80)
    return text


def _options(found: Any, words: tuple[str, ...]) -> Iterator[Option]:
    for param in found.params:
        if param.param_type_name == "option":
            value = None if param.is_flag else _value(param, words, param.metavar)
            yield Option((*param.opts, *param.secondary_opts), value, param.help or "")
    yield Option(("-h", "--help"), None, "Show this message and exit.")


def _argument(found: Any, words: tuple[str, ...]) -> Value:
    """Return what the first argument wants; those behind it are rarely anything else."""
    arguments = [param for param in found.params if param.param_type_name == "argument"]
    return _value(arguments[0], words, arguments[0].metavar) if arguments else Value(Wants.NOTHING)


def _value(param: Any, words: tuple[str, ...], metavar: str | None) -> Value:
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return Value(Wants.WORDS, tuple(str(each.value) for each in annotation))
    choices = getattr(getattr(param, "type", None), "choices", None)  # Typer before 0.29
    if choices:
        return Value(Wants.WORDS, tuple(map(str, choices)))
    wants = METAVARS.get((metavar or "").strip("[].").removesuffix("..."), Wants.NOTHING)
    return Value(Wants.SOURCES if wants is Wants.DEPLOYMENTS and words[:1] == (SOURCE,) else wants)
