"""Takes pictures of a report in a real browser, light and dark, wide and narrow, for a person to look at.

Needs Debian's chromium. Writes PNG files to a folder: python -m benchmarks.look_report OUT [REPORT.html]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from orchestrator.planner.report import machine_facts, report_html
from tests.builders import an_inventory
from tests.builders_decision import planned_examples

WAIT_S = 60
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--force-device-scale-factor=1",
    ),
)
SIZES = {"wide": (1400, 3600), "middle": (820, 4200), "narrow": (500, 6400), "phone": (360, 6400)}
SCHEMES = {"light": "1", "dark": "0"}  # of blink's preferredColorScheme


def example() -> str:
    """Return the report of the decisions that the tests use."""
    facts = machine_facts(an_inventory())
    return report_html(planned_examples(), facts, title="Plan of shop-vision", date="2026-11-22")


def look(page: Path, out: Path) -> None:
    """Take a picture of the page in every size and scheme."""
    for scheme, value in SCHEMES.items():
        for size, (width, height) in SIZES.items():
            shot = out / f"report-{scheme}-{size}.png"
            with tempfile.TemporaryDirectory() as profile:
                command = [
                    *("chromium", *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"),
                    *(f"--blink-settings=preferredColorScheme={value}", f"--screenshot={shot}", page.as_uri()),
                ]
                subprocess.run(command, check=True, timeout=WAIT_S, capture_output=True)
            print(shot)


def main(arguments: list[str]) -> int:
    """Write the page and its pictures."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    out = Path(arguments[0]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    page = out / "report.html"
    page.write_text(Path(arguments[1]).read_text("utf-8") if arguments[1:] else example(), encoding="utf-8")
    look(page, out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
