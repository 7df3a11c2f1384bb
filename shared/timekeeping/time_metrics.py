"""The Prometheus metrics that every process shows about its time, taken from its statistics when scraped.

A scrape costs, a stamp does not: nothing is updated per stamp except the sampled duration of stamping itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter_ns
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from shared.contracts.time import ClockState
from shared.timekeeping.hybrid_logical_clock import COUNTER_BITS
from shared.units import NANOSECONDS_PER_SECOND

_SAMPLED: Final = 64
_BUCKETS_NS: Final = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000, 10_000_000, 100_000_000)


@dataclass(frozen=True, slots=True)
class TimeStatistics:
    """What a process knows about its time; durations in nanoseconds, None where there is nothing to tell.

    Attributes:
        sync_age_ns: age of the last report of a clock service; in a clock service, of the last valid round.
        failed_polls: polls that no clock service answered.
        jumps: how often wall and monotonic clock moved apart.
        failure: why timestamps may go back after a restart; None while they cannot.
    """

    state: ClockState
    error_ns: int | None
    frequency_ppb: int
    slew_left_ns: int
    sync_age_ns: int | None
    hlc: int
    hlc_lead_ns: int
    hlc_rejected: int
    polls: int
    failed_polls: int
    jumps: int
    epoch: int
    failure: str | None


class NowTimer:
    """A context manager that times every 64th of its uses: timing each would cost as much as a stamp."""

    def __init__(self) -> None:
        self._calls = 0
        self._began_ns = 0
        self._counts = [0] * (len(_BUCKETS_NS) + 1)
        self._sum_ns = 0

    def __enter__(self) -> None:
        self._calls += 1
        if self._calls % _SAMPLED == 0:
            self._began_ns = perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        if self._calls % _SAMPLED == 0:
            duration_ns = perf_counter_ns() - self._began_ns
            self._counts[bisect_left(_BUCKETS_NS, duration_ns)] += 1
            self._sum_ns += duration_ns

    def collect(self) -> Metric:
        """The histogram so far."""
        bounds = [str(bound_ns / NANOSECONDS_PER_SECOND) for bound_ns in _BUCKETS_NS] + ["+Inf"]
        return HistogramMetricFamily(
            "clock_now_seconds",
            "How long it takes to stamp an operation (every 64th is timed).",
            buckets=list(zip(bounds, map(float, accumulate(self._counts)), strict=True)),
            sum_value=self._sum_ns / NANOSECONDS_PER_SECOND,
        )


class TimeMetrics:
    """A Prometheus collector, registered from `open` to `close`."""

    def __init__(
        self, statistics: Callable[[], TimeStatistics], timer: NowTimer, registry: CollectorRegistry | None
    ) -> None:
        self._statistics = statistics
        self._timer = timer
        self._registry = registry

    def open(self) -> None:
        """Show the metrics from now on."""
        if self._registry is not None:
            self._registry.register(self)

    def close(self) -> None:
        """Show them no longer."""
        if self._registry is not None:
            self._registry.unregister(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing: several clients may live in one test process, under the same names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """One reading of everything."""
        now = self._statistics()
        yield _seconds("clock_error_bound_seconds", "Half-width of the interval around true time.", now.error_ns)
        yield _seconds("clock_last_sync_age_seconds", "Age of the last report or valid round.", now.sync_age_ns)
        yield _seconds("clock_slew_remaining_seconds", "Offset that is still being worked off.", now.slew_left_ns)
        yield _seconds("hlc_lead_seconds", "How far the hybrid logical clock leads physical time.", now.hlc_lead_ns)
        yield GaugeMetricFamily(
            "hlc_counter",
            "Counter part of the last hybrid logical timestamp.",
            value=now.hlc & ((1 << COUNTER_BITS) - 1),
        )
        yield GaugeMetricFamily(
            "clock_frequency_ppm", "Correction of the monotonic clock's rate.", value=now.frequency_ppb / 1000
        )
        yield CounterMetricFamily(
            "hlc_rejected", "Timestamps of peers that were too far ahead to be merged.", value=now.hlc_rejected
        )
        state = GaugeMetricFamily("clock_state", "1 for the state that the clock is in.", labels=["state"])
        for each in ClockState:
            state.add_metric([each.value], float(each is now.state))
        yield state
        yield self._timer.collect()


def _seconds(name: str, documentation: str, value_ns: int | None) -> GaugeMetricFamily:
    seconds = float("nan") if value_ns is None else value_ns / NANOSECONDS_PER_SECOND
    return GaugeMetricFamily(name, documentation, value=seconds)
