"""The parts that pages are made of: the frame, tables that narrow, lists of facts and of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from orchestrator.planner.report_style import style

# Nothing is loaded and no script runs, whatever a name in the page holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, sub: str, parts: Sequence[str], foot: str) -> str:
    """Return a whole page that needs nothing else; `parts` are HTML, everything else is text."""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>\n<style>{style()}</style>\n</head>\n<body>",
            f'<header><h1>{escape(title)}</h1>\n<p class="sub">{escape(sub)}</p></header>\n<main>',
            *parts,
            f"</main>\n<footer><p>{escape(foot)}</p></footer>",
            "</body>\n</html>\n",
        ]
    )


def table(caption: str, heads: Sequence[str], rows: str) -> str:
    """Return a table that becomes a list of cards where it is narrow; the roles keep it a table for screen readers."""
    cells = "".join(f'<th role="columnheader" scope="col">{escape(head)}</th>' for head in heads)
    return (
        f'<table role="table" class="stack"><caption>{escape(caption)}</caption>\n'
        f'<thead role="rowgroup"><tr role="row">{cells}</tr></thead>\n<tbody role="rowgroup">\n{rows}\n</tbody></table>'
    )


def cell(label: str, content: str, kind: str = "") -> str:
    """Return a cell; `label` stands beside it where the table is narrow."""
    named = f' class="{kind}"' if kind else ""
    return f'<td role="cell"{named} data-label="{escape(label)}"><div>{content}</div></td>'


def facts(pairs: Sequence[tuple[str, str]], kind: str = "") -> str:
    """Return labels with their texts."""
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>" for label, text in pairs)
    return f'<dl class="facts {kind}">{items}</dl>'


def figures(told: Sequence[tuple[str, str, str]]) -> str:
    """Return the few figures that most people came for: label, value, note."""
    items = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for label, value, note in told
    )
    return f'<dl class="figures">{items}</dl>'


def listed(sentences: Sequence[str]) -> str:
    """Return sentences as a list."""
    return f'<ul class="why">{"".join(f"<li>{escape(each)}</li>" for each in sentences)}</ul>'
