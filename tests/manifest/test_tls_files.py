"""Certificates, keys and authorities that a manifest names: what is wrong is said of the file at fault."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509 as reference
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import OrchError
from orchestrator.manifest import certificate as x509
from orchestrator.manifest.load import check_sources, load_text
from orchestrator.manifest.tls_files import UnusableError, load
from tests.certificates import Papers, issue

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return issue(tmp_path_factory.mktemp("issued"))


@pytest.fixture
def papers(issued: Papers, tmp_path: Path) -> Papers:
    mine = Papers(tmp_path)
    for name in ("tls.crt", "ca.crt"):
        (tmp_path / name).write_bytes((issued.folder / name).read_bytes())
    mine.key.touch(mode=0o600)
    mine.key.write_bytes(issued.key.read_bytes())
    return mine


@pytest.mark.parametrize("years", [(2001, 2002), (1999, 2049), (2049, 2051), (2060, 2070)])
def test_the_dates_are_those_that_another_reader_finds(tmp_path: Path, years: tuple[int, int]) -> None:
    first, last = (datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC) for year in years)
    papers = issue(tmp_path, not_before=first, not_after=last)
    found = x509.read(papers.certificate.read_bytes())[0]
    told = reference.load_pem_x509_certificate(papers.certificate.read_bytes())
    assert (found.not_before, found.not_after) == (told.not_valid_before_utc, told.not_valid_after_utc) == (first, last)
    assert found.der == told.public_bytes(serialization.Encoding.DER)


@given(st.data())
def test_a_damaged_certificate_is_an_error_and_nothing_else(issued: Papers, data: st.DataObject) -> None:
    pem = bytearray(issued.certificate.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        pem[data.draw(st.integers(0, len(pem) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(pem[: data.draw(st.integers(0, len(pem)))])
    with contextlib.suppress(ValueError):
        assert x509.read(cut)


def swap_key(papers: Papers) -> None:
    other = issue(papers.folder / "other")
    papers.key.write_bytes(other.key.read_bytes())


FAULTS: dict[str, tuple[Callable[[Papers], object], str, str]] = {
    "another key": (swap_key, "key_file", r"tls\.key is not the key of the certificate in .*tls\.crt"),
    "open key": (lambda p: p.key.chmod(0o644), "key_file", r"is open to every user of this machine \(mode 0644\)"),
    "pass phrase": (
        lambda p: p.key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----"),
        "key_file",
        "has a pass phrase",
    ),
    "empty key": (lambda p: p.key.write_text(""), "key_file", "holds no private key in PEM form"),
    "cut key": (lambda p: p.key.write_bytes(p.key.read_bytes()[:100]), "key_file", "cannot be used"),
    "empty certificate": (lambda p: p.certificate.write_text("\n"), "certificate_file", "holds no certificate in PEM"),
    "key for certificate": (
        lambda p: p.certificate.write_bytes(p.key.read_bytes()),
        "certificate_file",
        "holds no certificate in PEM",
    ),
    "empty authorities": (lambda p: p.ca.write_text("# none yet"), "client_ca_file", "holds no certificate in PEM"),
    "large": (lambda p: p.ca.write_bytes(b"x" * (2**20 + 1)), "client_ca_file", "is larger than"),
    "gone": (lambda p: p.certificate.unlink(), "certificate_file", "cannot be read: No such file"),
}


@pytest.mark.parametrize(("harm", "key", "says"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_used_is_said_of_the_file_at_fault(
    papers: Papers, harm: Callable[[Papers], object], key: str, says: str
) -> None:
    load(papers.files(papers.ca))
    harm(papers)
    with pytest.raises(UnusableError, match=says) as caught:
        load(papers.files(papers.ca))
    assert caught.value.key == key
    assert "MII" not in str(caught.value), "no text shows what a file holds"


@pytest.mark.parametrize(("make", "name"), [(Ed25519PrivateKey, "Ed25519"), (Ed448PrivateKey, "Ed448")])
def test_a_kind_of_key_that_grpc_does_not_speak_is_refused_for_grpc_only(
    tmp_path: Path, make: type[Ed25519PrivateKey] | type[Ed448PrivateKey], name: str
) -> None:
    key, papers = make.generate(), Papers(tmp_path)
    subject = reference.Name([reference.NameAttribute(reference.NameOID.COMMON_NAME, "shop")])
    builder = reference.CertificateBuilder(subject, subject, key.public_key(), 1, NOW, NOW + timedelta(9))
    papers.certificate.write_bytes(builder.sign(key, None).public_bytes(serialization.Encoding.PEM))
    papers.key.touch(mode=0o600)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    papers.key.write_bytes(key.private_bytes(*form))
    assert load(papers.files()).chain[0].edwards == name
    with pytest.raises(UnusableError, match=f"an {name} key, which gRPC does not speak"):
        load(replace(papers.files(), grpc=True))


def test_an_identity_shows_nothing_secret(papers: Papers) -> None:
    identity = load(papers.files())
    assert "PRIVATE" not in repr(identity)
    assert identity.not_after > NOW


def manifest(endpoint: str) -> str:
    return f"""\
apiVersion: orch/v1
kind: Deployment
metadata: {{name: demo}}
spec:
  endpoint: {endpoint}
  models: [{{name: m, source: tls.crt}}]
"""


WITH = "tls: {certificate_file: tls.crt, key_file: tls.key}"


def problems(text: str, base: Path) -> list[str]:
    (document,) = load_text(text, name="f.yaml", base=base)
    return [f"{problem} ({problem.hint})" for problem in check_sources(document)]


def test_the_files_of_a_manifest_are_checked_with_their_places(papers: Papers) -> None:
    text = manifest("{http: 127.0.0.1:0, grpc: null, " + WITH + "}")
    assert problems(text, papers.folder) == []
    swap_key(papers)
    (problem,) = problems(text, papers.folder)
    assert problem.startswith(f"f.yaml:5:88: spec.endpoint.tls.key_file: {papers.key} is not the key of")
    papers.key.unlink()
    papers.certificate.unlink()
    found = problems(text.replace("source: tls.crt", "source: ca.crt"), papers.folder)
    assert [re.findall(r"tls\.\w+_file: there is no file", each) for each in found] == [
        ["tls.certificate_file: there is no file"],
        ["tls.key_file: there is no file"],
    ]


@pytest.mark.parametrize(
    ("dates", "says"),
    [
        (
            {"not_before": NOW - timedelta(9), "not_after": NOW - timedelta(1)},
            r"has expired on 20\d\d-.*renew",
        ),
        ({"not_before": NOW + timedelta(1), "not_after": NOW + timedelta(9)}, r"holds from .* on only.*clock right"),
    ],
    ids=["expired", "not yet valid"],
)
def test_a_certificate_that_clients_would_refuse_is_an_error(
    tmp_path: Path, dates: dict[str, datetime], says: str
) -> None:
    issue(tmp_path, **dates)
    (problem,) = problems(manifest("{http: 127.0.0.1:0, grpc: null, " + WITH + "}"), tmp_path)
    assert re.search(says, problem), problem


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        (
            "{http: 0.0.0.0:80, grpc: null, " + WITH + "}",
            "0.0.0.0:80 can be reached from other machines, without a token",
        ),
        (
            "{http: 127.0.0.1:1, tls: {certificate_file: a, key_file: b, min_version: TLSv1.3}}",
            "the gRPC endpoint cannot be held to TLSv1.3",
        ),
        ("{tls: {certificate_file: a}}", "key_file"),
        ("{tls: {certificate_file: a, key_file: b, min_version: TLSv1.0}}", "TLSv1.2"),
    ],
)
def test_what_would_not_be_safe_is_refused(endpoint: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(OrchError) as caught:
        load_text(manifest(endpoint), name="f.yaml", base=tmp_path)
    assert says in str(caught.value)


@pytest.mark.parametrize("known", ["token_file: t", "insecure: true", WITH.replace("}", ", client_ca_file: c}")])
def test_beyond_loopback_clients_are_known_by_token_or_certificate(known: str, tmp_path: Path) -> None:
    assert load_text(manifest("{http: 0.0.0.0:80, grpc: null, " + known + "}"), name="f.yaml", base=tmp_path)


def test_a_manifest_without_tls_needs_no_ssl(tmp_path: Path) -> None:
    (tmp_path / "tls.crt").touch()
    (tmp_path / "f.yaml").write_text(manifest("{http: 127.0.0.1:0, grpc: null}"))
    code = (
        "import sys; from orchestrator.manifest.load import check_sources, load\n"
        f"assert not check_sources(load([{str(tmp_path / 'f.yaml')!r}]).documents[0])\n"
        "assert 'ssl' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
