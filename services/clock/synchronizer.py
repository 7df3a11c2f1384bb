"""The loop that keeps a clock service's time: ask the sources that are due, hand their intervals to the discipline, wait.

It owns sockets, threads and sleeping, and decides nothing: `ntp` judges answers, `source` keeps the manners, `discipline`
decides. One round: names -> sources -> exchanges side by side -> intervals -> majority.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import structlog

from services.clock.discipline import Candidate, Discipline, RoundResult
from services.clock.host_chrony import HostChrony, Tracking
from services.clock.leap import LeapWatch, is_smearing
from services.clock.ntp import ask
from services.clock.ntp_answer import NtpResult
from services.clock.resolver import Resolver
from services.clock.settings import ClockSettings, NtpServer
from services.clock.source import Source
from shared.contracts.time import ClockState, SourceVerdict, TimeSourceReport
from shared.timekeeping.followed_clock import Reading
from shared.timekeeping.host_clock import HostClock
from shared.units import NANOSECONDS_PER_SECOND

logger = structlog.get_logger(__name__)

MAX_SOURCES: Final = 16
BURST_ROUNDS: Final = 4
BURST_INTERVAL_S: Final = 2.0
NAMES_INTERVAL_S: Final = 1.0
NAMES_INTERVAL_MAX_S: Final = 8.0
"""While no name has an address, it is looked whether there is one, after waits that double: each look asks the host's chrony."""
JITTER: Final = 0.05
FALSETICKER: Final = "falseticker"


Exchange = Callable[[tuple[str, int], HostClock, float], NtpResult]
"""One blocking exchange with a numeric address; `ntp.ask` is the real one."""


class Synchronizer:
    """Rounds of questions, and what came of them. Use as an async context manager around `run`."""

    def __init__(self, settings: ClockSettings, host: HostClock, exchange: Exchange = ask) -> None:
        self._exchange = exchange
        self._settings = settings
        self._host = host
        self._poll_ns = round(settings.ntp_poll_interval_s * NANOSECONDS_PER_SECOND)
        self._floor_ns = settings.ntp_precision_floor_us * 1000
        self._resolver = Resolver(settings.ntp_servers, host)
        self._chrony = HostChrony(settings.chronyc_command) if settings.host_chrony else None
        self._threads = ThreadPoolExecutor(MAX_SOURCES, thread_name_prefix="ntp")
        self._random = random.Random()  # noqa: S311 - spreads polls, guards nothing
        self._sources: dict[str, Source] = {}
        self._burst_left = BURST_ROUNDS
        self._names_wait_s = NAMES_INTERVAL_S
        self._has_started = False
        self._published_state = ClockState.INIT
        self._last_result = RoundResult(is_valid=False, reason="no round has been made yet")
        self._round_estimate_ns = 0
        self._tracking: Tracking | None = None
        self.leap = LeapWatch()
        self.discipline = Discipline(settings.rules(), host.monotonic_ns(), host.wall_ns())
        self.samples: Counter[tuple[str, str]] = Counter()
        self.rounds = 0
        self.failed_rounds = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not waited for: an exchange under way ends by its own time-out.
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def sources(self) -> list[Source]:
        """Everyone who is asked."""
        return list(self._sources.values())

    def read(self) -> Reading:
        """The time now."""
        monotonic_ns, wall_ns = self._host.monotonic_ns(), self._host.wall_ns()
        jumps = self.discipline.jumps
        reading = self.discipline.read(monotonic_ns, wall_ns)
        if self.discipline.jumps != jumps:
            self._forget_samples()
        if reading.state is not self._published_state:
            logger.info(
                "clock state", state=reading.state, was=self._published_state.value, reason=self.discipline.reason
            )
            self._published_state = reading.state
        return reading

    async def step(self) -> float:
        """One round, and how long to wait until the next."""
        await self.round()
        return self.next_wait_s()

    async def round(self) -> RoundResult:
        """One round, as `step` makes them."""
        self.read()
        self._update_sources()
        for source in self._sources.values():
            source.is_fresh = False
        await self._ask_all()
        self._tracking = await self._chrony.tracking() if self._chrony is not None else None
        # What happened to the clocks while we waited must be known before samples are carried forward over it.
        self.read()
        was_valid = self._last_result.is_valid
        self._last_result = self._conclude()
        self.rounds += 1
        self.failed_rounds += not self._last_result.is_valid
        if self._last_result.is_valid and not was_valid:
            self._burst_left = BURST_ROUNDS
        self.read()
        return self._last_result

    def next_wait_s(self) -> float:
        """How long to wait until the next round, jitter included. Asked once after each round: bursts are counted."""
        if not self._sources and any(self._resolver.failure(server) for server in self._settings.ntp_servers):
            wait_s, self._names_wait_s = self._names_wait_s, min(2 * self._names_wait_s, NAMES_INTERVAL_MAX_S)
            return wait_s
        self._names_wait_s = NAMES_INTERVAL_S
        interval_s = self._settings.ntp_poll_interval_s
        if self._published_state is ClockState.SYNCED:
            self._burst_left = BURST_ROUNDS
        elif self._burst_left > 0 and (self._last_result.is_valid or not self._has_started):
            # At the start, and when sources answer again, a few quick rounds; silence is met with patience.
            self._burst_left -= 1
            interval_s = min(interval_s, BURST_INTERVAL_S)
        self._has_started |= self._burst_left == 0 or self._last_result.is_valid
        return interval_s * self._random.uniform(1 - JITTER, 1 + JITTER)

    def reports(self) -> list[TimeSourceReport]:
        """Every source with its verdict, the host's chrony and names without an address included."""
        reports = [
            source.report(
                self._round_estimate_ns,
                is_false=source.id in self._last_result.falsetickers,
                is_left_out=self._is_left_out(source),
            )
            for source in self._sources.values()
        ]
        for server in self._settings.ntp_servers:
            if not self._resolver.addresses(server):
                reason = self._resolver.failure(server)
                reports.append(
                    TimeSourceReport(
                        name=str(server), address="", verdict=SourceVerdict.UNREACHABLE, reason=reason[:200]
                    )
                )
        if self._tracking is not None:
            is_used = self._last_result.is_local
            reports.append(
                TimeSourceReport(
                    name="host chrony",
                    address="local",
                    verdict=SourceVerdict.OK if is_used else SourceVerdict.REJECTED,
                    reason="" if is_used else "the NTP sources know better, or contradict it",
                    error_ns=self._tracking.error_ns,
                    stratum=self._tracking.stratum,
                )
            )
        return reports

    def _update_sources(self) -> None:
        self._resolver.refresh()
        wanted: dict[str, Source] = {}
        for server in self._settings.ntp_servers:
            known = self._resolver.addresses(server)
            for source in self._sources.values():
                # An address that answers is kept although its pool has handed out others since.
                if source.name == str(server) and (source.address[0] in known or not source.is_unreachable):
                    wanted[source.id] = source
            self._add_missing(server, known, wanted)
        self._sources = wanted

    def _add_missing(self, server: NtpServer, known: tuple[str, ...], wanted: dict[str, Source]) -> None:
        has = sum(1 for source in wanted.values() if source.name == str(server))
        for address in known:
            source = Source(
                str(server), (address, server.port), poll_ns=self._poll_ns, is_smearing=is_smearing(server.host)
            )
            if source.id not in wanted and has < len(known) and len(wanted) < MAX_SOURCES:
                wanted[source.id] = source
                has += 1

    async def _ask_all(self) -> None:
        now_ns = self._host.monotonic_ns()
        due = [source for source in self._sources.values() if source.is_due(now_ns)]
        loop = asyncio.get_running_loop()
        outcomes = await asyncio.gather(
            *(
                loop.run_in_executor(
                    self._threads, self._exchange, source.address, self._host, self._settings.ntp_timeout_s
                )
                for source in due
            )
        )
        for source, outcome in zip(due, outcomes, strict=True):
            verdict = source.record(outcome, now_ns)
            self.samples[source.id, verdict.value] += 1
            if outcome.kiss:
                logger.warning("an NTP server refuses us", source=source.id, kiss=outcome.kiss)

    def _conclude(self) -> RoundResult:
        now_ns, wall_ns = self._host.monotonic_ns(), self._host.wall_ns()
        discipline = self.discipline
        candidates = []
        for source in self._sources.values():
            interval = source.estimate(
                now_ns,
                frequency_ppb=discipline.frequency_ppb,
                drift_ppb=discipline.drift_ppb,
                floor_ns=self._floor_ns,
            )
            if interval is not None and not self._is_left_out(source):
                candidates.append(Candidate(source.id, interval, source.is_fresh))
        self._watch_leap(now_ns, wall_ns)
        refusals = discipline.refusals
        local = None if self._tracking is None else self._tracking.interval(wall_ns)
        result = discipline.round(now_ns, wall_ns, candidates, local)
        if discipline.refusals != refusals:
            logger.error("time refused", reason=result.reason)
        for falseticker in result.falsetickers:
            self.samples[falseticker, FALSETICKER] += 1
        self._round_estimate_ns = discipline.estimate_ns(now_ns, wall_ns)
        return result

    def _watch_leap(self, now_ns: int, wall_ns: int) -> None:
        indicators = [
            indicator
            for source in self._sources.values()
            if source.interval is not None
            and not source.is_smearing
            and (indicator := source.leap_indicator()) is not None
        ]
        self.leap.note(indicators, self.discipline.estimate_ns(now_ns, wall_ns))

    def _is_left_out(self, source: Source) -> bool:
        if not source.is_smearing:
            return False
        return self.leap.is_in_window(self.discipline.estimate_ns(self._host.monotonic_ns(), self._host.wall_ns()))

    def _forget_samples(self) -> None:
        for source in self._sources.values():
            source.forget_samples()
