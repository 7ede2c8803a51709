"""A comparison as a comment: as recorded, never too long, and nothing in it means anything but what orch wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from orchestrator.errors import Problem
from orchestrator.planner.compare import Comparison, Difference, compare
from orchestrator.planner.diff import Change
from orchestrator.planner.lock import ModelFile, locked
from orchestrator.planner.markdown import LENGTH_MAX, block, code, to_markdown
from orchestrator.planner.plan import Reason
from orchestrator.planner.sketch import Wanted
from tests.builders import a_deployment, a_model, a_model_info, a_plan, an_inventory
from tests.builders_decision import a_capacity, a_decision, an_arm

GOLDEN = Path(__file__).parent.parent / "golden" / "comparisons"
SHA = a_model_info().sha256
GITHUB_MAX = 65_536
# A comment of GitHub is CommonMark with tables, and HTML is let through to its sanitiser.
PARSER = MarkdownIt("commonmark").enable("table")
HOSTILE = (
    "`</code></summary></details><img src=x onerror=alert(1)>`` | @everyone closes #1 [x](http://evil.example) "
    "![i](http://evil.example/i.png)\n\n# heading\n/close\n```\n~~~\n\\| \\` <!-- \u202e reversed \x00 www.evil.example"
)


def a_comparison() -> Comparison:
    """Return what most pull requests have: a new SLO with its lock, a new deployment, one that goes, an old lock."""
    slo, tight = {"latency": "200ms", "rate": "25/s"}, {"latency": "100ms", "rate": "50/s"}
    files = {"detector": ModelFile(SHA)}

    def shop(model: dict[str, object], streams: int, capacity: float, name: str = "shop") -> Wanted:
        deployment = a_deployment(model, name=name)
        decision = a_decision(
            model="detector",
            model_sha256=SHA,
            arm=an_arm(streams, 2 // streams, batch=1 if streams == 2 else 4),
            capacity=a_capacity(capacity),
            sentences=(f"{streams} x {2 // streams} threads carry {capacity:g}/s.", "Would change: the SLO."),
        )
        lock = locked(None, deployment, an_inventory(), 2, {"detector": decision})
        return Wanted(deployment, lock, files)

    before = {
        "shop": shop(a_model(slo=slo), 2, 41.5),
        "old": Wanted(a_deployment(name="old"), None, files),
        "same": Wanted(a_deployment(name="same"), None, files),
        "stale": shop(a_model(slo=slo), 2, 41.5, "stale"),
    }
    after = {
        "shop": shop(a_model(slo=tight), 1, 63.0),
        "new": Wanted(a_deployment(a_model(compile={"hint": "LATENCY"}), name="new"), None, files),
        "same": before["same"],
        "stale": replace(before["stale"], deployment=a_deployment(a_model(slo=tight), name="stale")),
    }
    found = compare(before, after, base="main")
    return replace(found, notes=("main:deployments/bad.yaml:3:1: the key 'spce' is not known",))


def test_the_comment_reads_as_recorded(update_golden: bool) -> None:
    text = to_markdown(a_comparison())
    if update_golden:
        (GOLDEN / "comment.md").write_text(text, encoding="utf-8")
    assert text == (GOLDEN / "comment.md").read_text(encoding="utf-8")


def test_that_nothing_changes_is_one_line() -> None:
    assert to_markdown(Comparison("main", (), total=3)) == "### orch: nothing changes against `main`\n"


def structure(text: str) -> list[str]:
    """Return the kinds of all parts of the document in order, with what is HTML; code without its content."""

    def kinds(tokens: list[Token]) -> list[str]:
        found: list[str] = []
        for token in tokens:
            html = token.content.split("<code>")[0] if "html" in token.type else ""
            found += [f"{token.type} {token.tag} {html}", *kinds(token.children or [])]
        return found

    return kinds(PARSER.parse(text))


def a_difference(text: str) -> Difference:
    """Return a difference that says this text wherever a manifest or lock may put text."""
    (plan,) = a_plan().models
    plan = plan.model_copy(
        update={
            "device": text,
            "properties": {text: text},
            "reasons": (Reason(subject=text, text=text),),
            "warnings": (text,),
        }
    )
    change = Change(text, "replace", text, (text, text))
    return Difference(text, change, (text, text), None, plan)


def a_comment(text: str) -> str:
    found = a_difference(text)
    return to_markdown(Comparison(text, (found, found), (Problem(text, text, text),), (text,), 2))


def test_text_from_manifests_means_nothing_in_the_comment() -> None:
    assert structure(a_comment(HOSTILE)) == structure(a_comment("harmless"))
    assert "\u202e" not in a_comment(HOSTILE)
    assert "\x00" not in a_comment(HOSTILE)


@given(st.text(st.sampled_from("`|\\<>&@#*_[]()!~/-=+ \n\r\t\x00\u202eab\u2028\xa0"), min_size=1, max_size=60))
def test_no_text_changes_what_the_comment_is_made_of(text: str) -> None:
    assert structure(a_comment(text)) == structure(a_comment("harmless"))


@pytest.mark.parametrize("text", ["a", "`", "``a`", " ", "", "a|b", "`a", "a\\"])
def test_code_is_one_span_in_a_table(text: str) -> None:
    _, cell = [token for token in PARSER.parse(f"| a |\n|---|\n| {code(text)} |\n") if token.type == "inline"]
    assert [token.type for token in cell.children or []] == ["code_inline"]


def test_a_block_keeps_lines_and_is_cut_where_it_is_very_long() -> None:
    assert block("a\n```\nb") == "````text\na\n```\nb\n````\n"
    long = block("x\n" * 10_000)
    assert len(long) < 7_000
    assert long.endswith("…\n```\n")


@pytest.mark.parametrize("count", [1, 40, 400, 5_000])
@pytest.mark.parametrize("text", ["name", HOSTILE, "x" * 4_000, "\U0001f600" * 300])
def test_a_comment_is_never_too_long_and_counts_what_it_leaves_out(count: int, text: str) -> None:
    found = a_difference(text)
    differences = tuple(replace(found, deployment=f"{text}{number}") for number in range(count))
    comment = to_markdown(Comparison(text, differences, (Problem(text),) * count, (text,) * count, count))
    assert len(comment) <= LENGTH_MAX < GITHUB_MAX
    shown = sum(each.startswith("| ±") for each in comment.splitlines())
    assert shown == count or f"{count - shown} more changes" in comment
    assert comment.count("<details>") == comment.count("</details>\n")


def test_the_most_changes_are_shown_before_any_details() -> None:
    found = a_difference("name")
    comment = to_markdown(Comparison("main", (found,) * 30, total=30), limit=6_000)
    assert comment.index("<details>") > comment.rindex("| ±")
