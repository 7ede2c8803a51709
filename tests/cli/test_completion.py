"""TAB in a real bash; what the scripts for zsh and fish say."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import ROOT, orch, stand_in

from orchestrator.cli import completion
from orchestrator.cli.completion import Command, Option, Shell, Value, Wants
from orchestrator.cli.completion_command import commands
from orchestrator.cli.main import COMMANDS
from orchestrator.errors import Kind, OrchError

ASK = (sys.executable, "-P", "-m", "orchestrator.cli.names")
NAMES = {"deployments": ["shop", "shore"], "models": ["shop/detector"], "sources": ["site"]}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "orch.bash"
    path.write_text(completion.script(Shell.BASH, commands(), ASK))
    return path


def tab(script: Path, home: Path, *words: str, cwd: Path = ROOT) -> list[str]:
    """Return what bash offers when TAB is pressed at the end of the words."""
    line = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1};"
        ' _orch; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environ = {**os.environ, "ORCH_HOME": str(home), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        ["bash", "--norc", "-c", line], cwd=cwd, env=environ, capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stderr == ""
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["orch", "app"], ["apply"]),
        (["orch", "agent", "st"], ["start", "stop", "status"]),
        (["orch", "agent", "status", "-o", ""], ["text", "json", "yaml"]),
        (["orch", "status", "--w"], ["--watch"]),
        (["orch", "logs", "shop", "--requests", "o"], ["on", "off"]),
        (["orch", "completion", ""], ["bash", "zsh", "fish"]),
        (["orch", "apply", "--timeout", ""], []),
        (["orch", "validate", "README"], ["README.md"]),
        (["orch", "plan", "-f", "deployments/quick"], ["deployments/quickstart.yaml"]),
        (["orch", "no-such-command", ""], []),
        (["orch", "completion", "bash", ""], []),
        (["orch", "agent", "install", "--state", "dep"], ["deployments"]),
    ],
    ids=" ".join,
)
def test_words_of_the_command_line_are_completed(
    script: Path, tmp_path: Path, words: list[str], offered: list[str]
) -> None:
    assert tab(script, tmp_path, *words) == offered


def test_every_command_is_offered(script: Path, tmp_path: Path) -> None:
    assert tab(script, tmp_path, "orch", "") == list(COMMANDS)


def test_names_come_from_the_agent(script: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with stand_in(home, {"names": NAMES}) as agent:
        assert tab(script, home, "orch", "status", "sho") == ["shop", "shore"]
        assert tab(script, home, "orch", "describe", "-o", "json", "shop") == ["shop"]
        assert tab(script, home, "orch", "status", "shop/") == ["shop/detector"]
        assert agent.asked("names") == [{}] * 3


@pytest.mark.parametrize("answer", [OrchError(Kind.INVALID, "not a call this process knows"), ...])
def test_an_agent_that_does_not_know_or_hangs_offers_nothing(script: Path, tmp_path: Path, answer: object) -> None:
    home = tmp_path / "home"
    with stand_in(home, {"names": answer}):
        assert tab(script, home, "orch", "logs", "") == []


def test_without_an_agent_tab_is_silent_and_starts_none(script: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert tab(script, home, "orch", "delete", "") == []
    assert not home.exists()


def test_a_folder_with_a_package_of_that_name_is_not_run(script: Path, tmp_path: Path) -> None:
    evil = tmp_path / "orchestrator"
    evil.mkdir()
    (evil / "__init__.py").write_text("open('ran', 'w')")
    assert tab(script, tmp_path / "home", "orch", "status", "", cwd=tmp_path) == []
    assert not (tmp_path / "ran").exists()


def test_asking_for_names_loads_next_to_nothing() -> None:
    code = "import orchestrator.cli.names, sys; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    heavy = {"typer", "click", "pydantic", "yaml", "asyncio", "sqlite3", "rich", "openvino", "numpy"}
    assert set(ran.stdout.split()) & heavy == set()


def test_the_command_writes_a_script_that_bash_reads(tmp_path: Path) -> None:
    ran = orch(tmp_path, "completion", "bash")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == completion.script(Shell.BASH, commands(), ASK)
    for shell in Shell:
        program = shutil.which(shell.value)
        if program is not None:  # the syntax of those that are here
            text = completion.script(shell, commands(), ASK)
            read = subprocess.run([program, "-n"], input=text, capture_output=True, text=True, timeout=30, check=False)
            assert (read.returncode, read.stderr) == (0, "")
    assert orch(tmp_path, "completion", "csh").returncode == 2


SOME = [
    Command((), "", ("status", "agent"), (), Value(Wants.WORDS, ("status", "agent"))),
    Command(
        ("status",),
        "Show it.",
        (),
        (Option(("-o", "--output"), Value(Wants.WORDS, ("table", "json")), "How it's written."),),
        Value(Wants.DEPLOYMENTS),
    ),
    Command(("agent",), "Run it.", ("start",), (), Value(Wants.WORDS, ("start",))),
    Command(("agent", "start"), "Start it.", (), (Option(("--now",), None, "At once."),), Value(Wants.FILES)),
]


def test_the_script_for_fish_says_when_each_word_is_offered() -> None:
    assert completion.script(Shell.FISH, SOME, ("names",)).splitlines()[1:] == [
        "complete -c orch -f",
        "function __orch_names; names $argv 2>/dev/null; end",
        "complete -c orch -n 'true; and not __fish_seen_subcommand_from status agent' -a status -d 'Show it.'",
        "complete -c orch -n 'true; and not __fish_seen_subcommand_from status agent' -a agent -d 'Run it.'",
        "complete -c orch -n '__fish_seen_subcommand_from status' -s o -l output -x -a 'table json'"
        " -d 'How it'\"'\"'s written.'",
        "complete -c orch -n '__fish_seen_subcommand_from status' -a '(__orch_names deployments)'",
        "complete -c orch -n '__fish_seen_subcommand_from agent; and not __fish_seen_subcommand_from start'"
        " -a start -d 'Start it.'",
        "complete -c orch -n '__fish_seen_subcommand_from agent; and __fish_seen_subcommand_from start' -l now"
        " -d 'At once.'",
        "complete -c orch -n '__fish_seen_subcommand_from agent; and __fish_seen_subcommand_from start' -F",
    ]


def test_the_script_for_zsh_is_found_by_its_first_line_and_knows_the_same_words() -> None:
    text = completion.script(Shell.ZSH, SOME, ("names",))
    assert text.startswith("#compdef orch\n")
    assert '_orch_known() { case "$1" in " status"|" agent"|" agent start") return 0 ;; esac; return 1; }' in text
    assert "' status:-o'|' status:--output') echo 'words table json' ;;" in text
