"""One address that is asked for the time: when it is due, what it said, and how it is treated for it. Pure.

It keeps the manners: a kiss-of-death RATE doubles the interval, DENY and RSTR end the asking, and a server that does not
answer is asked less often.
"""

from __future__ import annotations

from typing import Final

from services.clock.intersection import Interval
from services.clock.ntp_answer import NtpResult, SampleVerdict
from services.clock.sample_filter import SampleFilter
from shared.contracts.time import SourceVerdict, TimeSourceReport
from shared.timekeeping.frequency import UNKNOWN_DRIFT_PPB, FrequencyEstimator
from shared.units import NANOSECONDS_PER_SECOND

MAX_POLL_NS: Final = 1024 * NANOSECONDS_PER_SECOND
MAX_BACK_OFF: Final = 4
USABLE_POLLS: Final = 3
_REFUSALS: Final = ("DENY", "RSTR")


class Source:
    """One source.

    Invariant: `due_ns` never lies more than `MAX_POLL_NS` ahead unless the source has refused us for good.
    """

    def __init__(self, name: str, address: tuple[str, int], *, poll_ns: int, is_smearing: bool) -> None:
        self.name = name
        self.address = address
        self.is_smearing = is_smearing
        self.due_ns = 0
        self.is_refused = False
        self.is_fresh = False
        self.outcome: NtpResult | None = None
        self.interval: Interval | None = None
        self._base_poll_ns = poll_ns
        self._poll_ns = poll_ns
        self._failures = 0
        self._answered_ns: int | None = None
        self._filter = SampleFilter()
        self._frequency = FrequencyEstimator()

    @property
    def id(self) -> str:
        """What tells it from others: two names may lead to one address, which is then one source."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def is_unreachable(self) -> bool:
        """Whether it has not answered for so long that its address may have moved."""
        return self._failures >= MAX_BACK_OFF

    def is_due(self, monotonic_ns: int) -> bool:
        """Whether it may be asked now."""
        return not self.is_refused and monotonic_ns >= self.due_ns

    def record(self, outcome: NtpResult, monotonic_ns: int) -> SampleVerdict:
        """Record the outcome of one exchange and plan the next; the verdict after the filter has seen the sample."""
        sample = outcome.sample
        if sample is not None and not self._filter.add(sample):
            outcome = NtpResult(SampleVerdict.FAR, "the answer took far longer than usual", sample)
        self.outcome = outcome
        self.is_fresh = outcome.verdict is SampleVerdict.OK
        self._failures = self._failures + 1 if outcome.verdict is SampleVerdict.TIMEOUT else 0
        if self.is_fresh and sample is not None:
            self._answered_ns = monotonic_ns
            self._frequency.add(sample.monotonic_ns, sample.utc_ns, sample.error_ns)
        if outcome.verdict is SampleVerdict.KISS_OF_DEATH:
            self.is_refused = outcome.kiss in _REFUSALS
            self._poll_ns = min(2 * self._poll_ns, MAX_POLL_NS)
        back_off = min(2 ** max(0, self._failures - 1), MAX_BACK_OFF)
        # In a burst at the start the rounds are denser than the interval; only failures and kisses hold a source back.
        wait_ns = 0 if self._poll_ns == self._base_poll_ns and back_off == 1 else self._poll_ns * back_off
        self.due_ns = monotonic_ns + min(wait_ns, MAX_POLL_NS)
        return outcome.verdict

    def forget_samples(self) -> None:
        """The monotonic clock lost its meaning (the machine slept)."""
        self._filter.clear()
        self._frequency = FrequencyEstimator()
        self._answered_ns = None
        self.interval = None

    def estimate(self, monotonic_ns: int, *, frequency_ppb: int, drift_ppb: int, floor_ns: int) -> Interval | None:
        """Its interval for true time now; None when it has not given a usable answer for `USABLE_POLLS` intervals."""
        self.interval = None
        if self._answered_ns is not None and monotonic_ns - self._answered_ns <= USABLE_POLLS * self._poll_ns:
            self.interval = self._filter.best(
                monotonic_ns, frequency_ppb=frequency_ppb, drift_ppb=drift_ppb, floor_ns=floor_ns
            )
        return self.interval

    def leap_indicator(self) -> int | None:
        """What its last usable answer announced."""
        return None if self._filter.latest is None else self._filter.latest.leap

    def report(self, estimate_ns: int, *, is_false: bool, is_left_out: bool) -> TimeSourceReport:
        """The source as it is published; `estimate_ns` is the published time at its interval's moment."""
        latest = self._filter.latest
        is_known = self._frequency.drift_ppb != UNKNOWN_DRIFT_PPB
        return TimeSourceReport(
            name=self.name,
            address=self.id,
            verdict=self._verdict(is_false=is_false, is_left_out=is_left_out),
            reason="" if self.outcome is None else self.outcome.reason,
            offset_ns=None if self.interval is None else self.interval.middle_ns - estimate_ns,
            error_ns=None if self.interval is None else self.interval.error_ns,
            delay_ns=None if latest is None else latest.delay_ns,
            drift_ppb=self._frequency.frequency_ppb if is_known else None,
            stratum=None if latest is None else latest.stratum,
            poll_s=self._poll_ns // NANOSECONDS_PER_SECOND,
        )

    def _verdict(self, *, is_false: bool, is_left_out: bool) -> SourceVerdict:
        if self.is_refused:
            return SourceVerdict.REFUSED
        if is_left_out:
            return SourceVerdict.SMEARED
        if self.interval is not None:
            return SourceVerdict.FALSETICKER if is_false else SourceVerdict.OK
        is_silent = self.outcome is None or self.outcome.verdict is SampleVerdict.TIMEOUT
        return SourceVerdict.UNREACHABLE if is_silent else SourceVerdict.REJECTED
