"""`shared.web.request_metrics`: the instrumentator's own metrics are the model for both ways of filling ours."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator.metrics import default

from shared.web.request_metrics import HANDLER_BUCKETS_S, RequestMetrics, request_metrics

HANDLER = "/v1/things/{name}"
REQUESTS = (
    ("PUT", "/v1/things/a", b"twelve bytes", 201, 5),
    ("PUT", "/v1/things/b", b"", 201, 5),
    ("GET", "/v1/things/a", b"", 404, 4),
    ("GET", "/v1/things/a?x=y", b"", 404, 4),
    ("DELETE", "/v1/things/a", b"", 204, 0),
)
"""Method, target, body, status and Content-Length of the answer."""


@pytest.fixture
def model() -> CollectorRegistry:
    """A registry with what the instrumentator itself registers."""
    return CollectorRegistry()


def answering_app(registry: CollectorRegistry, fill: object) -> FastAPI:
    """An app with one route per method, whose requests `fill` counts."""
    app = FastAPI()
    Instrumentator(registry=registry).add(fill).instrument(app)  # type: ignore[arg-type]

    @app.put(HANDLER)
    async def put(name: str) -> Response:
        return Response(b"12345", 201)

    @app.get(HANDLER)
    async def get(name: str) -> Response:
        return Response(b"1234", 404)

    @app.delete(HANDLER)
    async def delete(name: str) -> Response:
        return Response(status_code=204)

    return app


async def ask(app: FastAPI) -> None:
    """Send all of `REQUESTS`."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:  # noqa: TID251 no peer
        for method, target, body, status, _ in REQUESTS:
            answer = await client.request(method, target, content=body or None)
            assert answer.status_code == status


def samples(registry: CollectorRegistry) -> Iterator[tuple[object, ...]]:
    """Everything that is scraped, but times of day and measured durations: a busy machine fills later buckets."""
    for family in registry.collect():
        yield (family.name, family.type, family.documentation)
        for sample in family.samples:
            is_duration = "duration" in sample.name and (
                sample.name.endswith("_sum") or sample.labels.get("le", "+Inf") != "+Inf"
            )
            is_measured = is_duration or sample.name.endswith("_created")
            yield (sample.name, sorted(sample.labels.items()), None if is_measured else sample.value)


async def test_what_fastapi_answers_is_counted_as_the_instrumentator_counts_it(model) -> None:
    """Names, documentation, labels, buckets and values."""
    fill = default(registry=model, latency_lowr_buckets=HANDLER_BUCKETS_S)
    assert fill is not None
    await ask(answering_app(model, fill))
    ours = CollectorRegistry()
    await ask(answering_app(ours, request_metrics(ours).record_info))
    assert list(samples(ours)) == list(samples(model))


async def test_what_is_answered_before_fastapi_is_counted_likewise(model) -> None:
    """A fast path says in numbers what the instrumentator reads off objects."""
    fill = default(registry=model, latency_lowr_buckets=HANDLER_BUCKETS_S)
    assert fill is not None
    await ask(answering_app(model, fill))
    ours = CollectorRegistry()
    for method, _, body, status, sent_bytes in REQUESTS:
        request_metrics(ours).record(method, HANDLER, status, 0.001, received_bytes=len(body), sent_bytes=sent_bytes)
    assert list(samples(ours)) == list(samples(model))


def test_a_registry_has_its_metrics_once() -> None:
    """Several apps of one process share them; the second registration would be refused."""
    registry = CollectorRegistry()
    assert request_metrics(registry) is request_metrics(registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        RequestMetrics(registry)
