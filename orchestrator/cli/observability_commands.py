"""Commands for whoever watches: observability export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import render
from orchestrator.cli.app import app
from orchestrator.cli.light import LightCommand, LightGroup
from orchestrator.errors import Kind, OrchError

FILES = ("alerts.yaml", "dashboard.json", "prometheus.yaml")

observability_app = typer.Typer(
    name="observability",
    cls=LightGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Write the alert rules, the dashboard and the scrape configuration.\n\nFor Prometheus and Grafana.",
)
app.add_typer(observability_app)


@observability_app.command("export", cls=LightCommand)
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to; made where it is not there.")],
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there and differ.")] = False,
) -> None:
    """Write what comes with this version of orch for Prometheus and Grafana.

    prometheus.yaml (what to scrape: put in your addresses), alerts.yaml (rules) and dashboard.json (for Grafana's
    import). A file that is there and differs is yours: it stays unless --force is given.

    \b
    Exit codes: 0 written, or there already; 1 a file differs.

    \b
    Example: orch observability export monitoring
    """
    from importlib.resources import files  # only this command needs it

    kept = files("orchestrator.telemetry.observability")
    texts = {folder / name: (kept / name).read_text(encoding="utf-8") for name in FILES}
    own = [path for path, text in texts.items() if not force and _differs(path, text)]
    if own:
        hint = "compare them with those of another folder, or write over them by --force"
        what = f"is there and differs: {', '.join(path.name for path in own)}"
        raise OrchError(Kind.CONFLICT, what, where=str(folder), hint=hint)
    _write(texts)
    render.out("\n".join(map(str, texts)))


def _differs(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") != text
    except FileNotFoundError:
        return False
    except UnicodeDecodeError:
        return True
    except OSError:
        return False  # writing it will say what is wrong


def _write(texts: dict[Path, str]) -> None:
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        where = error.filename or str(next(iter(texts)).parent)
        raise OrchError(Kind.FAILED, f"cannot be written: {error.strerror}", where=str(where)) from None
