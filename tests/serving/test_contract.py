"""What a client says beside a request: forms that are taken, refused or dropped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import Kind, OrchError
from orchestrator.serving import contract
from orchestrator.serving.contract import NOTHING, Said, priority_of, said, spread, traceparent_of, trailing

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_everything_that_may_be_said_is_read() -> None:
    headers = {"x-request-id": "cam-7/41", "traceparent": TRACE, "x-orch-timeout-ms": "2.5", "x-orch-priority": "1"}
    assert said(headers) == Said("cam-7/41", TRACE, 0.0025, "critical")
    assert said(headers).marks() == {"request_id": "cam-7/41", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    assert said(headers).echo() == {"x-request-id": "cam-7/41", "traceparent": TRACE}


def test_who_says_nothing_is_told_nothing() -> None:
    assert said({"host": "x", "accept": "*/*"}) is NOTHING
    assert (NOTHING.echo(), NOTHING.marks()) == ({}, {})


@pytest.mark.parametrize("text", ["", "a b", "a\r\nSet-Cookie: x", "ä", "x" * 129, '"quoted"', "<b>"])
def test_an_id_that_is_not_safe_to_repeat_is_dropped(text: str) -> None:
    assert said({"x-request-id": text}).request_id is None


@pytest.mark.parametrize(
    "text",
    [
        TRACE.upper(),
        TRACE[:-1],
        TRACE + "-more",  # version 00 has no more fields
        "ff" + TRACE[2:],
        "00-" + "0" * 32 + TRACE[35:],
        TRACE[:36] + "0" * 16 + "-01",
        "01" + TRACE[2:] + "-" + "x" * 200,
        "01" + TRACE[2:] + "-a\nb",
    ],
)
def test_a_traceparent_that_the_rules_forbid_is_dropped(text: str) -> None:
    assert traceparent_of(text) is None


def test_a_traceparent_of_a_later_version_is_taken_with_what_it_adds() -> None:
    later = "01" + TRACE[2:] + "-what-comes"
    assert traceparent_of(later) == later


@given(st.text(max_size=200))
def test_whatever_is_echoed_is_one_line_of_printable_ascii(text: str) -> None:
    echoed = contract.ids({"x-request-id": text, "traceparent": text}).echo()
    assert all(value.isascii() and value.isprintable() and len(value) <= 128 for value in echoed.values())


@pytest.mark.parametrize("text", ["", "-1", "1e3", "soon", "1.", "0x10", "9" * 10, "٣"])
def test_a_timeout_that_is_no_number_of_milliseconds_is_refused(text: str) -> None:
    with pytest.raises(OrchError, match=r"x-orch-timeout-ms: must be .* milliseconds greater than zero") as refused:
        said({"x-orch-timeout-ms": text})
    assert refused.value.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("value", "priority"),
    [
        (None, None),
        (0, None),
        (1, "critical"),
        (2, "default"),
        (3, "sheddable"),
        (2**63, "sheddable"),
        ("critical", "critical"),
        ("default", "default"),
        ("sheddable", "sheddable"),
    ],
)
def test_a_priority_is_tritons_number_or_the_word(value: object, priority: str | None) -> None:
    assert priority_of(value, "parameters.priority") == priority


@pytest.mark.parametrize("value", [-1, True, 1.0, "Critical", "", "4x", [], {}])
def test_what_is_no_priority_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(OrchError, match=r"parameters\.priority: must be an integer of at least 0 or one of critical"):
        priority_of(value, "parameters.priority")


def test_times_to_come_back_are_spread_by_a_fifth_either_way() -> None:
    assert [round(spread(1.0, chance), 3) for chance in (0.0, 0.5, 1.0)] == [0.8, 1.0, 1.2]


def test_a_refused_call_ends_with_the_code_the_ids_and_when_to_come_back() -> None:
    full = OrchError(Kind.OVERLOADED, "queue full", retry_after_s=0.0123, code="QUEUE_FULL")
    assert dict(trailing(full, Said(request_id="a"))) == {
        "x-orch-code": "QUEUE_FULL",
        "x-request-id": "a",
        "grpc-retry-pushback-ms": "12",
        "x-orch-retry-after-ms": "12",
    }
    late = OrchError(Kind.DEADLINE, "too late", retry_after_s=1.0)
    assert trailing(late, NOTHING) == (("x-orch-code", "DEADLINE"),)
