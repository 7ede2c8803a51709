"""A real OTLP/HTTP receiver, as a collector has one."""

from __future__ import annotations

import http.server
import threading
import time
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_S = 20.0


class Collector:
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self._came = threading.Condition()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                collector._take(ExportTraceServiceRequest.FromString(data))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's word
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def _take(self, request: Any) -> None:
        with self._came:
            for resource in request.resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                self.services.add(f"{names['service.namespace']}/{names['service.name']}")
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self._came.notify_all()

    def of(self, trace_id: str, count: int) -> list[Any]:
        """Return the spans of a trace once there are so many."""
        deadline = time.monotonic() + WAIT_S
        with self._came:
            while len(found := [span for span in self.spans if span.trace_id.hex() == trace_id]) < count:
                assert self._came.wait(deadline - time.monotonic()), [span.name for span in self.spans]
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(WAIT_S)
