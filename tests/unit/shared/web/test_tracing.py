"""Spans: off they cost nothing, on they hang together."""

from __future__ import annotations

import subprocess
import sys

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.request_trace import current_trace, parents, request_ids
from shared.web.tracing import Tracing, trace_of_client, working_for


def test_without_a_collector_nothing_is_imported() -> None:
    """Nothing that makes or exports spans, whatever else looks for it."""
    look = "import services.gateway.main, sys; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "[]\n"


def test_without_a_collector_a_request_has_its_trace_and_no_span() -> None:
    """A request without one has none either, whatever the one before it in the same context had."""
    token = current_trace.set("")
    with working_for("a", "GET", [(b"traceparent", b"00-1-2-01")]):
        assert current_trace.get() == "a"
    with working_for("", "GET"):
        assert current_trace.get() == ""
    current_trace.reset(token)


def test_a_call_shared_by_two_requests_is_below_the_first_and_linked_to_the_other() -> None:
    """And what it calls in turn is below itself, for both of them."""
    exporter = InMemorySpanExporter()
    tracing = Tracing("storage", "s", exporter)
    first, second = f"00-{'1' * 32}-{'2' * 16}-01", f"00-{'3' * 32}-{'4' * 16}-01"
    token = current_trace.set("")
    with tracing.begin("POST", f"a;{first},b;{second}"):
        further = current_trace.get()
        tracing.answered("POST", "/v1/chunks/batch", 503, duration_s=0.1, received_bytes=1, sent_bytes=2)
    current_trace.reset(token)
    tracing.close()
    (done,) = exporter.get_finished_spans()
    assert done.name == "POST /v1/chunks/batch"
    assert done.status.is_ok is False
    assert f"{done.context.trace_id:x}" == "1" * 32
    assert done.parent is not None
    assert f"{done.parent.span_id:x}" == "2" * 16
    assert [f"{link.context.span_id:x}" for link in done.links] == ["4" * 16]
    assert request_ids(further) == ["a", "b"]
    assert parents(further) == [f"00-{'1' * 32}-{done.context.span_id:016x}-01"]


def test_a_client_may_name_its_span() -> None:
    """A header that would be taken for something else is left out."""
    assert trace_of_client("a", [(b"traceparent", b"00-1-2-01")]) == "a;00-1-2-01"
    assert trace_of_client("a", [(b"traceparent", b"00-1-2-01,b;x")]) == "a"
    assert trace_of_client("a", []) == "a"
