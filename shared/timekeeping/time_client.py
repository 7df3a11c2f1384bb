"""The time of one process: stamps in microseconds, from a local copy that the clock services steer (T-30).

It exists because a call per operation would cost more than many operations, and because the store must go on without any
clock service. One poll: signed GET /v1/time -> `followed_clock` (pure) -> the next `stamp()` reads the steered copy.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

import structlog
from prometheus_client import REGISTRY, CollectorRegistry

from shared.background_tasks import BackgroundTasks
from shared.contracts.base import WireModel
from shared.contracts.time import Stamp, TimeReport
from shared.errors import TrivetError
from shared.peer_address import PeerAddress
from shared.timekeeping.durable_hybrid_clock import RENEWAL_INTERVAL_S, DurableHybridClock
from shared.timekeeping.followed_clock import Exchange, FollowedClock, Reading
from shared.timekeeping.host_clock import HostClock, SystemHostClock
from shared.timekeeping.hybrid_logical_clock import Reception
from shared.timekeeping.time_metrics import NowTimer, TimeMetrics, TimeStatistics
from shared.units import NANOSECONDS_PER_SECOND

logger = structlog.get_logger(__name__)

TIME_PATH: Final = "/v1/time"
POLL_INTERVAL_S: Final = 2.0
POLL_TIMEOUT_S: Final = 1.0
WARNING_INTERVAL_NS: Final = 60 * NANOSECONDS_PER_SECOND

ModelT = TypeVar("ModelT", bound=WireModel)


class PeerCaller(Protocol):
    """Calls a clock service; `shared.peer_calls.http_client.PeerClient` does."""

    async def call(
        self, peer: PeerAddress, method: str, path: str, answer: type[ModelT], *, timeout_s: float
    ) -> ModelT:
        """One signed call. Raises TrivetError."""


class TimeClient:
    """Stamps operations; see `shared.contracts.time.TimeSource`.

    Needs no clock service to start or to go on: without one it is LOGICAL and follows the host's clock. With `hlc_path`
    its timestamps do not go back across restarts; without (the gateway), call `seed`. For one event loop, not for threads.
    """

    def __init__(
        self,
        clocks: list[PeerAddress],
        client: PeerCaller,
        *,
        node_id: str,
        hlc_path: Path | None = None,
        host: HostClock | None = None,
        poll_interval_s: float = POLL_INTERVAL_S,
        registry: CollectorRegistry | None = REGISTRY,
    ) -> None:
        """Poll `clocks` through `client` every `poll_interval_s`; show metrics in `registry`, if any."""
        self._node_id = node_id
        self._clocks = list(clocks)
        self._client = client
        self._host = host or SystemHostClock()
        self._poll_interval_s = poll_interval_s
        self._followed = FollowedClock(self._host.monotonic_ns(), self._host.wall_ns())
        self._hlc = DurableHybridClock(hlc_path)
        self._timer = NowTimer()
        self._metrics = TimeMetrics(self.statistics, self._timer, registry)
        self._tasks = BackgroundTasks(limit=2)
        self._connected: set[str] = set()
        self._warned_ns: int | None = None
        self._polls = 0
        self._failed_polls = 0

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._hlc.open, self._host.wall_ns())
        self._metrics.open()
        self._tasks.every("time polls", self._poll_interval_s, self._poll_once, first_after_s=0)
        self._tasks.every("hlc bound", RENEWAL_INTERVAL_S, self._keep_bound, first_after_s=0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tasks.aclose()
        self._metrics.close()
        await asyncio.to_thread(self._hlc.close)

    def stamp(self) -> Stamp:
        """A stamp whose hlc is greater than that of every stamp given or received before; microseconds, no call."""
        with self._timer:
            reading = self._read()
            hlc = self._hlc.now(reading.physical_ns)
            if reading.error_ns is None:
                return Stamp(hlc=hlc, state=reading.state)
            return Stamp(
                earliest_ns=reading.physical_ns - reading.error_ns,
                latest_ns=reading.physical_ns + reading.error_ns,
                hlc=hlc,
                state=reading.state,
            )

    def receive(self, hlc: int, *, announced_lead_ns: int = 0) -> Reception:
        """Merge a peer's timestamp: later stamps are greater.

        While our time is verified, a timestamp too far ahead of it is not merged but counted; nothing else happens, for
        order does not depend on it. While it is not verified, nobody can be called wrong for being ahead.
        """
        reading = self._read()
        is_verified = reading.error_ns is not None
        reception = self._hlc.receive(
            hlc, reading.physical_ns, is_verified=is_verified, announced_lead_ns=announced_lead_ns
        )
        if reception is not Reception.MERGED:
            self._warn_of_lead(reception, hlc)
        return reception

    def seed(self, hlc: int) -> None:
        """Give only stamps above `hlc` from now on: what a process without a disk learns from consensus at its start."""
        self._hlc.raise_floor(hlc)

    def statistics(self) -> TimeStatistics:
        """A snapshot."""
        now_ns = self._host.monotonic_ns()
        reading = self._read()
        return TimeStatistics(
            state=reading.state,
            error_ns=reading.error_ns,
            frequency_ppb=self._followed.frequency_ppb,
            slew_left_ns=self._followed.slew_left_ns(now_ns),
            sync_age_ns=self._followed.report_age_ns(now_ns),
            hlc=self._hlc.last,
            hlc_lead_ns=self._hlc.lead_ns(reading.physical_ns),
            hlc_rejected=self._hlc.rejected,
            polls=self._polls,
            failed_polls=self._failed_polls,
            jumps=self._followed.jumps,
            epoch=self._followed.epoch,
            failure=self._hlc.failure,
        )

    async def poll(self) -> bool:
        """Ask the clock services in turn until one gives an interval. False when none answered at all."""
        self._polls += 1
        is_answered = False
        for clock in list(self._clocks):
            exchange = await self._ask(clock)
            if exchange is None:
                # Ask it last from now on, so that a dead service does not cost every poll its time-out.
                self._clocks.remove(clock)
                self._clocks.append(clock)
                continue
            is_answered = True
            self._followed.follow(exchange)
            self.receive(exchange.report.hlc, announced_lead_ns=exchange.report.hlc_lead_ns)
            if exchange.report.error_ns is not None:
                break
        if not is_answered:
            self._failed_polls += 1
        return is_answered

    async def _ask(self, clock: PeerAddress) -> Exchange | None:
        exchange = await self._exchange(clock)
        if exchange is not None and clock.id not in self._connected:
            # The first exchange also connects and learns the service's boot id: too slow to date a report by.
            self._connected.add(clock.id)
            exchange = await self._exchange(clock) or exchange
        elif exchange is None:
            self._connected.discard(clock.id)
        return exchange

    async def _exchange(self, clock: PeerAddress) -> Exchange | None:
        sent_ns = self._host.monotonic_ns()
        try:
            async with asyncio.timeout(POLL_TIMEOUT_S):
                report = await self._client.call(clock, "GET", TIME_PATH, TimeReport, timeout_s=POLL_TIMEOUT_S)
        except (TrivetError, TimeoutError) as error:
            logger.debug("no time from a clock service", clock=clock.id, reason=str(error))
            return None
        return Exchange(report, sent_ns, self._host.monotonic_ns(), self._host.wall_ns())

    def _warn_of_lead(self, reception: Reception, hlc: int) -> None:
        # A cluster that was LOGICAL with a fast clock leads for minutes afterwards; one line says it as well as a thousand.
        now_ns = self._host.monotonic_ns()
        if self._warned_ns is None or now_ns - self._warned_ns > WARNING_INTERVAL_NS:
            self._warned_ns = now_ns
            logger.warning("a peer's timestamp is far ahead", reception=reception.value, hlc=f"{hlc:016x}")

    async def _poll_once(self) -> None:
        was_state = self._read().state
        await self.poll()
        state = self._read().state
        if state is not was_state:
            logger.info("clock state", state=state.value, was=was_state.value)

    async def _keep_bound(self) -> None:
        await self._hlc.keep_bound_ahead(self._read().physical_ns)

    def _read(self) -> Reading:
        return self._followed.read(self._host.monotonic_ns(), self._host.wall_ns())
