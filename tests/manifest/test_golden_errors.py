"""The whole error text for whole bad manifests, as people see it; --update-golden rewrites the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import OrchError, render
from orchestrator.manifest.load import load_text

CASES = sorted((Path(__file__).resolve().parents[1] / "golden" / "errors").iterdir())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_manifest_gets_the_recorded_errors(case: Path, update_golden: bool) -> None:
    with pytest.raises(OrchError) as caught:
        load_text((case / "bad.yaml").read_text(encoding="utf-8"), name="bad.yaml", base=case)
    text = render(caught.value) + "\n"
    golden = case / "stderr.txt"
    if update_golden:
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
