"""How fast the monotonic clock really runs, learnt from intervals of true time, with a proven limit on the mistake.

It exists because the growth of the error bound between rounds is set by how well the rate is known. Two intervals [l1, h1]
at m1 and [l2, h2] at m2 that contain true time prove a rate between (l2 - h1)/(m2 - m1) and (h2 - l1)/(m2 - m1); all
pairs together prove a narrow range. Within it, least squares picks the likeliest. Pure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from shared.timekeeping.software_clock import clamp_frequency
from shared.units import NANOSECONDS_PER_SECOND

UNKNOWN_DRIFT_PPB: Final = 500_000
KNOWN_DRIFT_PPB: Final = 50_000
STEADY_DRIFT_PPB: Final = 15_000

MIN_POINTS: Final = 10
MAX_POINTS: Final = 64
MAX_SPAN_NS: Final = 2 * 3600 * NANOSECONDS_PER_SECOND
"""Older points are dropped: temperature moves an oscillator by parts per million within hours."""

_MIN_SPACING_NS: Final = 50_000_000


@dataclass(frozen=True, slots=True)
class _Point:
    """One interval, and the range of frequencies that it proves together with those before it."""

    monotonic_ns: int
    utc_ns: int
    error_ns: int
    low_ppb: int
    high_ppb: int


class FrequencyEstimator:
    """Frequency and remaining drift from a window of points.

    Invariant: while the intervals given were true and the rate steady, the true correction is within `drift_ppb` of
    `frequency_ppb`.
    """

    def __init__(self) -> None:
        self._points: deque[_Point] = deque(maxlen=MAX_POINTS)
        self._spacing_ns = _MIN_SPACING_NS
        self.frequency_ppb = 0
        self.drift_ppb = UNKNOWN_DRIFT_PPB

    def add(self, monotonic_ns: int, utc_ns: int, error_ns: int) -> None:
        """Learn from one interval `utc_ns` ± `error_ns` at `monotonic_ns`; points that come too densely are skipped.

        An interval that contradicts the earlier ones shows that the rate changed or that one was wrong: all is forgotten.
        """
        if self._points and monotonic_ns - self._points[-1].monotonic_ns < self._spacing_ns:
            return
        if len(self._points) == MAX_POINTS:
            self._thin_out()
        self._points.append(self._point(monotonic_ns, utc_ns, error_ns))
        low_ppb = max(point.low_ppb for point in self._points)
        high_ppb = min(point.high_ppb for point in self._points)
        if low_ppb > high_ppb:
            self._forget_all_but_last()
        elif len(self._points) >= MIN_POINTS:
            self._estimate(low_ppb, high_ppb)

    def _point(self, monotonic_ns: int, utc_ns: int, error_ns: int) -> _Point:
        low_ppb, high_ppb = -NANOSECONDS_PER_SECOND, NANOSECONDS_PER_SECOND
        for older in self._points:
            span_ns = monotonic_ns - older.monotonic_ns
            gained_ns = utc_ns - older.utc_ns - span_ns
            both_ns = error_ns + older.error_ns
            low_ppb = max(low_ppb, (gained_ns - both_ns) * NANOSECONDS_PER_SECOND // span_ns)
            high_ppb = min(high_ppb, (gained_ns + both_ns) * NANOSECONDS_PER_SECOND // span_ns + 1)
        return _Point(monotonic_ns, utc_ns, error_ns, low_ppb, high_ppb)

    def _estimate(self, low_ppb: int, high_ppb: int) -> None:
        likeliest_ppb = clamp_frequency(max(low_ppb, min(high_ppb, self._least_squares())))
        uncertainty_ppb = max(high_ppb - likeliest_ppb, likeliest_ppb - low_ppb)
        proven = (step for step in (STEADY_DRIFT_PPB, KNOWN_DRIFT_PPB) if uncertainty_ppb <= step)
        self.drift_ppb = next(proven, UNKNOWN_DRIFT_PPB)
        # A correction that is not proven would spoil a bound that is sized for an uncorrected clock.
        self.frequency_ppb = 0 if self.drift_ppb == UNKNOWN_DRIFT_PPB else likeliest_ppb

    def _thin_out(self) -> None:
        # Longer spans prove more than denser points: keep the span, halve the density.
        newest_ns = self._points[-1].monotonic_ns
        kept = [point for point in list(self._points)[1::2] if newest_ns - point.monotonic_ns <= MAX_SPAN_NS]
        self._points.clear()
        self._points.extend(kept)
        self._spacing_ns *= 2

    def _forget_all_but_last(self) -> None:
        last = self._points[-1]
        self._points.clear()
        self._points.append(
            _Point(last.monotonic_ns, last.utc_ns, last.error_ns, -NANOSECONDS_PER_SECOND, NANOSECONDS_PER_SECOND)
        )
        self._spacing_ns = _MIN_SPACING_NS
        self.frequency_ppb = 0
        self.drift_ppb = UNKNOWN_DRIFT_PPB

    def _least_squares(self) -> int:
        first = self._points[0]
        xs = [point.monotonic_ns - first.monotonic_ns for point in self._points]
        ys = [point.utc_ns - first.utc_ns - x for point, x in zip(self._points, xs, strict=True)]
        sum_x, sum_y, count = sum(xs), sum(ys), len(xs)
        numerator = count * sum(x * y for x, y in zip(xs, ys, strict=True)) - sum_x * sum_y
        denominator = count * sum(x * x for x in xs) - sum_x * sum_x
        return numerator * NANOSECONDS_PER_SECOND // denominator
