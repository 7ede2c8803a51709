"""The report is one well-formed page that loads nothing, hurts nobody, and tells in words what its pictures show."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from orchestrator.planner.chart import Series, ticks
from orchestrator.planner.curve import BUSY, Point, curve
from orchestrator.planner.report import ByRule, Planned, machine_facts, report_html
from orchestrator.planner.report_style import DARK, LIGHT, TEXTS
from orchestrator.scheduling.arrivals import Arrivals
from tests.builders import an_inventory
from tests.builders_decision import (
    a_capacity,
    a_decision,
    a_hint_decision,
    a_many_armed_decision,
    a_profile,
    a_proof,
    a_rejected,
    an_arm,
    an_slo,
    planned_examples,
)

EVIL = "<script>alert(1)</script>\"' onmouseover='x' &lt;"
VOID = {"meta", "link", "br", "wbr", "img", "hr", "input"}


@dataclass
class Node:
    """One element of the page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Node] = field(default_factory=list)
    own: list[str] = field(default_factory=list)

    def all(self, tag: str) -> list[Node]:
        found = [self] if self.tag == tag else []
        return found + [each for child in self.children for each in child.all(tag)]

    def text(self) -> str:
        return "".join(self.own) + "".join(child.text() for child in self.children)


class Page(HTMLParser):
    """Reads a page strictly: every element is closed, in the order of its opening."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(html)
        self.close()
        assert [node.tag for node in self.open] == [""], "everything is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of {tag} is given twice"
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].own.append(data)

    def all(self, tag: str) -> list[Node]:
        return self.root.all(tag)

    def ids(self) -> list[str]:
        return [value for node in _walk(self.root) if (value := node.attributes.get("id"))]


def _walk(node: Node) -> list[Node]:
    return [node, *(each for child in node.children for each in _walk(child))]


def html(*models: Planned | ByRule) -> str:
    facts = machine_facts(an_inventory())
    return report_html(models, facts, title="Plan of shop-vision", date="2026-11-22")


def verified(**over: object) -> Planned:
    decision = a_decision(**over)
    return Planned(decision, an_slo(), 2, a_profile(decision))


@cache
def the_verified() -> str:
    """Return the page of one model that was verified."""
    return html(verified())


@pytest.fixture(scope="module")
def text() -> str:
    return html(*planned_examples())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_same_decisions_give_the_same_bytes(text: str) -> None:
    assert html(*planned_examples()) == text


def test_the_page_loads_nothing_and_runs_nothing(text: str, page: Page) -> None:
    assert not page.all("script") + page.all("link") + page.all("img") + page.all("iframe")
    assert "url(" not in text
    assert "@import" not in text
    assert all((node.attributes["href"] or "").startswith("#") for node in page.all("a"))
    assert not [name for node in _walk(page.root) for name in node.attributes if name.startswith("on")]
    (policy,) = [each for each in page.all("meta") if each.attributes.get("http-equiv")]
    assert policy.attributes["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_a_name_cannot_become_markup() -> None:
    arm = an_arm(name=EVIL, properties={EVIL: EVIL})
    proof = a_proof(reason=EVIL, date=EVIL)
    planned = verified(
        model=EVIL, arm=arm, proof=proof, rejected=(a_rejected(an_arm(1, 2, name=EVIL), 3.0, reason=EVIL),)
    )
    both = report_html([planned, planned], [(EVIL, EVIL)], title=EVIL, date=EVIL)
    read = Page(both)
    assert not read.all("script")
    assert not [name for node in _walk(read.root) for name in node.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>\"' onmouseover='x' &lt;" in read.all("h1")[0].text()


def test_every_id_is_given_once_and_every_link_and_label_leads_somewhere(page: Page) -> None:
    ids = page.ids()
    assert len(set(ids)) == len(ids)
    for node in _walk(page.root):
        labels = (node.attributes.get("aria-labelledby") or "").split()
        link = node.attributes.get("href")
        assert set(labels) <= set(ids)
        assert link is None or link[1:] in ids


def test_headings_go_down_one_level_at_a_time(text: str) -> None:
    levels = [int(level) for level in re.findall(r"<h(\d)", text)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(then - here <= 1 for here, then in pairwise(levels))


def test_the_page_has_a_language_a_title_landmarks_and_fits_a_phone(page: Page) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("title")[0].text() == "Plan of shop-vision"
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("footer")) == 1
    (viewport,) = [each for each in page.all("meta") if each.attributes.get("name") == "viewport"]
    assert viewport.attributes["content"] == "width=device-width, initial-scale=1"


def test_every_table_has_a_caption_and_headers_with_a_scope(page: Page) -> None:
    for table in page.all("table"):
        assert table.all("caption")[0].text().strip()
        assert {each.attributes["scope"] for each in table.all("th")} == {"col", "row"}
        columns = len(table.all("thead")[0].all("th"))
        for row in table.all("tbody")[0].all("tr"):
            assert len(row.all("th")) == 1
            assert len(row.all("td")) == columns - 1
            assert all(cell.attributes["data-label"] for cell in row.all("td"))


def test_every_picture_has_a_title_and_a_description_or_is_hidden(page: Page) -> None:
    for svg in page.all("svg"):
        if svg.attributes.get("aria-hidden") == "true":
            continue
        assert svg.attributes["role"] == "group"
        title, described = svg.all("title")[0], svg.all("desc")[0]
        assert svg.attributes["aria-labelledby"] == f"{title.attributes['id']} {described.attributes['id']}"
        assert "p99 latency of" in title.text()
        assert "Capacity of each arm" in described.text()


def test_every_mark_in_a_chart_can_be_reached_by_keyboard_and_says_what_it_is() -> None:
    read = Page(the_verified())
    (wide,) = [svg for svg in read.all("svg") if svg.attributes.get("class") == "chart wide"]
    said = [mark.attributes["aria-label"] for mark in wide.all("a")]
    assert len(said) == 5
    assert "A: 2 streams x 1 thread, chosen: holds p99 within 200 ms up to 38.4/s, between 36.5/s and 40.3/s" in said
    assert all(mark.all("circle")[0].attributes["class"] == "ring" for mark in wide.all("a"))
    assert ".arm a:focus-visible .ring" in the_verified()


def test_what_is_drawn_once_is_not_told_twice() -> None:
    read = Page(the_verified())
    kinds = sorted(str(svg.attributes["class"]) for svg in read.all("svg") if "chart" in str(svg.attributes["class"]))
    assert kinds == ["chart narrow", "chart wide"]
    assert "svg.narrow { display: none" in the_verified()  # display: none takes it from screen readers, too


def test_arms_differ_by_shape_and_letter_not_only_by_colour() -> None:
    read = Page(the_verified())
    (wide,) = [svg for svg in read.all("svg") if svg.attributes.get("class") == "chart wide"]
    names = [node.text().split("  ")[0] for node in wide.all("text") if node.attributes.get("class") == "name"]
    assert [name[0] for name in sorted(names)] == ["A", "B", "C", "D", "E"]
    shapes = [mark.all("polygon")[0].attributes["points"] for mark in wide.all("a") if mark.all("polygon")]
    assert len({len(str(points).split()) for points in shapes}) > 1


def test_the_rows_of_the_table_are_the_chosen_arm_then_the_others_by_capacity(page: Page) -> None:
    table = Page(the_verified()).all("table")[-1]
    heads = ["".join(row.all("th")[0].own).strip() for row in table.all("tbody")[0].all("tr")]
    assert heads == [
        "2 streams x 1 thread",
        "1 stream x 2 threads",
        "LATENCY",
        "2 streams x 1 thread, batch 4",
        "2 streams x 1 thread, batch 16",
    ]


def test_figures_reasons_proof_and_machine_are_on_the_page() -> None:
    read = Page(the_verified()).root.text()
    for told in (
        "38.4/s (36.5 to 40.3)",
        "gain of batch 4 is 1.04x, below 1.15x",
        "accepted after 299 requests",
        "Would change:",
        "INFERENCE_PRECISION_HINT",
        "Intel(R) Xeon(R) Processor",
        "asked 25/s",
        "SLO 200 ms",
        "observed p99: 102 ms at 31.2/s",
    ):
        assert told in read


def test_sentences_of_the_lock_are_taken_as_they_are() -> None:
    assert "As it was decided." in html(verified(sentences=("As it was decided.",)))


def test_without_a_profile_capacities_are_drawn_and_no_curve_is_claimed() -> None:
    read = Page(html(replace(verified(), profile=None)))
    text = read.root.text()
    assert "Curves: simulated" not in text
    assert "Marks on the SLO line" in text
    assert all(not line.attributes["points"] for line in read.all("polyline"))


def test_where_nothing_was_measured_nothing_is_drawn() -> None:
    read = Page(html(Planned(a_hint_decision(), None, 2)))
    assert "Nothing was measured, so there is nothing to draw." in read.root.text()
    assert not [svg for svg in read.all("svg") if "chart" in str(svg.attributes["class"])]


def test_a_model_planned_by_rule_is_told_with_its_reasons_and_no_figures() -> None:
    read = Page(html(*(each for each in planned_examples() if isinstance(each, ByRule))))
    text = read.root.text()
    assert "planned by rule" in text
    assert "its latency and capacity here are unknown" in text
    assert "PERFORMANCE_HINT" in text
    assert not read.all("svg")


def test_without_an_slo_the_curves_stand_alone() -> None:
    decision = a_decision(capacity=None, proof=None, verdict="unverified")
    read = Page(html(Planned(decision, None, 2, a_profile(decision))))
    assert [line for line in read.all("polyline") if line.attributes["points"]]
    assert not [path for path in read.all("path") if path.attributes.get("class") == "slo"]


def test_a_rate_far_beyond_all_capacity_does_not_squeeze_the_curves() -> None:
    read = Page(html(replace(verified(), slo=an_slo(rate_per_s=5000.0))))
    assert "asked 5000/s \N{RIGHTWARDS ARROW}" in read.root.text()
    assert not [path for path in read.all("path") if path.attributes.get("class") == "asked"]


def test_a_dozen_arms_are_drawn_within_two_seconds() -> None:
    decision = a_many_armed_decision()
    planned = Planned(decision, an_slo(0.012), 8, a_profile(decision, 8))
    started = time.process_time()
    html(planned)
    assert time.process_time() - started < 2


def test_coordinates_stay_inside_the_picture(page: Page) -> None:
    for svg in page.all("svg"):
        _, _, width, height = (float(value) for value in str(svg.attributes["viewbox"]).split())
        for node in _walk(svg):
            points = [pair.split(",") for pair in str(node.attributes.get("points") or "").split()]
            assert all(-8 <= float(x) <= width + 8 and -8 <= float(y) <= height + 8 for x, y in points)


def luminance(colour: str) -> float:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def mixed(colour: str, ground: str, share: float) -> str:
    pairs = ((int(colour[place : place + 2], 16), int(ground[place : place + 2], 16)) for place in (1, 3, 5))
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", TEXTS)
def test_letters_keep_the_contrast_of_wcag_aa_on_every_ground(colours: dict[str, str], name: str) -> None:
    grounds = [colours[ground] for ground in ("ground", "card", "slo-ground")]
    assert min(contrast(colours[name], ground) for ground in grounds) >= 4.5


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("share", [0.08, 0.22])
@pytest.mark.parametrize("name", ["text", "soft"])
def test_letters_keep_their_contrast_in_a_tinted_row(colours: dict[str, str], share: float, name: str) -> None:
    assert contrast(colours[name], mixed(colours["series-0"], colours["card"], share)) >= 4.5


def test_the_style_has_dark_print_narrow_and_reduced_motion(text: str) -> None:
    for query in (
        "(prefers-color-scheme: dark)",
        "@media print",
        "(max-width: 860px)",
        "(prefers-reduced-motion: no-preference)",
    ):
        assert query in text


def test_a_curve_rises_and_ends_soon_after_it_leaves_the_picture() -> None:
    profile = a_profile(a_decision()).arms[0]
    points = curve(profile, 99.0, 0.2, cpus=2, arms=5)
    assert list(points) == sorted(points)
    assert [point.latency_s for point in points] == sorted(point.latency_s for point in points)
    assert points[0].latency_s >= 0.0395
    assert sum(point.latency_s > 0.2 for point in points) <= 1
    assert len(curve(profile, 99.0, 100.0, cpus=2, arms=5)) == len(BUSY)


def test_what_a_proof_taught_moves_the_curve_with_the_capacity() -> None:
    profile = a_profile(a_decision()).arms[0]
    plain, slower = (curve(profile, 99.0, 1.0, cpus=2, arms=5, inflation=factor) for factor in (1.0, 2.0))
    assert slower[0].per_s == pytest.approx(plain[0].per_s / 2)
    assert slower[0].latency_s == pytest.approx(2 * plain[0].latency_s, rel=0.05)


def test_a_curve_ends_where_the_server_takes_in_no_more() -> None:
    """Seen to run on to twice the capacity that stood beside it, and to cross the SLO only there."""
    profile = a_profile(a_decision()).arms[0]
    points = curve(profile, 99.0, 100.0, cpus=2, arms=5, most_per_s=20.0)
    assert points[-1].per_s == pytest.approx(max(BUSY) * 20.0)
    own = verified(capacity=a_capacity(41.5), front_end_s=1 / 41.5)
    assert "They end where the server itself can take in no more." in Page(html(own)).root.text()
    assert "can take in no more" not in Page(html(verified())).root.text()


def test_curves_are_drawn_for_the_arrivals_that_are_planned_for() -> None:
    profile = a_profile(a_decision()).arms[0]
    kinds: tuple[Arrivals, ...] = ("constant", "poisson", "bursty")
    even, random, bursty = (curve(profile, 99.0, 100.0, cpus=2, arms=5, arrivals=kind)[5].latency_s for kind in kinds)
    assert even < random < bursty
    text = Page(html(replace(verified(), arrivals="bursty"))).root.text()
    assert "simulated from measured service times, bursty arrivals" in text
    waiting = Page(html(replace(verified(), arrivals="closed"))).root.text()
    assert "Callers that wait for their answers bring no more than they reach" in waiting


def test_an_arm_without_service_times_has_no_curve() -> None:
    profile = a_profile(a_decision()).arms[0]
    assert curve(profile.model_copy(update={"blocks": ()}), 99.0, 1.0, cpus=2, arms=1) == ()


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1.0, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (53.0, (0, 20, 40)),
        (0.013, (0, 0.005, 0.01)),
        (900.0, (0, 200, 400, 600, 800)),
    ],
)
def test_ticks_are_round_and_reach_no_further_than_the_axis(most: float, expected: tuple[float, ...]) -> None:
    assert ticks(most, 5) == pytest.approx(expected)


def test_arms_beyond_the_alphabet_keep_a_letter_of_their_own() -> None:
    letters = [Series(number, "", "", (Point(1, 1),), None).letter for number in range(60)]
    assert letters[:2] + letters[25:27] == ["A", "B", "Z", "A2"]
    assert len(set(letters)) == 60
