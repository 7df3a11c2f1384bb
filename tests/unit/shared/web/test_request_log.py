"""A line for each request, or for those that failed."""

from __future__ import annotations

import pytest
import structlog
from prometheus_client import CollectorRegistry

from shared.request_trace import current_trace
from shared.web import request_log
from shared.web.request_log import FAILED_LINES_PER_S, RequestLog
from shared.web.request_metrics import RequestMetrics


def lines_of(statuses: list[int], *, is_complete: bool) -> list[dict[str, object]]:
    metrics = RequestMetrics(CollectorRegistry())
    metrics.add_observer(RequestLog(is_complete=is_complete))
    with structlog.testing.capture_logs() as lines:
        for status in statuses:
            metrics.record("PUT", "/v1/chunks/{digest}", status, 0.0015, received_bytes=7, sent_bytes=9)
    return [dict(line) for line in lines]


def test_a_line_says_what_was_asked_and_what_came_of_it() -> None:
    """With every request that shared the call."""
    token = current_trace.set("a;00-1-2-01,b")
    try:
        lines = lines_of([201], is_complete=True)
    finally:
        current_trace.reset(token)
    assert lines == [
        {
            "event": "request",
            "log_level": "info",
            "requests": ["a", "b"],
            "method": "PUT",
            "handler": "/v1/chunks/{digest}",
            "status": 201,
            "duration_ms": 1.5,
            "received_bytes": 7,
            "sent_bytes": 9,
        }
    ]


def test_otherwise_only_those_that_failed_have_one() -> None:
    """From 500 on."""
    assert [line["status"] for line in lines_of([200, 404, 499, 500, 503], is_complete=False)] == [500, 503]


def test_a_flood_of_failures_is_counted_and_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next line that is written, a second later, says how many were not."""
    now = [10.0]
    monkeypatch.setattr(request_log.time, "monotonic", lambda: now[0])
    metrics = RequestMetrics(CollectorRegistry())
    metrics.add_observer(RequestLog(is_complete=False))
    with structlog.testing.capture_logs() as lines:
        for _ in range(FAILED_LINES_PER_S + 3):
            metrics.record("PUT", "h", 503, 0.001)
        now[0] += 1
        metrics.record("PUT", "h", 503, 0.001)
    assert len(lines) == FAILED_LINES_PER_S + 1
    assert lines[-1]["left_out"] == 3
