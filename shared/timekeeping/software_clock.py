"""UTC as a function of the monotonic clock: steered, never set back, always with its error bound.

It exists because services have no right to set the host's clock (CAP_SYS_TIME), and because a clock that other programs
may set cannot carry a promise. Pure and immutable: steering makes a new clock that continues the old one.
docs/time.md, "Discipline".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from shared.units import NANOSECONDS_PER_SECOND

SLEW_PPB: Final = 500_000
"""How fast an offset is worked off: 10 ms in 20 s. As ntpd's kernel discipline."""

MAX_FREQUENCY_PPB: Final = 500_000
"""No sound oscillator is further off; a correction beyond it would let slewing and frequency add up to a stop."""


@dataclass(frozen=True, slots=True)
class SoftwareClock:
    """A clock from one adjustment to the next.

    Invariant: `utc_ns` does not decrease while `monotonic_ns` does not. All slopes stay positive because frequency and
    slew together are far below one.

    Attributes:
        anchor_monotonic_ns, anchor_utc_ns: the adjustment: at this monotonic reading the clock showed this time.
        frequency_ppb: correction of the monotonic clock's rate in parts per 10^9.
        slew_ns: offset to be worked off at `SLEW_PPB`, signed; positive means that the clock is behind.
        error_ns: half-width of the interval that the adjustment came from.
        drift_ppb: how wrong the rate can still be.
    """

    anchor_monotonic_ns: int
    anchor_utc_ns: int
    frequency_ppb: int
    slew_ns: int
    error_ns: int
    drift_ppb: int

    def utc_ns(self, monotonic_ns: int) -> int:
        """Nanoseconds since the Unix epoch at `monotonic_ns`, which is not before the anchor."""
        elapsed_ns = monotonic_ns - self.anchor_monotonic_ns
        rate = NANOSECONDS_PER_SECOND + self.frequency_ppb
        if not self.slew_ns:
            return self.anchor_utc_ns + elapsed_ns * rate // NANOSECONDS_PER_SECOND
        # Slew and frequency share one multiplication per stretch: two roundings could run against each other by 1 ns.
        slewing_rate = rate + (SLEW_PPB if self.slew_ns > 0 else -SLEW_PPB)
        slewing_ns = min(elapsed_ns, self._slew_duration_ns())
        steady_ns = elapsed_ns - slewing_ns
        return self.anchor_utc_ns + (slewing_ns * slewing_rate + steady_ns * rate) // NANOSECONDS_PER_SECOND

    def slew_left_ns(self, monotonic_ns: int) -> int:
        """What is still to be worked off, signed."""
        worked_ns = (monotonic_ns - self.anchor_monotonic_ns) * SLEW_PPB // NANOSECONDS_PER_SECOND
        left_ns = max(0, abs(self.slew_ns) - worked_ns)
        return left_ns if self.slew_ns > 0 else -left_ns

    def error_bound_ns(self, monotonic_ns: int) -> int:
        """Half-width of the interval around `utc_ns` that contains true time."""
        age_ns = monotonic_ns - self.anchor_monotonic_ns
        drift_ns = age_ns * self.drift_ppb // NANOSECONDS_PER_SECOND + 1
        return self.error_ns + abs(self.slew_left_ns(monotonic_ns)) + drift_ns

    def adjusted(self, monotonic_ns: int, *, offset_ns: int, error_ns: int, frequency_ppb: int, drift_ppb: int) -> Self:
        """The clock that continues this one at `monotonic_ns` and works off `offset_ns` (true time minus ours)."""
        return type(self)(
            anchor_monotonic_ns=monotonic_ns,
            anchor_utc_ns=self.utc_ns(monotonic_ns),
            frequency_ppb=clamp_frequency(frequency_ppb),
            slew_ns=offset_ns,
            error_ns=error_ns,
            drift_ppb=drift_ppb,
        )

    def _slew_duration_ns(self) -> int:
        return abs(self.slew_ns) * NANOSECONDS_PER_SECOND // SLEW_PPB


def clamp_frequency(frequency_ppb: int) -> int:
    """`frequency_ppb` within what a clock may be corrected by."""
    return max(-MAX_FREQUENCY_PPB, min(MAX_FREQUENCY_PPB, frequency_ppb))
