"""Writes completion scripts for shells: what the commands are is written into them, only names are asked for."""

from __future__ import annotations

import enum
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


class Shell(enum.StrEnum):
    """Whose completion it is."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


class Wants(enum.StrEnum):
    """What comes in a place of the command line."""

    NOTHING = "nothing"
    FILES = "files"
    DEPLOYMENTS = "deployments"
    SOURCES = "sources"
    WORDS = "words"


@dataclass(frozen=True, slots=True)
class Value:
    """What an option or argument takes; `words` are the ones to choose from."""

    wants: Wants
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.wants.value, *self.words))


@dataclass(frozen=True, slots=True)
class Option:
    """One option; `value` is None for a flag."""

    names: tuple[str, ...]
    value: Value | None
    help: str


@dataclass(frozen=True, slots=True)
class Command:
    """One command, by the words that name it; the program itself has none."""

    words: tuple[str, ...]
    help: str
    inner: tuple[str, ...]
    """Names of the commands in a group."""
    options: tuple[Option, ...]
    argument: Value

    @property
    def path(self) -> str:
        """Return the words as the scripts know them: a blank before each."""
        return "".join(f" {word}" for word in self.words)


def script(shell: Shell, commands: Sequence[Command], ask: Sequence[str]) -> str:
    """Return the script; `ask` and a kind of names make the command that prints them."""
    asking = shlex.join(ask)
    match shell:
        case Shell.BASH:
            return _HEAD + _tables(commands) + _BASH.replace("@ASK@", asking)
        case Shell.ZSH:
            return "#compdef orch\n" + _HEAD + _tables(commands) + _ZSH.replace("@ASK@", asking)
        case Shell.FISH:
            return _HEAD + "\n".join(_fish(commands, asking)) + "\n"


_HEAD = "# Completion of orch; made by `orch completion`, to be made anew after an upgrade.\n"

_BASH = """
_orch_names() { @ASK@ "$1" 2>/dev/null; }

_orch() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path="" seen="" place i
    for ((i = 1; i < COMP_CWORD; i++)); do
        if _orch_known "$path ${COMP_WORDS[i]}"; then
            path="$path ${COMP_WORDS[i]}"
        elif [[ ${COMP_WORDS[i]} != -* && -z $(_orch_value "$path" "${COMP_WORDS[i-1]}") ]]; then
            seen=yes
        fi
    done
    COMPREPLY=()
    place=$(_orch_value "$path" "$prev")
    if [[ -z $place ]]; then
        if [[ $cur == -* ]]; then
            place="words $(_orch_options "$path")"
        else
            place=$(_orch_argument "$path")
            [[ $place == words* && -n $seen ]] && place=nothing
        fi
    fi
    case $place in
        files) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        deployments)
            if [[ $cur == */* ]]; then place=models; fi
            mapfile -t COMPREPLY < <(compgen -W "$(_orch_names "$place")" -- "$cur") ;;
        sources) mapfile -t COMPREPLY < <(compgen -W "$(_orch_names sources)" -- "$cur") ;;
        words*) mapfile -t COMPREPLY < <(compgen -W "${place#words}" -- "$cur") ;;
    esac
}
complete -F _orch orch
"""

_ZSH = """
_orch_names() { @ASK@ "$1" 2>/dev/null; }

_orch() {
    local cur=${words[CURRENT]} prev=${words[CURRENT-1]} known="" seen="" place i
    for ((i = 2; i < CURRENT; i++)); do
        if _orch_known "$known ${words[i]}"; then
            known="$known ${words[i]}"
        elif [[ ${words[i]} != -* && -z $(_orch_value "$known" "${words[i-1]}") ]]; then
            seen=yes
        fi
    done
    place=$(_orch_value "$known" "$prev")
    if [[ -z $place ]]; then
        if [[ $cur == -* ]]; then
            place="words $(_orch_options "$known")"
        else
            place=$(_orch_argument "$known")
            [[ $place == words* && -n $seen ]] && place=nothing
        fi
    fi
    case $place in
        files) _files ;;
        deployments)
            [[ $cur == */* ]] && place=models
            compadd -- ${(f)"$(_orch_names $place)"} ;;
        sources) compadd -- ${(f)"$(_orch_names sources)"} ;;
        words*) compadd -- ${=place#words} ;;
    esac
}
if [ "$funcstack[1]" = "_orch" ]; then _orch "$@"; else compdef _orch orch; fi
"""


def _tables(commands: Sequence[Command]) -> str:
    """Return what the commands are as functions that bash and zsh both understand."""
    known = "|".join(f'"{command.path}"' for command in commands if command.words)
    return "\n".join(
        (
            f'_orch_known() {{ case "$1" in {known}) return 0 ;; esac; return 1; }}',
            _function("_orch_options", commands, lambda command: " ".join(_names(command))),
            _function("_orch_argument", commands, lambda command: str(command.argument)),
            "_orch_value() {",
            '    case "$1:$2" in',
            *(f"        {line}" for command in commands for line in _values(command)),
            "    esac",
            "}",
        )
    )


def _function(name: str, commands: Sequence[Command], line: Callable[[Command], str]) -> str:
    rows = [f"        {shlex.quote(command.path)}) echo {shlex.quote(line(command))} ;;" for command in commands]
    return "\n".join((f"{name}() {{", '    case "$1" in', *rows, "    esac", "}"))


def _names(command: Command) -> Iterator[str]:
    for option in command.options:
        yield from option.names


def _values(command: Command) -> Iterator[str]:
    for option in command.options:
        if option.value is not None:
            names = "|".join(shlex.quote(f"{command.path}:{name}") for name in option.names)
            yield f"{names}) echo {shlex.quote(str(option.value))} ;;"


# --- fish


def _fish(commands: Sequence[Command], asking: str) -> Iterator[str]:
    yield "complete -c orch -f"
    yield f"function __orch_names; {asking} $argv 2>/dev/null; end"
    for command in commands:
        when = shlex.quote(_condition(command))
        for name in command.inner:
            told = next(each.help for each in commands if each.words == (*command.words, name))
            yield f"complete -c orch -n {when} -a {shlex.quote(name)} -d {_text(told)}"
        for option in command.options:
            yield f"complete -c orch -n {when} {_fish_option(option)}"
        if not command.inner and command.argument.wants is not Wants.NOTHING:
            yield f"complete -c orch -n {when} {_fish_value(command.argument)}"


def _condition(command: Command) -> str:
    """Return when a line of fish's applies: these words were given, and none of the group's commands yet."""
    seen = [f"__fish_seen_subcommand_from {word}" for word in command.words] or ["true"]
    if command.inner:
        seen.append(f"not __fish_seen_subcommand_from {' '.join(command.inner)}")
    return "; and ".join(seen)


def _fish_option(option: Option) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    value = [] if option.value is None else _fish_required(option.value)
    return " ".join((*names, *value, "-d", _text(option.help)))


def _fish_required(value: Value) -> list[str]:
    """Return that a value must follow, and which: -x lets fish offer nothing else, such as files."""
    return ["-r" if value.wants is Wants.FILES else "-x", *filter(None, [_fish_value(value)])]


def _fish_value(value: Value) -> str:
    match value.wants:
        case Wants.FILES:
            return "-F"
        case Wants.DEPLOYMENTS | Wants.SOURCES:
            return f"-a '(__orch_names {value.wants.value})'"
        case Wants.WORDS:
            return f"-a {shlex.quote(' '.join(value.words))}"
        case Wants.NOTHING:
            return ""


def _text(text: str) -> str:
    return shlex.quote(text.replace("\n", " "))
