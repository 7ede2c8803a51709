"""The documentation says what the program does: every command with an example, and the reference up to date."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from orchestrator.cli import reference
from orchestrator.cli.boundary import guarded
from orchestrator.cli.main import COMMANDS, command

ROOT = Path(__file__).parents[1]
ALL = reference.commands()
GROUPS = {(), ("agent",), ("source",), ("observability",)}
LEAVES = [words for words in ALL if words not in GROUPS]


def examples(words: tuple[str, ...]) -> list[str]:
    """Return the command lines that a command's help shows as its example."""
    text = re.sub(r"Example:\n +", "Example: ", reference.help_text(words))
    return re.findall(r"Example: (.*)", text)


def test_the_command_reference_is_up_to_date() -> None:
    written = (ROOT / reference.PAGE).read_text(encoding="utf-8")
    assert written == reference.page(), "run: python -m orchestrator.cli.reference --write"


def test_checking_the_reference_tells_a_stale_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"], tmp_path) == 1
    assert "--write" in capsys.readouterr().err
    assert reference.main(["--write"], tmp_path) == 0
    assert reference.main(["--check"], tmp_path) == 0
    assert reference.main([], tmp_path) == 2


def test_every_command_is_in_the_table_of_commands_and_the_other_way_round() -> None:
    assert list(COMMANDS) == [words[0] for words in ALL if len(words) == 1]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_alone_is_the_command_among_all(name: str) -> None:
    assert name in command([name]).commands


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_begins_with_one_short_sentence_and_fits_80_columns(words: tuple[str, ...]) -> None:
    lines = reference.help_text(words).splitlines()
    sentence = next(line.strip() for line in lines[1:] if line.strip())
    assert sentence.endswith(".")
    assert len(sentence) <= 72
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_has_one_example_of_itself(words: tuple[str, ...]) -> None:
    (example,) = examples(words)
    assert tuple(shlex.split(example)[1 : 1 + len(words)]) == words


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_the_options_of_an_example_exist(words: tuple[str, ...]) -> None:
    (example,) = examples(words)
    options = {word for word in shlex.split(example) if re.fullmatch(r"--?[a-z][a-z-]*", word)}
    known = set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", reference.help_text(words)))
    assert options <= known


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_the_files_of_an_example_exist(words: tuple[str, ...]) -> None:
    (example,) = examples(words)
    files = [word.rpartition("@")[2] for word in shlex.split(example) if "deployments/" in word]
    assert all((ROOT / file).exists() for file in files)


def test_the_exit_codes_in_help_are_those_of_the_program() -> None:
    text = reference.help_text(())
    assert re.findall(r"^    (\d+) ", text, re.MULTILINE) == ["0", "1", "2", "3", "130"]
    assert guarded(lambda: None, command=[], environ={}) == 0
