"""Looks at a report in a real browser: pictures for a person, and checks that only a browser can make.

Needs Debian's chromium. Writes PNG files, light and dark, wide to narrow, and exits 1 where something overflows, a link
cannot be seen when focused, or a picture has no name: python -m benchmarks.look_report OUT [REPORT.html]
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from orchestrator.planner.report import machine_facts, report_html
from tests.builders import an_inventory
from tests.builders_decision import planned_examples

WAIT_S = 60
LETTERS_MIN = 11  # pixels of a line of text in a chart
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SIZES = {"wide": (1400, 3600), "middle": (820, 4200), "phone": (360, 6400)}
WIDTHS = (320, 360, 500, 760, 861, 1001, 1400)
SCHEMES = {"light": "1", "dark": "0"}  # of blink's preferredColorScheme

# Runs in a copy of the page without its policy: the page itself runs no script.
PROBE = """<script>
const links = [...document.querySelectorAll('a')].filter(a => a.getClientRects().length);
const unseen = links.filter(a => {
  const before = getComputedStyle(a.querySelector('.ring') || a);
  const was = [before.stroke, before.outlineStyle].join();
  a.focus({focusVisible: true});
  const after = getComputedStyle(a.querySelector('.ring') || a);
  return document.activeElement !== a || was === [after.stroke, after.outlineStyle].join();
});
const texts = [...document.querySelectorAll('svg.chart text')].filter(t => t.getClientRects().length);
const boxes = texts.map(t => t.getBoundingClientRect());
const out = boxes.filter(b => b.left < -1 || b.right > innerWidth + 1).length;
const over = boxes.reduce((n, a, i) => n + boxes.slice(i + 1).filter(b => a.left < b.right - 2 && b.left < a.right - 2
  && a.top < b.bottom - 5 && b.top < a.bottom - 5).length, 0);
const edge = e => e.getBoundingClientRect().right;
const wide = [...document.querySelectorAll('table, dl, ul, figure, td, th')].filter(
  e => edge(e) > edge(e.closest('section, nav')) - 4 && e.getClientRects().length).length;
const beyond = [...document.querySelectorAll('body *')].filter(e => edge(e) > innerWidth + 1)
  .slice(0, 3).map(e => `${e.tagName} ${e.textContent.trim().slice(0, 30)}`);
const found = {wide, beyond, width: innerWidth, scroll: document.documentElement.scrollWidth, links: links.length,
  unseen: unseen.length, texts: texts.length, out, over, smallest: Math.min(...boxes.map(b => b.height))};
const told = parent.document.createElement('pre');
told.id = 'found';
told.textContent = JSON.stringify(found);
parent.document.body.append(told);
</script>"""
# A frame can be as narrow as a phone; a window of this browser cannot.
FRAME = '<!doctype html><body><iframe style="border: 0; width: {width}px; height: 9000px" srcdoc="{page}"></iframe>'


def example() -> str:
    """Return the report of the decisions that the tests use."""
    facts = machine_facts(an_inventory())
    return report_html(planned_examples(), facts, title="Plan of shop-vision", date="2026-11-22")


def browse(page: Path, width: int, height: int, *flags: str) -> str:
    """Open the page in a browser with a profile of its own, and return what it prints."""
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *flags]
        done = subprocess.run([*command, page.as_uri()], check=True, timeout=WAIT_S, capture_output=True, text=True)
    return done.stdout


def faults(page: Path, width: int) -> list[str]:
    """Return what is wrong with the page at a width."""
    with tempfile.TemporaryDirectory() as folder:
        probed = Path(folder) / "probed.html"
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
        framed = FRAME.format(width=width, page=html.escape(text.replace("</body>", PROBE + "</body>")))
        probed.write_text(framed, encoding="utf-8")
        (told,) = re.findall(r'<pre id="found">(.*?)</pre>', browse(probed, 1600, 9100, "--dump-dom"))
    found: dict[str, Any] = json.loads(html.unescape(told))
    print(f"{width} px: {found}")
    wrong = [
        (found["scroll"] > found["width"], "scrolls sideways"),
        (found["wide"] > 0, "has content beyond its card"),
        (found["unseen"] > 0, "has links whose focus cannot be seen"),
        (found["out"] > 0, "has letters beyond the edge"),
        (found["over"] > 0, "has letters over others"),
        (round(found["smallest"]) < LETTERS_MIN, "has letters too small to read"),
    ]
    return [f"{width} px: {what}" for is_wrong, what in wrong if is_wrong]


def look(page: Path, out: Path) -> None:
    """Take a picture of the page in every size and scheme."""
    for scheme, value in SCHEMES.items():
        for size, (width, height) in SIZES.items():
            shot = out / f"report-{scheme}-{size}.png"
            browse(page, width, height, f"--blink-settings=preferredColorScheme={value}", f"--screenshot={shot}")
            print(shot)


def main(arguments: list[str]) -> int:
    """Write the page and its pictures, and tell what is wrong."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    out = Path(arguments[0]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    page = out / "report.html"
    page.write_text(Path(arguments[1]).read_text("utf-8") if arguments[1:] else example(), encoding="utf-8")
    look(page, out)
    wrong = [each for width in WIDTHS for each in faults(page, width)]
    print("\n".join(wrong) or "nothing wrong", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
