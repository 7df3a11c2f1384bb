"""Composition root of the clock service: settings, clocks, routes. Start it with `python -m services.clock.main`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry

from services.clock.api import create_router
from services.clock.callers import ROUTE_CALLERS
from services.clock.fast_path import TimeFastPath
from services.clock.metrics import SourceMetrics
from services.clock.service import ClockService
from services.clock.settings import ClockSettings
from shared.disk.data_folder import claim_data_dir
from shared.peer_calls.request_signing import RequestVerifier
from shared.private_process import make_process_private
from shared.settings import load_settings
from shared.telemetry import configure_logging
from shared.timekeeping.host_clock import HostClock, SystemHostClock
from shared.timekeeping.time_metrics import TimeMetrics
from shared.web.listeners import serve
from shared.web.operations import add_operations
from shared.web.request_metrics import observe_requests, request_metrics
from shared.web.service_app import ServiceApp, create_app

DESCRIPTION = "Turns several NTP servers into one time with an error bound, and falls back to logical time."


def build_app(
    settings: ClockSettings, host: HostClock | None = None, registry: CollectorRegistry = REGISTRY
) -> ServiceApp:
    """The application of one clock service; everything is opened and closed by its lifespan.

    It is ready from the start: without any NTP server it serves logical time and says so.
    """
    clock = ClockService(settings, host or SystemHostClock())
    collectors = (TimeMetrics(clock.statistics, clock.timer, registry), SourceMetrics(clock, registry))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with clock:
            for collector in collectors:
                collector.open()
            try:
                yield
            finally:
                for collector in collectors:
                    collector.close()

    app = create_app(
        title="Trivet clock",
        description=DESCRIPTION,
        lifespan=lifespan,
        readiness=list,
        verifier=RequestVerifier(settings.read_peer_keys(), settings.node_id),
        callers=ROUTE_CALLERS.check,
        fast_path=partial(TimeFastPath, report=clock.report, metrics=request_metrics()),
    )
    app.add_routes(create_router(clock))
    add_operations(app, readiness=list, degradations=clock.reasons, metrics_token=settings.read_metrics_token())
    return app


def main() -> None:
    """Run the service until it is told to stop."""
    make_process_private()
    settings = load_settings(ClockSettings)
    configure_logging(settings.node_id, settings.log_level, settings.log_file)
    observe_requests(settings, "clock")
    claim_data_dir(settings.data_dir, settings.cluster_id, settings.node_id)
    serve(build_app(settings), settings)


if __name__ == "__main__":
    main()
