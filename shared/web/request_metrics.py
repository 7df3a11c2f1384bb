"""The request metrics of every service, filled alike by what FastAPI answers and by what is answered before it.

They are those of prometheus-fastapi-instrumentator under its default settings: names and labels, with the route's
template as `handler` and `2xx` as `status`; only the latency by handler has more buckets, because most requests end within
the first of its own. The instrumentator fills them through `record_info`; a fast path calls `record`,
which costs a few microseconds because it builds no request and response objects and keeps the children of the labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, Summary
from prometheus_fastapi_instrumentator.metrics import Info

from shared.settings import ServiceSettings, refuse_to_start
from shared.web.request_log import RequestLog, RequestObserver
from shared.web.tracing import start_tracing

_CLASSES: Final = tuple(f"{hundreds}xx" for hundreds in range(10))
_FINE_BUCKETS_S: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60),
    float("inf"),
)
HANDLER_BUCKETS_S: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, float("inf"))


class RequestMetrics:
    """The collectors of one registry. Get them from `request_metrics`: a registry takes a name only once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter(
            "http_requests_total",
            "Total number of requests by method, status and handler.",
            ["method", "status", "handler"],
            registry=registry,
        )
        self._received = Summary(
            "http_request_size_bytes",
            "Content length of incoming requests by handler. "
            "Only value of header is respected. Otherwise ignored. "
            "No percentile calculated. ",
            ["handler"],
            registry=registry,
        )
        self._sent = Summary(
            "http_response_size_bytes",
            "Content length of outgoing responses by handler. "
            "Only value of header is respected. Otherwise ignored. "
            "No percentile calculated. ",
            ["handler"],
            registry=registry,
        )
        self._fine_durations = Histogram(
            "http_request_duration_highr_seconds",
            "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ",
            buckets=_FINE_BUCKETS_S,
            registry=registry,
        )
        self._durations = Histogram(
            "http_request_duration_seconds",
            "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. ",
            ["method", "handler"],
            buckets=HANDLER_BUCKETS_S,
            registry=registry,
        )
        self._labelled: dict[tuple[str, str, str], _Labelled] = {}
        self._observers: tuple[RequestObserver, ...] = ()

    def add_observer(self, observer: RequestObserver) -> None:
        """Tell it of every request from now on."""
        self._observers = (*self._observers, observer)

    def record(
        self, method: str, handler: str, status: int, duration_s: float, *, received_bytes: int = 0, sent_bytes: int = 0
    ) -> None:
        """Count one request.

        Args:
            handler: the template of its route, e.g. `/v1/chunks/{digest}`; `none` where there is no route.
            duration_s: from its head to the last byte of the answer.
            received_bytes: its Content-Length; 0 without one.
            sent_bytes: the Content-Length of the answer; 0 without one.
        """
        self._labelled_as(method, handler, _CLASSES[status // 100]).record(duration_s, received_bytes, sent_bytes)
        for observer in self._observers:
            observer.answered(
                method, handler, status, duration_s=duration_s, received_bytes=received_bytes, sent_bytes=sent_bytes
            )

    def record_info(self, info: Info) -> None:
        """Count one request that the instrumentator describes: what `Instrumentator.add` takes."""
        sent = 0 if info.response is None else info.response.headers.get("content-length", 0)
        received = info.request.headers.get("content-length", 0)
        labelled = self._labelled_as(info.method, info.modified_handler, info.modified_status)
        labelled.record(info.modified_duration, int(received), int(sent))
        status = 500 if info.response is None else info.response.status_code
        for observer in self._observers:
            observer.answered(
                info.method,
                info.modified_handler,
                status,
                duration_s=info.modified_duration,
                received_bytes=int(received),
                sent_bytes=int(sent),
            )

    def _labelled_as(self, method: str, handler: str, status: str) -> _Labelled:
        labelled = self._labelled.get((method, handler, status))
        if labelled is None:  # looked up by label once: it costs as much as the count itself
            labelled = self._labelled[method, handler, status] = _Labelled(
                self._total.labels(method, status, handler),
                self._received.labels(handler),
                self._sent.labels(handler),
                self._fine_durations,
                self._durations.labels(method, handler),
            )
        return labelled


@dataclass(frozen=True, slots=True)
class _Labelled:
    """The metrics under one set of labels."""

    total: Counter
    received: Summary
    sent: Summary
    fine_durations: Histogram
    durations: Histogram

    def record(self, duration_s: float, received_bytes: int, sent_bytes: int) -> None:
        self.total.inc()
        self.received.observe(received_bytes)
        self.sent.observe(sent_bytes)
        self.fine_durations.observe(duration_s)
        self.durations.observe(duration_s)


@cache
def problem_counts(registry: CollectorRegistry = REGISTRY) -> Counter:
    """What was answered with an error, by its code. Codes are written in the code, so there are no more than those."""
    return Counter(
        "trivet_problems_total",
        "Requests answered with an error, by its code; s3:… is a code of S3's, edge:… the status of what never became a request.",
        ["code"],
        registry=registry,
    )


@cache
def request_metrics(registry: CollectorRegistry = REGISTRY) -> RequestMetrics:
    """The request metrics of `registry`: one per process is what one service has."""
    return RequestMetrics(registry)


def observe_requests(settings: ServiceSettings, service: str) -> None:
    """Write the lines and export the spans that the settings of this process ask for."""
    metrics = request_metrics()
    if settings.request_log != "none":
        metrics.add_observer(RequestLog(is_complete=settings.request_log == "all"))
    if settings.otlp_endpoint:
        try:
            metrics.add_observer(start_tracing(settings.otlp_endpoint, service, settings.node_id))
        except ImportError as error:
            refuse_to_start(f"TRIVET_OTLP_ENDPOINT: OpenTelemetry is not installed here ({error.name})")
