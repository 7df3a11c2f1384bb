"""A process' own copy of the clock service's time: which reports it believes, and what its time is worth between them (T-41).

It exists so that stamping an operation needs no call: a report every few seconds steers a software clock, which goes on
by itself, with a growing bound, when every clock service is gone. Pure: readings of the host's clocks are handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared.contracts.time import ClockState, TimeReport
from shared.timekeeping.frequency import UNKNOWN_DRIFT_PPB, FrequencyEstimator
from shared.timekeeping.software_clock import SoftwareClock
from shared.units import NANOSECONDS_PER_SECOND

MAX_SLEWED_NS: Final = 128_000_000
"""A larger difference to the service is taken over at once: slewing it would take minutes of useless bounds."""

MAX_BOUND_NS: Final = 250_000_000
"""With a wider interval than this on either side, time counts as unknown: LOGICAL."""

MAX_JUMP_NS: Final = 128_000_000
"""Wall and monotonic clock moved apart by more than this: somebody set the clock, or the machine slept."""

STALE_AFTER_NS: Final = 30 * NANOSECONDS_PER_SECOND
FIRST_REPORT_WITHIN_NS: Final = 30 * NANOSECONDS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Reading:
    """The time at one moment.

    Attributes:
        physical_ns: what the hybrid logical clock follows: verified time, or the host's clock without it.
        error_ns: half-width of the interval around `physical_ns`; None while time is unverified.
    """

    state: ClockState
    physical_ns: int
    error_ns: int | None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One report with its moment: the host's clocks when the request left and when the answer was there."""

    report: TimeReport
    sent_monotonic_ns: int
    received_monotonic_ns: int
    received_wall_ns: int


class FollowedClock:
    """The copy.

    Invariant: while `read` gives an interval, true time lies in it if it lay in the reports' intervals.
    """

    def __init__(self, monotonic_ns: int, wall_ns: int) -> None:
        self._started_ns = monotonic_ns
        self._wall_minus_monotonic_ns = wall_ns - monotonic_ns
        self._clock: SoftwareClock | None = None
        self._frequency = FrequencyEstimator()
        self._service_epoch: int | None = None
        self._service_state = ClockState.INIT
        self._reported_ns: int | None = None
        self.epoch = 0
        self.jumps = 0

    @property
    def frequency_ppb(self) -> int:
        """The correction in use."""
        return 0 if self._clock is None else self._clock.frequency_ppb

    def slew_left_ns(self, monotonic_ns: int) -> int:
        """Offset to the service that is still being worked off, signed."""
        return 0 if self._clock is None else self._clock.slew_left_ns(monotonic_ns)

    def report_age_ns(self, monotonic_ns: int) -> int | None:
        """Time since the last report with an interval; None before the first."""
        return None if self._reported_ns is None else monotonic_ns - self._reported_ns

    def read(self, monotonic_ns: int, wall_ns: int) -> Reading:
        """The time now; well under a microsecond, no call."""
        self._notice_jump(monotonic_ns, wall_ns)
        clock = self._clock
        if clock is None:
            return Reading(self._unverified_state(monotonic_ns), wall_ns, None)
        error_ns = clock.error_bound_ns(monotonic_ns)
        if error_ns > MAX_BOUND_NS:
            return Reading(ClockState.LOGICAL, wall_ns, None)
        return Reading(self._verified_state(monotonic_ns), clock.utc_ns(monotonic_ns), error_ns)

    def follow(self, exchange: Exchange) -> None:
        """Take in one report.

        A report without an interval is no news: our own copy, with its growing bound, is at least as good.
        """
        report, now_ns = exchange.report, exchange.received_monotonic_ns
        self._notice_jump(now_ns, exchange.received_wall_ns)
        if report.error_ns is None:
            if self._clock is None:
                self._service_state = report.state
            return
        round_trip_ns = now_ns - exchange.sent_monotonic_ns
        # The service read its clock at some moment of the round trip: half of it either way from the middle.
        utc_ns = report.utc_ns + round_trip_ns // 2
        error_ns = report.error_ns + round_trip_ns // 2 + 1
        self._service_state = report.state
        self._reported_ns = now_ns
        if report.epoch != self._service_epoch:
            self._frequency = FrequencyEstimator()
        self._frequency.add(now_ns, utc_ns, error_ns)
        self._steer(now_ns, utc_ns, error_ns, is_new_epoch=report.epoch != self._service_epoch)
        self._service_epoch = report.epoch

    def _steer(self, now_ns: int, utc_ns: int, error_ns: int, *, is_new_epoch: bool) -> None:
        clock = self._clock
        if clock is None:
            self._step(now_ns, utc_ns, error_ns)
            return
        offset_ns = utc_ns - clock.utc_ns(now_ns)
        is_consistent = abs(offset_ns) <= error_ns + clock.error_bound_ns(now_ns)
        if abs(offset_ns) > MAX_SLEWED_NS or (is_new_epoch and not is_consistent):
            self._step(now_ns, utc_ns, error_ns)
        elif not is_consistent or error_ns <= clock.error_bound_ns(now_ns):
            # A worse report that agrees is left alone: a slow round trip must not widen what is known.
            self._clock = clock.adjusted(
                now_ns,
                offset_ns=offset_ns,
                error_ns=error_ns,
                frequency_ppb=self._frequency.frequency_ppb,
                drift_ppb=self._frequency.drift_ppb,
            )

    def _step(self, now_ns: int, utc_ns: int, error_ns: int) -> None:
        self._clock = SoftwareClock(
            anchor_monotonic_ns=now_ns,
            anchor_utc_ns=utc_ns,
            frequency_ppb=0,
            slew_ns=0,
            error_ns=error_ns,
            drift_ppb=UNKNOWN_DRIFT_PPB,
        )
        self.epoch += 1

    def _notice_jump(self, monotonic_ns: int, wall_ns: int) -> None:
        difference_ns = wall_ns - monotonic_ns
        moved_ns = abs(difference_ns - self._wall_minus_monotonic_ns)
        self._wall_minus_monotonic_ns = difference_ns
        if moved_ns > MAX_JUMP_NS:
            # If the machine slept, the monotonic clock may have missed it; only the next report can tell.
            self._clock = None
            self._frequency = FrequencyEstimator()
            self._service_state = ClockState.LOGICAL
            self.jumps += 1

    def _verified_state(self, monotonic_ns: int) -> ClockState:
        age_ns = self.report_age_ns(monotonic_ns)
        if age_ns is None or age_ns > STALE_AFTER_NS:
            return ClockState.HOLDOVER
        return self._service_state

    def _unverified_state(self, monotonic_ns: int) -> ClockState:
        if self._service_state is ClockState.LOGICAL or monotonic_ns - self._started_ns > FIRST_REPORT_WITHIN_NS:
            return ClockState.LOGICAL
        return ClockState.INIT
