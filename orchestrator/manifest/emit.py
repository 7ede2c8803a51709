"""Writes plain values as YAML that our own strict reader takes back for the same values."""

from __future__ import annotations

from typing import Any

import yaml

from orchestrator.manifest import scalar

WIDTH = 110


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, so that two equal parts stay readable."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the name is PyYAML's
        return True

    def text(self, value: str) -> yaml.ScalarNode:
        """Quote what our own strict reader would not take for this text, such as 08."""
        plain = not value or scalar.resolve(value) == (value, None, None)
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else "'")


_Dumper.add_representer(str, _Dumper.text)


def to_yaml(value: Any) -> str:
    """Return the value as YAML, keys in the order given; the same value gives the same bytes."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=WIDTH, allow_unicode=True
    )
    return text
