"""The caller's trace, told along where its program uses OpenTelemetry; loads nothing where it does not."""

from __future__ import annotations

import sys


def trace_context() -> dict[str, str]:
    """Return the headers that name the current span: W3C traceparent, and tracestate where there is one."""
    if "opentelemetry.trace" not in sys.modules:  # nobody can have begun a span
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # it is there: see above

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers
