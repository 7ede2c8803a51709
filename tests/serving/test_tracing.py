"""Spans of requests: parents, times, batches, sampling; and that what collects them is never waited for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from orchestrator.errors import Kind, OrchError
from orchestrator.scheduling.ticket import Batch, Priority, Ticket
from orchestrator.serving import tracing
from orchestrator.serving.request_log import Caller, Ended, Entry, RequestLog
from orchestrator.serving.tracing import Spans, Traces
from tests.observability.collector import Collector

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
NOT_SAMPLED = f"00-{TRACE}-{PARENT}-00"
WHO = Caller("http", "detector", "a-1", None, TRACE, "10.0.0.7", SAMPLED)
NOBODY = WHO._replace(trace_id=None, traceparent=None)
WELL = Ended("200", None, 0.004, 0.010, 0.001)
END_S = 1_800_000_000.5


def an_entry(caller: Caller = WHO, ended: Ended = WELL, total_s: float = 0.0145) -> Entry:
    return Entry(END_S, caller, 602_112, ended, total_s)


def a_batch(count: int) -> Batch:
    tickets = [Ticket(0.0, 1.0, 8, Priority.DEFAULT, 0.0) for _ in range(count)]
    return Batch(tickets, 2 * count, 0.0, 1.0)


class Recorded:
    """Spans that end up in memory."""

    def __init__(self, sampler: Any = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.spans = Spans(self.provider)

    def of(self, *entries: Entry) -> list[ReadableSpan]:
        for entry in entries:
            self.spans.emit(entry)
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    made = Recorded()
    yield made
    made.provider.shutdown()


def named(spans: list[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def after_start_ms(span: ReadableSpan, server: ReadableSpan) -> tuple[float, float]:
    assert span.start_time
    assert span.end_time
    assert server.start_time
    return round((span.start_time - server.start_time) / 1e6, 1), round((span.end_time - server.start_time) / 1e6, 1)


def test_a_request_is_a_server_span_in_its_callers_trace_with_its_wait_and_its_inference(recorded: Recorded) -> None:
    spans = recorded.of(an_entry())
    (server,) = named(spans, "POST /v2/models/{model}/infer")
    assert server.kind is SpanKind.SERVER
    assert server.parent is not None
    assert (f"{server.parent.trace_id:032x}", f"{server.parent.span_id:016x}") == (TRACE, PARENT)
    (queue,), (inference,) = named(spans, "queue"), named(spans, "inference")
    assert {span.parent and span.parent.span_id for span in (queue, inference)} == {server.context.span_id}
    assert after_start_ms(server, server) == (0.0, 14.5)
    assert after_start_ms(queue, server) == (1.0, 4.0)
    assert after_start_ms(inference, server) == (4.0, 14.0)
    assert dict(server.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "url.scheme": "http",
        "url.path": "/v2/models/detector/infer",
        "http.response.status_code": 200,
        "http.request.body.size": 602112,
        "orch.model": "detector",
        "orch.request.id": "a-1",
        "client.address": "10.0.0.7",
    }
    assert server.status.status_code is StatusCode.UNSET


def test_a_request_without_a_trace_begins_one(recorded: Recorded) -> None:
    first, second = named(recorded.of(an_entry(NOBODY), an_entry(NOBODY)), "POST /v2/models/{model}/infer")
    assert first.parent is None
    assert first.context.trace_id != second.context.trace_id


def test_requests_of_one_batch_point_to_the_same_inference(recorded: Recorded) -> None:
    batch = a_batch(3)
    ended = WELL._replace(batch=batch)
    leader, *others = named(recorded.of(*(an_entry(NOBODY, ended) for _ in range(3))), "inference")
    assert not leader.links
    assert [link.context.span_id for span in others for link in span.links] == [leader.context.span_id] * 2
    told = [(span.attributes or {})["orch.batch.id"] for span in (leader, *others)]
    assert told == [f"{leader.context.span_id:016x}"] * 3
    assert dict(leader.attributes or {}).items() >= {"orch.batch.rows": 6, "orch.batch.requests": 3}.items()


def test_a_request_that_was_inferred_alone_has_no_link(recorded: Recorded) -> None:
    spans = named(recorded.of(*(an_entry(NOBODY, WELL._replace(batch=a_batch(1))) for _ in range(2))), "inference")
    assert [span.links for span in spans] == [(), ()]
    assert all("orch.batch.id" not in (span.attributes or {}) for span in spans)


def test_a_refusal_is_one_span_that_says_why(recorded: Recorded) -> None:
    (server,) = recorded.of(an_entry(ended=Ended("503", "QUEUE_FULL"), total_s=0.0))
    assert (server.status.status_code, server.status.description) == (StatusCode.ERROR, "QUEUE_FULL")
    assert (server.attributes or {})["error.type"] == "QUEUE_FULL"


def test_what_the_caller_did_wrong_is_no_error_of_the_server(recorded: Recorded) -> None:
    grpc = WHO._replace(protocol="grpc")
    spans = recorded.of(an_entry(ended=Ended("400", "INVALID")), an_entry(grpc, Ended("INVALID_ARGUMENT", "INVALID")))
    assert [span.status.status_code for span in spans] == [StatusCode.UNSET, StatusCode.UNSET]


def test_a_grpc_call_is_told_by_its_own_conventions(recorded: Recorded) -> None:
    (server,) = recorded.of(an_entry(WHO._replace(protocol="grpc"), Ended("UNAVAILABLE", "DRAINING")))
    assert server.name == "inference.GRPCInferenceService/ModelInfer"
    assert (server.attributes or {})["rpc.grpc.status_code"] == 14
    assert server.status.status_code is StatusCode.ERROR


def test_the_callers_decision_not_to_sample_is_kept() -> None:
    recorded = Recorded(ParentBased(TraceIdRatioBased(1.0)))
    assert recorded.of(an_entry(WHO._replace(traceparent=NOT_SAMPLED))) == []
    assert len(recorded.of(an_entry())) == 3


def test_a_ratio_holds_for_requests_that_come_without_a_decision() -> None:
    recorded = Recorded(ParentBased(TraceIdRatioBased(0.0)))
    assert recorded.of(an_entry(NOBODY)) == []
    assert len(recorded.of(an_entry())) == 3


def test_a_traceparent_of_a_later_version_is_a_parent_too(recorded: Recorded) -> None:
    spans = recorded.of(an_entry(WHO._replace(traceparent=f"cc-{TRACE}-{PARENT}-01-what-the-future-brings")))
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE}


class Stuck:
    """Makes spans when it is allowed to."""

    def __init__(self) -> None:
        self.allowed = threading.Event()
        self.begun = threading.Event()
        self.made = 0

    def emit(self, entry: Entry) -> bool:
        del entry
        self.begun.set()
        assert self.allowed.wait(20)
        self.made += 1
        return True

    def shutdown(self) -> None:
        self.allowed.wait(20)


def test_who_makes_spans_is_never_waited_for_and_what_is_too_much_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "WAITING_MAX", 10)
    stuck = Stuck()
    traces = Traces(stuck)
    traces.note(an_entry())
    traces.start()
    assert stuck.begun.wait(20)
    for _ in range(15):
        traces.note(an_entry())
    assert traces.dropped == 5
    stuck.allowed.set()
    traces.stop()
    assert stuck.made == 11


def test_so_many_are_recorded_in_a_second_and_those_that_are_not_sampled_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "RECORDED_PER_S", 3)
    recorded = Recorded()
    traces = Traces(recorded.spans)
    for _ in range(5):
        traces.note(an_entry(WHO._replace(traceparent=NOT_SAMPLED)))
        traces.note(an_entry())
    traces.note(an_entry()._replace(time=END_S + 1))
    traces.flush()
    assert traces.dropped == 4  # two of either kind: of what comes after the third nobody knows which it would be
    assert len(recorded.exporter.get_finished_spans()) == 3 * 4


def test_the_end_waits_for_a_collector_that_hangs_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "STOP_TIMEOUT_S", 0.05)
    stuck = Stuck()
    traces = Traces(stuck)
    traces.start()
    traces.stop()
    assert traces._thread.is_alive()
    stuck.allowed.set()
    traces._thread.join(20)


def test_spans_that_cannot_be_made_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def emit(self, entry: Entry) -> bool:
            raise ValueError(entry.caller.model)

        def shutdown(self) -> None:
            pass

    traces = Traces(Broken())
    traces.note(an_entry())
    traces.note(an_entry())
    traces.flush()
    assert [record.name for record in caplog.records] == ["orch.traces"] * 2


def test_requests_are_followed_whether_or_not_they_are_written(tmp_path: Any) -> None:
    log = RequestLog(tmp_path / "requests.log")
    seen: list[Entry] = []
    assert not log.on
    log.follow(seen.append)
    assert log.on
    log.note(WHO, 1, WELL, 0.01)
    log.flush()
    assert (len(seen), (tmp_path / "requests.log").exists()) == (1, False)
    log.switch(True)
    log.note(WHO, 1, WELL, 0.01)
    log.switch(False)
    assert (len(seen), log.on) == (2, True)
    assert (tmp_path / "requests.log").read_text().count("\n") == 1


# How they are turned on


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "shop"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_only_a_collector_or_an_exporter_turns_them_on(environ: dict[str, str], on: bool) -> None:
    assert tracing.wanted(environ) is on
    if not on:
        assert tracing.begin(environ, "shop", "0") is None


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "must be otlp, console or none, got 'zipkin'"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "'grpc' is not sent"),
    ],
)
def test_an_exporter_that_orch_does_not_have_is_refused(environ: dict[str, str], told: str) -> None:
    with pytest.raises(OrchError, match=told) as caught:
        tracing.begin(environ, "shop", "0")
    assert caught.value.kind is Kind.INVALID


def test_without_the_packages_it_is_told_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(OrchError, match=r"traces are asked for, but .* is not installed") as caught:
        tracing.begin({"OTEL_TRACES_EXPORTER": "otlp"}, "shop", "0")
    assert caught.value.kind is Kind.UNSUPPORTED
    assert caught.value.problems[0].hint == "pip install 'orch-openvino[otel]'"


# To a collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_spans_arrive_at_a_collector(collector: Collector) -> None:
    provider = tracing._provider(OTLPSpanExporter(endpoint=f"{collector.endpoint}/v1/traces"), "shop", "0.1.0")
    traces = Traces(Spans(provider, "0.1.0"))
    traces.start()
    traces.note(an_entry())
    traces.stop()
    assert {span.name for span in collector.of(TRACE, 3)} == {"POST /v2/models/{model}/infer", "queue", "inference"}
    assert collector.services == {"orch/shop"}
