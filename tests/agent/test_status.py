"""Where the agent says that clients reach a deployment."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agent import status
from orchestrator.manifest.load import load_text

MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {name: demo}
spec:
  endpoint: {http: "127.0.0.1:8443"%s}
  models: [{name: m, source: m.onnx}]
"""


@pytest.mark.parametrize(
    ("tls", "url"),
    [
        ("", "http://127.0.0.1:8443"),
        (", tls: {certificate_file: tls.crt, key_file: tls.key}", "https://127.0.0.1:8443"),
    ],
)
def test_an_encrypted_endpoint_is_asked_over_https_while_it_is_planned_too(tls: str, url: str) -> None:
    (document,) = load_text(MANIFEST % tls, name="f.yaml", base=Path())
    assert status.planned(document, 0.0, "planning")["endpoint"]["http"] == url
