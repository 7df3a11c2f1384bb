"""Spans of requests, exported by OpenTelemetry: one for each request at each service, all of a client's request in one trace.

Off unless a setting names a collector: then nothing of OpenTelemetry is imported, and a request looks at one variable.
Sampling is OpenTelemetry's own (`OTEL_TRACES_SAMPLER`); what the gateway does not sample, no other service does.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from shared.request_trace import current_trace, parents, request_ids

if TYPE_CHECKING:
    # Imported at run time only where a collector is named: it is an extra of the images, and takes a tenth of a second.
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

EXPORT_INTERVAL_MS: Final = 1000
_LINKS_MAX: Final = 8


def trace_of_client(request_id: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The trace of a client's request, under the span that the client names, if any."""
    for name, value in headers:
        if name == b"traceparent" and b"," not in value and b";" not in value:
            return f"{request_id};{value.decode('latin-1')}"
    return request_id


class Tracing:
    """Makes the spans of one process, and hands them to `exporter` from a thread."""

    def __init__(self, service: str, node_id: str, exporter: SpanExporter) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": f"trivet-{service}", "service.instance.id": node_id})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_INTERVAL_MS))
        self._tracer = self._provider.get_tracer("trivet")
        self._propagator = TraceContextTextMapPropagator()
        self._trace = trace

    def begin(self, method: str, trace: str) -> AbstractContextManager[object]:
        """A span of a request that came with `trace`; what is done in its block is done under it."""
        contexts = [self._propagator.extract({"traceparent": parent}) for parent in parents(trace)[:_LINKS_MAX]]
        links = [self._trace.Link(self._trace.get_current_span(context).get_span_context()) for context in contexts[1:]]
        ids = request_ids(trace)
        span = self._tracer.start_span(
            method,
            context=contexts[0] if contexts else None,
            kind=self._trace.SpanKind.SERVER,
            attributes={"trivet.requests": ids},
            links=links,
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._trace.set_span_in_context(span))
        own = f"{ids[0] if ids else ''};{carrier['traceparent']}"
        current_trace.set(",".join([own, *ids[1:]]))
        _span.set(span)
        return _RequestSpan(span)

    def answered(
        self, method: str, handler: str, status: int, *, duration_s: float, received_bytes: int, sent_bytes: int
    ) -> None:
        """See `request_log.RequestObserver`: the span learns what the request was."""
        span = _span.get()
        if span is None or not span.is_recording():
            return
        span.update_name(f"{method} {handler}")
        span.set_attributes(
            {
                "http.request.method": method,
                "http.route": handler,
                "http.response.status_code": status,
                "http.request.body.size": received_bytes,
                "http.response.body.size": sent_bytes,
                "trivet.duration_s": duration_s,
            }
        )
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()


class _RequestSpan:
    """One span, until its block ends."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._span.end()


_span: ContextVar[Span | None] = ContextVar("span", default=None)
_NO_SPAN: Final = nullcontext()


class _Active:
    tracing: Tracing | None = None


def working_for(
    trace: str, method: str, client_headers: Iterable[tuple[bytes, bytes]] = ()
) -> AbstractContextManager[object]:
    """The running task, which is a request's alone, works for `trace` from here on, and in the block under a span of its own.

    Without a trace, or where no collector is named, there is no span.

    Args:
        client_headers: of a client's request, which may name a span of the client.
    """
    # Also where it is empty: a pipelined request begins in the context of the one before.
    current_trace.set(trace)
    if _Active.tracing is None or not trace:
        return _NO_SPAN
    return _Active.tracing.begin(method, trace_of_client(trace, client_headers))


def start_tracing(endpoint: str, service: str, node_id: str) -> Tracing:
    """Export spans to the collector at `endpoint`, `http://host:4318`, from now on. Raises ImportError: it is not installed."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    _Active.tracing = Tracing(service, node_id, exporter)
    return _Active.tracing
