"""The routes of a clock service.

All are signed but the probes (`shared.web.service_app`): the time is no secret, but it is the cluster's own to ask for.
"""

from __future__ import annotations

from fastapi import APIRouter

from services.clock.service import ClockService
from shared.contracts.base import WireModel
from shared.contracts.time import TimeReport
from shared.timekeeping.time_client import TIME_PATH


class HlcReport(WireModel):
    """A new hybrid logical timestamp, as an integer and as receipts show it."""

    hlc: int
    text: str


def create_router(clock: ClockService) -> APIRouter:
    """The routes that answer from `clock`."""
    router = APIRouter(tags=["time"])

    @router.get(TIME_PATH, summary="The time, its error bound, and what every source is worth")
    async def get_time() -> TimeReport:
        """True time lies between the bounds; while there are none, the host's own clock is all that is known."""
        return clock.report()

    @router.get("/v1/hlc", summary="A new hybrid logical timestamp")
    async def get_hlc() -> HlcReport:
        """Greater than every one before it, across restarts too."""
        hlc = clock.hlc()
        return HlcReport(hlc=hlc, text=f"{hlc:016x}")

    return router
