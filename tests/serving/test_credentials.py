"""What an endpoint shows and asks for follows its files while it serves, and never serves what is half written."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from orchestrator.errors import OrchError
from orchestrator.planner.plan import EndpointPlan
from orchestrator.serving.credentials import Credentials
from orchestrator.serving.token import carries
from tests.certificates import Papers, issue


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def papers(tmp_path: Path, ca: trustme.CA) -> Papers:
    return issue(tmp_path / "live", ca)


@pytest.fixture
def newer(tmp_path: Path, ca: trustme.CA) -> Papers:
    return issue(tmp_path / "newer", ca)


def of(papers: Papers, **options: Callable[[], float]) -> Credentials:
    return Credentials(EndpointPlan(http="127.0.0.1:0", grpc=None, tls=papers.plan()), **options)


def looked(credentials: Credentials) -> list[tuple[str, str]]:
    """Look twice, as often as a change needs, and return what is told."""
    return [(note.kind, note.reason) for _ in range(2) for note in credentials.look()]


def test_a_renewed_certificate_is_taken_up_at_the_second_look(papers: Papers, newer: Papers) -> None:
    credentials = of(papers)
    before = credentials.identity()
    assert looked(credentials) == []
    papers.take(newer)
    assert list(credentials.look()) == []
    assert credentials.identity() is before
    ((kind, reason),) = [(note.kind, note.reason) for note in credentials.look()]
    assert (kind, reason) == ("Normal", "CertificateRotated")
    assert credentials.identity().certificate == newer.certificate.read_bytes()
    assert looked(credentials) == []


def test_a_half_written_pair_keeps_the_old_one_and_is_told_once(papers: Papers, newer: Papers) -> None:
    credentials = of(papers)
    before = credentials.identity()
    papers.certificate.write_bytes(newer.certificate.read_bytes())  # the key follows later
    assert looked(credentials) == [("Warning", "CertificateKept")]
    assert looked(credentials) == []
    assert credentials.identity() is before
    papers.key.write_bytes(newer.key.read_bytes())
    assert looked(credentials) == [("Normal", "CertificateRotated")]


def test_files_that_still_grow_are_left_alone(papers: Papers, newer: Papers) -> None:
    credentials = of(papers)
    before = credentials.identity()
    text = newer.certificate.read_bytes()
    for end in range(0, len(text), 200):
        papers.certificate.write_bytes(text[:end])
        assert list(credentials.look()) == []
    assert credentials.identity() is before


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("x"), lambda path: path.chmod(0o644)])
def test_files_that_are_lost_or_broken_or_opened_keep_the_last(papers: Papers, harm: Callable[[Path], object]) -> None:
    credentials = of(papers)
    before = credentials.identity()
    harm(papers.key)
    assert looked(credentials) == [("Warning", "CertificateKept")]
    assert credentials.identity() is before


def test_files_that_were_only_touched_are_no_news(papers: Papers) -> None:
    credentials = of(papers)
    before = credentials.identity()
    os.utime(papers.certificate, (1, 1))
    assert looked(credentials) == []
    assert credentials.identity() is before


def test_a_link_that_leads_elsewhere_is_a_change_as_in_volumes_of_kubernetes(
    tmp_path: Path, papers: Papers, newer: Papers
) -> None:
    volume = Papers(tmp_path / "volume")
    volume.folder.mkdir()
    (volume.folder / "..data").symlink_to(papers.folder)
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (volume.folder / name).symlink_to(f"..data/{name}")
    credentials = of(volume)
    (volume.folder / "..data_tmp").symlink_to(newer.folder)
    (volume.folder / "..data_tmp").replace(volume.folder / "..data")
    assert looked(credentials) == [("Normal", "CertificateRotated")]
    assert credentials.identity().key == newer.key.read_bytes()


def test_what_expires_is_told_once_when_it_comes_near_and_once_when_it_is_there(
    tmp_path: Path, ca: trustme.CA, newer: Papers
) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=90)
    papers = issue(tmp_path / "short", ca, not_after=end)
    now = [end.timestamp() - 30 * 86400]
    credentials = of(papers, now=lambda: now[0])
    assert credentials.expires_epoch_s == end.timestamp()
    assert looked(credentials) == []
    now[0] = end.timestamp() - 10 * 86400
    assert looked(credentials) == [("Warning", "CertificateExpiresSoon")]
    assert looked(credentials) == []
    now[0] = end.timestamp()
    assert looked(credentials) == [("Warning", "CertificateExpired")]
    papers.take(newer)
    assert looked(credentials) == [("Normal", "CertificateRotated")]


def test_tokens_follow_their_file_and_a_lost_one_goes_on_being_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    credentials = Credentials(EndpointPlan(http="127.0.0.1:0", grpc=None, token_file=str(path)))
    assert credentials.tokens() == ("one",)
    path.write_text("two\n\n one \n")
    assert looked(credentials) == [("Normal", "TokenRotated")]
    assert credentials.tokens() == ("two", "one")
    path.write_text("\n")
    assert looked(credentials) == [("Warning", "TokenKept")]
    path.unlink()
    assert looked(credentials) == [("Warning", "TokenKept")]
    assert credentials.tokens() == ("two", "one")
    assert credentials.status() is None


def test_no_message_shows_a_secret(tmp_path: Path, papers: Papers, newer: Papers) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret-one")
    endpoint = EndpointPlan(http="127.0.0.1:0", grpc=None, token_file=str(path), tls=papers.plan())
    credentials = Credentials(endpoint)
    told = [str(credentials.status())]
    for token in ("s3cret-two", "s3cret\n" * 17):
        path.write_text(token)
        papers.key.write_bytes(newer.key.read_bytes())
        told += [note.message for _ in range(2) for note in credentials.look()]
    assert len(told) == 5
    key = newer.key.read_text().splitlines()[1]
    assert not [each for each in told if "s3cret" in each or key in each or "PRIVATE KEY" in each]


@pytest.mark.parametrize("text", [b"\xff\xfe", b"", b"a\n" * 17])
def test_a_token_file_that_cannot_be_used_stops_the_start(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "token").write_bytes(text)
    with pytest.raises(OrchError, match="token"):
        Credentials(EndpointPlan(http="127.0.0.1:0", grpc=None, token_file=str(tmp_path / "token")))


@pytest.mark.parametrize(
    ("authorization", "taken"),
    [
        (b"Bearer new", True),
        (b"bearer  old ", True),
        (b"Bearer ne", False),
        (b"Bearer newold", False),
        (b"Bearer", False),
        (b"Basic new", False),
        (b"new", False),
        (b"", False),
        (b"Bearer \xff\x00", False),
    ],
)
def test_any_of_the_tokens_is_taken_and_nothing_else(authorization: bytes, taken: bool) -> None:
    assert carries(authorization, ("new", "old")) is taken
