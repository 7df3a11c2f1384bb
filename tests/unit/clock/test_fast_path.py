"""`services.clock.fast_path`: the short way tells the time as the declared route does, and counts as it is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.clock.api import create_router
from services.clock.fast_path import TimeFastPath
from shared.contracts.time import ClockState, Leap, SourceCounts, SourceVerdict, TimeReport, TimeSourceReport
from shared.timekeeping.time_client import TIME_PATH
from shared.web.request_metrics import RequestMetrics
from shared.web.service_app import create_app


@asynccontextmanager
async def no_lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield


REPORT = TimeReport(
    earliest_ns=None,
    latest_ns=None,
    utc_ns=1 << 60,
    error_ns=None,
    state=ClockState.LOGICAL,
    hlc=(1 << 64) - 1,
    hlc_lead_ns=0,
    epoch=3,
    sources=SourceCounts(ok=1, false=0, unreachable=2),
    source_reports=[TimeSourceReport(name="é.example", address="::1", verdict=SourceVerdict.OK)],
    leap=Leap.NONE,
    reasons=["LOGICAL: nobody answers"],
)


class Clock:
    """Tells the same time always, or fails; with the fast path or without."""

    def __init__(self, *, has_fast_path: bool) -> None:
        self.registry = CollectorRegistry()
        self.error: Exception | None = None
        app = create_app(
            title="Test",
            description="A test.",
            lifespan=no_lifespan,
            readiness=list,
            verifier=None,
            fast_path=partial(TimeFastPath, report=self.report, metrics=RequestMetrics(self.registry))
            if has_fast_path
            else None,
        )
        app.add_routes(create_router(self))  # type: ignore[arg-type]
        self.http = httpx.AsyncClient(  # noqa: TID251 - in this process
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://clock"
        )

    def report(self) -> TimeReport:
        if self.error is not None:
            raise self.error
        return REPORT

    def hlc(self) -> int:
        return 7

    def count(self, status: str) -> float:
        labels = {"method": "GET", "handler": TIME_PATH, "status": status}
        return self.registry.get_sample_value("http_requests_total", labels) or 0


async def both(clocks: list[Clock], method: str, path: str) -> httpx.Response:
    lean, plain = [await clock.http.request(method, path) for clock in clocks]
    assert (lean.status_code, lean.content) == (plain.status_code, plain.content)
    assert dict(lean.headers) == dict(plain.headers)
    return lean


async def test_the_fast_path_answers_as_the_declared_route_does() -> None:
    """The time, a defect, and everything that passes through; it counts what it answers."""
    clocks = [Clock(has_fast_path=True), Clock(has_fast_path=False)]
    answer = await both(clocks, "GET", TIME_PATH)
    assert TimeReport.parse_answer(answer.content) == REPORT
    assert (await both(clocks, "HEAD", TIME_PATH)).status_code == 200
    assert (await both(clocks, "POST", TIME_PATH)).status_code == 405
    assert (await both(clocks, "GET", "/v1/hlc")).status_code == 200
    assert (await both(clocks, "GET", f"{TIME_PATH}/more")).status_code == 404
    for clock in clocks:
        clock.error = RuntimeError("a defect")
    assert (await both(clocks, "GET", TIME_PATH)).status_code == 500
    assert [clocks[0].count(status) for status in ("2xx", "5xx")] == [1, 1]
    for clock in clocks:
        await clock.http.aclose()
