"""The layers hold: imports point back along the flow, pure modules stay pure, start-up stays light."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "orchestrator"

# A module may import from its own room and from those before it.
ROOMS = (
    *("errors", "units", "manifest", "inventory", "backend", "scheduling", "profiling", "planner", "telemetry"),
    *("runner", "serving", "client", "api", "gitops", "agent", "cli"),
)
TOP = "orchestrator"  # orchestrator/__init__.py and __main__.py: the public names, above all rooms

# What decides, and the plain data that it decides on: no I/O, no clock, no threads, and only each other.
PURE_ROOMS = ("errors", "units", "planner", "scheduling")
PURE_MODULES = (
    "orchestrator.manifest.certificate",
    "orchestrator.manifest.emit",
    "orchestrator.manifest.explain",
    "orchestrator.manifest.git_address",
    "orchestrator.manifest.scalar",
    "orchestrator.manifest.source",
    "orchestrator.manifest.source_spec",
    "orchestrator.manifest.spec",
    "orchestrator.manifest.target",
    "orchestrator.manifest.typed",
    "orchestrator.manifest.git_address",
    "orchestrator.inventory.device",
    "orchestrator.inventory.fingerprint",
    "orchestrator.inventory.model",
    "orchestrator.agent.doctor",
    "orchestrator.agent.doctor_check",
    "orchestrator.agent.doctor_facts",
    "orchestrator.agent.doctor_machine",
    "orchestrator.agent.doctor_software",
    "orchestrator.agent.doctor_state",
    "orchestrator.agent.unit",
    "orchestrator.backend.base",
    "orchestrator.backend.datatypes",
    "orchestrator.cli.completion",
    "orchestrator.client.failures",
    "orchestrator.client.retries",
    "orchestrator.client.wire",
    "orchestrator.gitops.failures",
    "orchestrator.gitops.lfs_pointer",
    "orchestrator.gitops.tree",
    "orchestrator.profiling.measurement",
    "orchestrator.runner.trial",
    "orchestrator.serving.contract",
    "orchestrator.serving.oip",
    "orchestrator.serving.oip_json",
    "orchestrator.serving.oip_tensors",
    "orchestrator.serving.quota",
    "orchestrator.serving.repository",
    "orchestrator.serving.statistics",
    "orchestrator.telemetry.advice",
    "orchestrator.telemetry.drift",
    "orchestrator.telemetry.events",
    "orchestrator.telemetry.look",
    "orchestrator.telemetry.recorder",
    "orchestrator.telemetry.saturation",
    "orchestrator.telemetry.snapshot",
    "orchestrator.telemetry.states",
    "orchestrator.agent.source_state",
    "orchestrator.agent.source_status",
    "orchestrator.agent.source_steps",
)
PURE_PACKAGES = (
    *("orchestrator", "orchestrator.manifest", "orchestrator.inventory", "orchestrator.backend"),
    "orchestrator.profiling",
    "orchestrator.client",
    "orchestrator.agent",
)


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IMPURE = words(
    """asyncio concurrent ctypes fcntl grpc http httptools io logging mmap multiprocessing openvino os psutil queue
    random selectors select shutil signal socket sqlite3 ssl subprocess sys tempfile threading time urllib uvloop"""
)

ONLY_IMPORTER = {
    "openvino": "orchestrator.backend.openvino_backend",
    "psutil": "orchestrator.inventory.host",
}

# What `orch validate` and `orch status` must not pay for.
HEAVY = words(
    "asyncio google grpc httptools multiprocessing numpy openvino orjson prometheus_client psutil rich sqlite3 uvloop"
)


@dataclass(frozen=True)
class Import:
    """One import statement's target, and where it stands."""

    importer: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


@cache
def sources() -> dict[str, str]:
    """Return the text of every module of the package by its dotted name."""
    return {_name(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(modules: dict[str, str]) -> list[Import]:
    """Return every import of every module, also those inside functions; of a name in a package its module."""
    found = (
        Import(name, _module(target, modules), line)
        for name, text in modules.items()
        for target, line in _targets(ast.parse(text))
    )
    return list(dict.fromkeys(found))


def _targets(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the layer"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _module(target: str, modules: dict[str, str]) -> str:
    """Return the module of ours in which the target is, or the target itself where it is foreign."""
    parts = target.split(".")
    if parts[0] != TOP:
        return target
    while ".".join(parts) not in modules and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else TOP


def top(target: str) -> str:
    return target.split(".", maxsplit=1)[0]


def ours(found: list[Import]) -> list[Import]:
    return [each for each in found if top(each.target) == TOP]


def layer_breaches(modules: dict[str, str]) -> list[str]:
    order = {name: place for place, name in enumerate((*ROOMS, TOP))}
    return [
        str(each)
        for each in ours(imports(modules))
        # The package itself, holding only lazily imported names, may be named from anywhere by `import orchestrator`.
        if order[room(each.target)] > order[room(each.importer)] and each.target != TOP
    ]


def is_pure(module: str) -> bool:
    return room(module) in PURE_ROOMS or module in PURE_MODULES


def purity_breaches(modules: dict[str, str]) -> list[str]:
    return [
        *(str(each) for each in imports(modules) if is_pure(each.importer) and not _allowed_in_pure(each.target)),
        *(
            f"{name}:{line} calls {call}"
            for name, text in modules.items()
            if is_pure(name)
            for call, line in _asking_calls(_without_script(text))
        ),
    ]


def _allowed_in_pure(target: str) -> bool:
    if top(target) == TOP:
        return is_pure(target) or target in PURE_PACKAGES
    # A seeded generator is a value; the module's own functions share one that nobody seeded.
    return top(target) not in IMPURE or target == "random.Random"


class _Imported(ast.NodeTransformer):
    """Leave out what runs only when a module is started as a program, such as one that prints a generated page."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        return node.orelse if ast.unparse(node.test) == "__name__ == '__main__'" else self.generic_visit(node)


def _without_script(text: str) -> ast.AST:
    return _Imported().visit(ast.parse(text))


ASKING_METHODS = {"now", "utcnow", "today", "read_text", "read_bytes", "write_text", "write_bytes"}
ASKING_FUNCTIONS = {"open", "input", "print"}


def _asking_calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield calls that read a clock, a file or unseeded chance without importing anything forbidden."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            unseeded = called == "Random" and not node.args
            if unseeded or called in ASKING_FUNCTIONS or called.split(".")[-1] in ASKING_METHODS:
                yield called, node.lineno


class _Running(ast.NodeTransformer):
    """Leave out what only type checkers see."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        return node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)


def _without_type_imports(text: str) -> str:
    return ast.unparse(_Running().visit(ast.parse(text)))


def cycles(modules: dict[str, str]) -> list[list[str]]:
    """Return import cycles between modules, each once; imports for type checkers alone close none."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for each in ours(imports({name: _without_type_imports(text) for name, text in modules.items()})):
        if each.target != each.importer:
            graph[each.importer].add(each.target)
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in sorted(graph[name]):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def printing(modules: dict[str, str]) -> list[str]:
    return [
        f"{name}:{node.lineno}"
        for name, text in modules.items()
        if room(name) != "cli"
        for node in ast.walk(_without_script(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that are loaded after the code ran in a fresh interpreter."""
    report = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, timeout=60, check=True)
    return {name.split(".")[0] for name in json.loads(ran.stdout.splitlines()[-1])}


def test_every_module_is_in_a_known_room() -> None:
    assert {room(name) for name in sources()} <= {*ROOMS, TOP}, "add the new room to ROOMS, where the flow has it"


def test_imports_only_point_back_along_the_flow() -> None:
    assert layer_breaches(sources()) == []


def test_pure_modules_do_no_io_and_read_no_clock() -> None:
    assert purity_breaches(sources()) == []


def test_every_module_that_is_listed_as_pure_exists() -> None:
    assert set(PURE_MODULES) <= set(sources())


@pytest.mark.parametrize(("package", "importer"), ONLY_IMPORTER.items())
def test_a_foreign_world_has_one_door(package: str, importer: str) -> None:
    assert {each.importer for each in imports(sources()) if top(each.target) == package} == {importer}


def test_nothing_imports_in_a_circle() -> None:
    assert cycles(sources()) == []


def test_only_the_command_line_prints() -> None:
    assert printing(sources()) == []


@pytest.mark.parametrize("module", ["orchestrator", "orchestrator.manifest.load", "orchestrator.cli.main"])
def test_starting_up_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}") & HEAVY == set()


def test_validating_a_manifest_loads_nothing_heavy() -> None:
    manifest = next(iter(sorted((ROOT / "deployments").glob("*.yaml"))))
    code = f"""
import sys
sys.argv = ["orch", "validate", {str(manifest)!r}]
from orchestrator.cli.main import run
try:
    run()
except SystemExit as ended:
    assert not ended.code, ended.code
"""
    assert loaded_by(code) & HEAVY == set()


PLANTED = {
    "orchestrator": "",
    "orchestrator.units": "import re",
    "orchestrator.planner.plan": "from orchestrator.runner.pool import Pool",
    "orchestrator.planner.rules": "import datetime\ndef late():\n    import time\n    return datetime.datetime.now()",
    "orchestrator.scheduling.simulate": "from random import Random\nGOOD, BAD = Random(7), Random()",
    "orchestrator.runner.pool": "from orchestrator.units import size\nprint('hello')",
    "orchestrator.runner.worker": "def start():\n    from orchestrator.runner import pool, worker2",
    "orchestrator.runner.worker2": "from orchestrator.runner.worker import start",
    "orchestrator.runner": "",
}


def test_these_rules_find_what_is_planted() -> None:
    assert layer_breaches(PLANTED) == ["orchestrator.planner.plan:1 imports orchestrator.runner.pool"]
    assert purity_breaches(PLANTED) == [
        "orchestrator.planner.plan:1 imports orchestrator.runner.pool",
        "orchestrator.planner.rules:3 imports time",
        "orchestrator.planner.rules:4 calls datetime.datetime.now",
        "orchestrator.scheduling.simulate:2 calls Random",
    ]
    assert cycles(PLANTED) == [
        ["orchestrator.runner.worker", "orchestrator.runner.worker2", "orchestrator.runner.worker"]
    ]
    assert printing(PLANTED) == ["orchestrator.runner.pool:2"]
    assert "asyncio" in loaded_by("import asyncio")
