"""The generated schema and reference page are complete, stable and up to date."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.manifest import schema, spec

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", [schema.SCHEMA_PATH, schema.PAGE_PATH])
def test_a_generated_file_is_up_to_date(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert schema.outputs(ROOT)[ROOT / path] == text, "run: python -m orchestrator.manifest.schema --write"


def objects() -> dict[str, dict[str, object]]:
    found = schema.json_schema()
    return {"Deployment": found, **found["$defs"]}


@pytest.mark.parametrize("name", sorted(objects()))
def test_every_object_is_closed_and_each_of_its_keys_described(name: str) -> None:
    found = objects()[name]
    assert found["additionalProperties"] is False
    assert found["description"]
    properties = found["properties"]
    assert isinstance(properties, dict)
    assert [key for key, value in properties.items() if not value.get("description")] == []


def test_the_schema_is_of_the_stated_dialect_and_the_same_each_time() -> None:
    assert schema.schema_text() == schema.schema_text()
    assert json.loads(schema.schema_text())["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_patterns_that_errors_put_into_words_are_those_of_the_schema() -> None:
    text = schema.schema_text()
    unused = [pattern for pattern in spec.PATTERN_WORDS if json.dumps(pattern) not in text]
    assert unused == []


def test_writing_then_checking_finds_nothing_and_a_change_is_found(tmp_path: Path) -> None:
    assert schema.main(["--check"], tmp_path) == 1
    assert schema.main(["--write"], tmp_path) == 0
    assert schema.main(["--check"], tmp_path) == 0
    (tmp_path / schema.PAGE_PATH).write_text("edited by hand")
    assert schema.main(["--check"], tmp_path) == 1
    assert schema.main([], tmp_path) == 2
