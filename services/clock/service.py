"""A clock service's two clocks as one: synchronised time and hybrid logical timestamps, read together.

It exists so that the API, the metrics and the hlc bound all see the same moment.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType
from typing import Final, Self

from services.clock.settings import ClockSettings
from services.clock.synchronizer import BURST_INTERVAL_S, Synchronizer
from shared.background_tasks import BackgroundTasks
from shared.contracts.time import ClockState, SourceCounts, SourceVerdict, TimeReport, TimeSourceReport
from shared.timekeeping.durable_hybrid_clock import RENEWAL_INTERVAL_S, DurableHybridClock
from shared.timekeeping.followed_clock import Reading
from shared.timekeeping.host_clock import HostClock
from shared.timekeeping.time_metrics import NowTimer, TimeStatistics

HLC_FILE: Final = "hlc"
_FALSE: Final = frozenset({SourceVerdict.FALSETICKER})
_AGREEING: Final = frozenset({SourceVerdict.OK})


class ClockService:
    """Opens the clocks, keeps them going, and reports."""

    def __init__(self, settings: ClockSettings, host: HostClock) -> None:
        self._settings = settings
        self._host = host
        self.synchronizer = Synchronizer(settings, host)
        self.timer = NowTimer()
        self._hlc = DurableHybridClock(settings.data_dir / HLC_FILE)
        self._tasks = BackgroundTasks(limit=2)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._hlc.open, self._host.wall_ns())
        await self.synchronizer.__aenter__()
        self._tasks.every("synchronizer", BURST_INTERVAL_S, self.synchronizer.step, first_after_s=0)
        self._tasks.every("hlc bound", RENEWAL_INTERVAL_S, self._keep_bound, first_after_s=0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.aclose()
        await self.synchronizer.__aexit__(kind, error, trace)
        await asyncio.to_thread(self._hlc.close)

    def report(self) -> TimeReport:
        """The time now, with everything that is known about it."""
        reports = self.synchronizer.reports()
        with self.timer:
            reading, hlc = self._now()
        interval = _interval(reading)
        return TimeReport(
            earliest_ns=interval[0],
            latest_ns=interval[1],
            utc_ns=reading.physical_ns,
            error_ns=reading.error_ns,
            state=reading.state,
            hlc=hlc,
            hlc_lead_ns=self._hlc.restart_lead_ns(reading.physical_ns),
            epoch=self.synchronizer.discipline.epoch,
            sources=_count(reports),
            source_reports=reports,
            leap=self.synchronizer.leap.announced,
            reasons=self.reasons(),
        )

    def reasons(self) -> list[str]:
        """Why time is not as good as it should be; empty when all is well."""
        reading = self.synchronizer.read()
        found = [self._hlc.failure] if self._hlc.failure is not None else []
        # One round without an answer is nothing to report: SYNCED means that the bound still holds.
        if reading.state is not ClockState.SYNCED and self.synchronizer.discipline.reason:
            found.append(f"{reading.state.value}: {self.synchronizer.discipline.reason}")
        return found + self._tasks.degradations()

    def hlc(self) -> int:
        """A new hybrid logical timestamp."""
        return self._now()[1]

    def statistics(self) -> TimeStatistics:
        """A snapshot."""
        now_ns = self._host.monotonic_ns()
        reading = self.synchronizer.read()
        discipline = self.synchronizer.discipline
        return TimeStatistics(
            state=reading.state,
            error_ns=reading.error_ns,
            frequency_ppb=discipline.frequency_ppb,
            slew_left_ns=discipline.slew_left_ns(now_ns),
            sync_age_ns=discipline.sync_age_ns(now_ns),
            hlc=self._hlc.last,
            hlc_lead_ns=self._hlc.lead_ns(reading.physical_ns),
            hlc_rejected=self._hlc.rejected,
            polls=self.synchronizer.rounds,
            failed_polls=self.synchronizer.failed_rounds,
            jumps=discipline.jumps,
            epoch=discipline.epoch,
            failure=self._hlc.failure,
        )

    async def _keep_bound(self) -> None:
        await self._hlc.keep_bound_ahead(self.synchronizer.read().physical_ns)

    def _now(self) -> tuple[Reading, int]:
        reading = self.synchronizer.read()
        return reading, self._hlc.now(reading.physical_ns)


def _interval(reading: Reading) -> tuple[int, int] | tuple[None, None]:
    if reading.error_ns is None:
        return None, None
    return reading.physical_ns - reading.error_ns, reading.physical_ns + reading.error_ns


def _count(reports: list[TimeSourceReport]) -> SourceCounts:
    verdicts = Counter(report.verdict for report in reports)
    ok = sum(verdicts[verdict] for verdict in _AGREEING)
    false = sum(verdicts[verdict] for verdict in _FALSE)
    return SourceCounts(ok=ok, false=false, unreachable=len(reports) - ok - false)
