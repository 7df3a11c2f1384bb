"""The memory of one source: its last samples, of which the best one speaks for it. Pure.

A sample's error grows with its age, so a quick exchange of some minutes ago may still know more than the slow one just
now. Source: RFC 5905 section 10 (clock filter), with the error bound in place of the jitter.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from services.clock.intersection import Interval
from services.clock.ntp_answer import Sample
from shared.units import NANOSECONDS_PER_SECOND

KEPT_SAMPLES: Final = 8
MAX_DELAY_RATIO: Final = 3
DELAY_TOLERANCE_NS: Final = 5_000_000
"""Below this a longer delay is scheduling noise, on a LAN of microseconds as on loopback, and its bound covers it."""


class SampleFilter:
    """Up to `KEPT_SAMPLES` samples of one source."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=KEPT_SAMPLES)
        self._delays_ns: deque[int] = deque(maxlen=KEPT_SAMPLES)

    def add(self, sample: Sample) -> bool:
        """Keep `sample`, unless its delay is far above the least of the last ones; then False.

        The delays of refused samples count too, so that a route that has become longer is accepted in the end.
        """
        least_ns = min(self._delays_ns, default=sample.delay_ns)
        self._delays_ns.append(sample.delay_ns)
        if sample.delay_ns > max(MAX_DELAY_RATIO * least_ns, DELAY_TOLERANCE_NS):
            return False
        self._samples.append(sample)
        return True

    def clear(self) -> None:
        """Forget all: the monotonic clock that dates the samples has lost its meaning."""
        self._samples.clear()

    @property
    def latest(self) -> Sample | None:
        """The newest accepted sample."""
        return self._samples[-1] if self._samples else None

    def best(self, monotonic_ns: int, *, frequency_ppb: int, drift_ppb: int, floor_ns: int) -> Interval | None:
        """The narrowest interval for true time at `monotonic_ns` that one of the samples gives.

        Args:
            frequency_ppb: correction of our monotonic clock, by which a sample is carried forward.
            drift_ppb: how wrong that can be; it widens a sample with its age.
            floor_ns: what no exchange over this kind of network can do better than.
        """
        intervals = (
            _carried_forward(sample, monotonic_ns, frequency_ppb, drift_ppb, floor_ns) for sample in self._samples
        )
        return min(intervals, key=lambda interval: interval.error_ns, default=None)


def _carried_forward(sample: Sample, monotonic_ns: int, frequency_ppb: int, drift_ppb: int, floor_ns: int) -> Interval:
    age_ns = monotonic_ns - sample.monotonic_ns
    utc_ns = sample.utc_ns + age_ns * (NANOSECONDS_PER_SECOND + frequency_ppb) // NANOSECONDS_PER_SECOND
    return Interval.around(utc_ns, sample.error_ns + floor_ns + age_ns * drift_ppb // NANOSECONDS_PER_SECOND + 1)
