"""Commands that need nothing but manifests: validate, schema, version."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.app import Files, app
from orchestrator.cli.light import LightCommand
from orchestrator.cli.manifests import check_files, read
from orchestrator.cli.render import out

if TYPE_CHECKING:
    from orchestrator.manifest.load import Manifests


class Kind(enum.StrEnum):
    """Kinds of manifests."""

    DEPLOYMENT = "deployment"
    SOURCE = "source"


@app.command(cls=LightCommand)
def validate(
    files: Files,
    sources: Annotated[bool, typer.Option(help="Look for the model files too, and compare pinned digests.")] = True,
) -> None:
    """Check manifests offline and name every error at once.

    Needs no OpenVINO, no device and no agent.

    \b
    Exit codes: 0 all are valid; 1 at least one is not.

    \b
    Example: orch validate deployments/
    """
    manifests = read(files)
    if sources:
        check_files(manifests)
    out("".join(line + "\n" for line in _summaries(manifests)))


@app.command("schema", cls=LightCommand)
def write_schema(
    kind: Annotated[Kind, typer.Option(help="Kind of the manifest.")] = Kind.DEPLOYMENT,
) -> None:
    """Write the JSON Schema of a manifest, for editors.

    \b
    Example: orch schema > deployment.schema.json
    """
    from orchestrator.manifest import schema, source_spec, spec  # only this command generates it

    out(schema.schema_text(source_spec.Source if kind is Kind.SOURCE else spec.Deployment))


@app.command(cls=LightCommand)
def version() -> None:
    """Write the versions of orch, Python and OpenVINO.

    \b
    Example: orch version
    """
    import platform  # only here
    from importlib.metadata import PackageNotFoundError  # only here
    from importlib.metadata import version as installed

    def of(package: str) -> str:
        try:
            return installed(package)
        except PackageNotFoundError:
            return "not installed"

    out(f"orch {of('orch-openvino')}\npython {platform.python_version()}\nopenvino {of('openvino')}\n")


def _summaries(manifests: Manifests) -> list[str]:
    """Return one line for each file: how many deployments, models and sources it holds."""
    counts: dict[str, Counter[str]] = {}
    for document in manifests.documents:
        models = len(document.deployment.spec.models)
        counts.setdefault(_shown(document.path), Counter()).update(deployment=1, model=models)
    for source in manifests.sources:
        counts.setdefault(_shown(source.path), Counter()).update(source=1)
    return [f"{name}: ok ({_all_counted(found)})" for name, found in counts.items()]


def _all_counted(found: Mapping[str, int]) -> str:
    return ", ".join(_counted(found[what], what) for what in ("deployment", "model", "source") if found[what])


def _shown(path: Path | None) -> str:
    """Return the path as people name it from here; a dash for standard input."""
    if path is None:
        return "-"
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
