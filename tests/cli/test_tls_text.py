"""How an encrypted endpoint looks to people."""

from __future__ import annotations

import pytest
from statuses import ITEMS, NOW

from orchestrator.cli.description import describe_text
from orchestrator.cli.render import Screen
from orchestrator.cli.status_table import endpoint_text

CLEAR = {"http": "http://127.0.0.1:8000", "grpc": "127.0.0.1:8001"}
TLS = {"expires": "2027-02-20T15:12:13Z", "sha256": "ab" * 32, "client_certificates": False}
ENCRYPTED = {"http": "https://127.0.0.1:8000", "grpc": "127.0.0.1:8001", "tls": TLS}


def test_both_addresses_say_whether_they_are_encrypted() -> None:
    assert endpoint_text(CLEAR) == "http://127.0.0.1:8000 grpc://127.0.0.1:8001"
    assert endpoint_text(ENCRYPTED) == "https://127.0.0.1:8000 grpcs://127.0.0.1:8001"


@pytest.mark.parametrize(
    ("tls", "told"), [({}, ""), ({"client_certificates": True}, ", for clients with a certificate")]
)
def test_a_description_tells_the_certificate(tls: dict[str, bool], told: str) -> None:
    item = ITEMS[0] | {"endpoint": ENCRYPTED | {"tls": TLS | tls}}
    text = describe_text({"status": item}, Screen(200, False), NOW)
    assert f"Certificate: until 2027-02-20T15:12:13Z, SHA-256 {'ab' * 32}{told}\n" in text
    assert "Certificate" not in describe_text({"status": ITEMS[0]}, Screen(200, False), NOW)
