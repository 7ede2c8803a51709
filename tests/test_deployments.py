"""Every example in deployments/ is a manifest that can be used as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.manifest.load import check_sources, load

FOLDER = Path(__file__).resolve().parent.parent / "deployments"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_loads_and_its_model_files_are_there(example: Path) -> None:
    documents = load([str(example)]).documents
    assert [problem for document in documents for problem in check_sources(document)] == []
    assert [document.deployment.metadata.name for document in documents] == [example.stem]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_names_its_schema_and_says_what_it_shows(example: Path) -> None:
    schema, sentence, *_ = example.read_text(encoding="utf-8").splitlines()
    assert schema == "# yaml-language-server: $schema=../schemas/deployment.schema.json"
    assert (FOLDER / schema.partition("$schema=")[2]).is_file()
    assert sentence.startswith("# ")
    assert sentence.endswith((".", "first."))


def test_the_folder_loads_as_a_whole_without_clashes() -> None:
    assert len(load([str(FOLDER)]).documents) == len(EXAMPLES) >= 8
