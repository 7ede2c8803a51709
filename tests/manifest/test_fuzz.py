"""Whatever is done to a manifest, it loads or is refused in words with a place; the benchmark does more of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fuzz_manifest


@pytest.mark.timeout(60)
# Seen to fail: on an empty value behind a tag (IndexError), and on a syntax error placed behind the last line.
def test_mutated_manifests_load_or_are_refused_with_a_place() -> None:
    rng, texts = random.Random(2), fuzz_manifest.seeds()
    answers = [
        fuzz_manifest.attempt(fuzz_manifest.mutate(rng.choice(texts), rng.choice(texts), rng)) for _ in range(500)
    ]
    assert {"loaded", "refused"} == set(answers)


def test_what_mutation_starts_from_loads() -> None:
    assert {fuzz_manifest.attempt(text.encode()) for text in fuzz_manifest.seeds()} == {"loaded"}


@pytest.mark.timeout(60)
@given(data=st.binary(max_size=200))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    fuzz_manifest.attempt(data)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(fuzz_manifest.TOKENS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PLACES = st.sampled_from(["name", "device", "slo", "traffic", "compile", "properties", "shapes", "queue", "fallback"])


@pytest.mark.timeout(60)
@given(key=PLACES, value=VALUES)
def test_any_value_under_a_known_key_gets_an_answer(key: str, value: object) -> None:
    import yaml

    model = {"name": "m", "source": "s", key: value}
    document = {"apiVersion": "orch/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"models": [model]}}
    fuzz_manifest.attempt(yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "replace"))
