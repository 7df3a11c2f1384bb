"""The operations listener: what operators, probes and Prometheus ask, on a port of its own (X-99).

It has its own limit on connections, so that a crowd on the data port cannot shut out whoever has to look into it. It is
never published beside the data port: it tells why a service is not ready, and cluster changes of a gateway are made here.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Final

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.types import ASGIApp

from shared.errors import ForbiddenError, NotReadyError, UnauthenticatedError
from shared.web.http_edge import GuardedHttpProtocol
from shared.web.http_methods import HeadAsGet
from shared.web.raw_paths import RawPaths
from shared.web.service_app import ALIVE, Readiness, ServiceApp, add_docs, add_error_handlers, json_example

MAX_CONNECTIONS: Final = 64


class OperationsProtocol(GuardedHttpProtocol):
    """One connection to the operations listener."""

    def connection_limit(self) -> int:
        """Of this listener; those of the data port do not count."""
        return MAX_CONNECTIONS


def add_operations(
    app: ServiceApp,
    *,
    readiness: Readiness,
    degradations: Readiness = list,
    metrics_token: str | None,
    door: Callable[[ASGIApp], ASGIApp] | None = None,
) -> ServiceApp:
    """Give `app` its operations listener; routes of the service's own may be added to what is returned.

    Args:
        readiness: asked by /readyz.
        degradations: asked by /readyz when ready: what the service has to do without.
        metrics_token: lets other machines read /metrics; None: this machine only.
        door: wraps everything that the listener answers.
    """
    operations = ServiceApp(
        title=f"{app.title}: operations",
        description="Health, metrics and administration of one process. Not for users: keep this port inside.",
        version=app.version,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    add_error_handlers(operations)
    add_docs(operations)
    _add_health(app, operations, readiness, degradations)
    _add_metrics(operations, metrics_token, _ProcessState(app, readiness, degradations))
    operations.add_middleware(HeadAsGet, routes=operations)
    front = operations.answer if door is None else door(operations.answer)
    operations.front = RawPaths(front, decoded_prefixes=())
    app.operations = operations
    return operations


def _add_health(app: ServiceApp, operations: FastAPI, readiness: Readiness, degradations: Readiness) -> None:
    @operations.get("/healthz", tags=["health"], summary="Is the process alive?", responses=json_example(ALIVE))
    async def healthz() -> dict[str, str]:
        """It answers, whatever it can or cannot do. For liveness probes."""
        return ALIVE

    @operations.get(
        "/readyz",
        tags=["health"],
        summary="Can it serve, and if not, why?",
        responses={
            **json_example({"status": "ready", "degraded": ["clock: LOGICAL"]}),
            503: {"description": "Not now; `reasons` says why."},
        },
    )
    async def readyz() -> dict[str, str | list[str]]:
        """`degraded` names what it has to do without, if anything. For operators, and for readiness probes."""
        reasons = readiness() if app.state.is_started else ["starting"]
        if reasons:
            raise NotReadyError("; ".join(reasons), reasons=reasons)
        degraded = degradations()
        return {"status": "ready", "degraded": degraded} if degraded else {"status": "ready"}


def _add_metrics(operations: FastAPI, token: str | None, state: _ProcessState) -> None:
    @operations.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        _check_reader(request, token)
        text = generate_latest() + generate_latest(state)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


class _ProcessState:
    """What /readyz says, as metrics. Not in the common registry: a test makes several services in one process."""

    def __init__(self, app: ServiceApp, readiness: Readiness, degradations: Readiness) -> None:
        self._app = app
        self._readiness = readiness
        self._degradations = degradations

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        is_started = self._app.state.is_started
        yield GaugeMetricFamily(
            "trivet_ready", "1 while the service can serve.", value=float(is_started and not self._readiness())
        )
        yield GaugeMetricFamily(
            "trivet_degradations",
            "Of how many things the service has to do without.",
            value=len(self._degradations()) if is_started else 0,
        )
        version = GaugeMetricFamily("trivet_build_info", "1, with the version of the service.", labels=["version"])
        version.add_metric([self._app.version], 1.0)
        yield version


def _check_reader(request: Request, token: str | None) -> None:
    """Let this machine pass, and whoever carries the token.

    Raises:
        ForbiddenError: another machine, and there is no token.
        UnauthenticatedError: another machine without the token.
    """
    if request.client is not None and ip_address(request.client.host).is_loopback:
        return
    if token is None:
        raise ForbiddenError(
            "Metrics are for this machine only: set TRIVET_METRICS_TOKEN_FILE to let others read them."
        )
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise UnauthenticatedError("Metrics need the metrics token: 'Authorization: Bearer ...'.")
