"""How fast the monotonic clock really runs, learnt from intervals of true time, with a proven limit on the mistake.

It exists because the growth of the error bound between rounds is set by how well the rate is known. Two intervals [l1, h1]
at m1 and [l2, h2] at m2 that contain true time prove a rate between (l2 - h1)/(m2 - m1) and (h2 - l1)/(m2 - m1); all
pairs together prove a narrow range. Within it, least squares picks the likeliest. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from shared.software_clock import clamp_frequency
from shared.units import NANOSECONDS_PER_SECOND

UNKNOWN_DRIFT_PPB: Final = 500_000
KNOWN_DRIFT_PPB: Final = 50_000
STEADY_DRIFT_PPB: Final = 15_000

MIN_POINTS: Final = 10
MAX_POINTS: Final = 64
MAX_SPAN_NS: Final = 2 * 3600 * NANOSECONDS_PER_SECOND
"""Older points are dropped: temperature moves an oscillator by parts per million within hours."""

_MIN_SPACING_NS: Final = 50_000_000


class FrequencyEstimator:
    """Frequency and remaining drift from a window of points.

    Invariant: while the intervals given were true and the rate steady, the true correction is within `drift_ppb` of
    `frequency_ppb`.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[int, int, int]] = deque(maxlen=MAX_POINTS)
        self._spacing_ns = _MIN_SPACING_NS
        self.frequency_ppb = 0
        self.drift_ppb = UNKNOWN_DRIFT_PPB

    def add(self, monotonic_ns: int, utc_ns: int, error_ns: int) -> None:
        """Learn from one interval `utc_ns` ± `error_ns` at `monotonic_ns`; points that come too densely are skipped.

        An interval that contradicts the earlier ones shows that the rate changed or that one was wrong: all is forgotten.
        """
        if self._points and monotonic_ns - self._points[-1][0] < self._spacing_ns:
            return
        if len(self._points) == MAX_POINTS:
            self._thin_out()
        self._points.append((monotonic_ns, utc_ns, error_ns))
        if len(self._points) < MIN_POINTS:
            return
        low, high = self._proven_range()
        if low > high:
            self._forget_all_but_last()
            return
        self.frequency_ppb = clamp_frequency(max(low, min(high, self._least_squares())))
        uncertainty = max(high - self.frequency_ppb, self.frequency_ppb - low)
        steps = (STEADY_DRIFT_PPB, KNOWN_DRIFT_PPB)
        self.drift_ppb = next((step for step in steps if uncertainty <= step), UNKNOWN_DRIFT_PPB)
        if self.drift_ppb == UNKNOWN_DRIFT_PPB:
            # A correction that is not proven would spoil a bound that is sized for an uncorrected clock.
            self.frequency_ppb = 0

    def _thin_out(self) -> None:
        # Longer spans prove more than denser points: keep the span, halve the density.
        newest_ns = self._points[-1][0]
        kept = [point for point in list(self._points)[::2] if newest_ns - point[0] <= MAX_SPAN_NS]
        self._points.clear()
        self._points.extend(kept)
        self._spacing_ns *= 2

    def _forget_all_but_last(self) -> None:
        last = self._points[-1]
        self._points.clear()
        self._points.append(last)
        self._spacing_ns = _MIN_SPACING_NS
        self.frequency_ppb = 0
        self.drift_ppb = UNKNOWN_DRIFT_PPB

    def _proven_range(self) -> tuple[int, int]:
        low, high = -NANOSECONDS_PER_SECOND, NANOSECONDS_PER_SECOND
        points = list(self._points)
        for index, (m1, utc1, error1) in enumerate(points):
            for m2, utc2, error2 in points[index + 1 :]:
                span = m2 - m1
                gained = utc2 - utc1 - span
                both = error1 + error2
                low = max(low, (gained - both) * NANOSECONDS_PER_SECOND // span)
                high = min(high, (gained + both) * NANOSECONDS_PER_SECOND // span + 1)
        return low, high

    def _least_squares(self) -> int:
        m0, utc0, _ = self._points[0]
        xs = [m - m0 for m, _, _ in self._points]
        ys = [utc - utc0 - (m - m0) for m, utc, _ in self._points]
        n = len(xs)
        sum_x, sum_y = sum(xs), sum(ys)
        numerator = n * sum(x * y for x, y in zip(xs, ys, strict=True)) - sum_x * sum_y
        denominator = n * sum(x * x for x in xs) - sum_x * sum_x
        return numerator * NANOSECONDS_PER_SECOND // denominator
