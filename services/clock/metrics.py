"""The Prometheus metrics that only a clock service has: about its sources, its steps and its drift."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from services.clock.service import ClockService
from shared.contracts.time import TimeSourceReport
from shared.units import NANOSECONDS_PER_SECOND


class SourceMetrics:
    """A Prometheus collector that reads the service when scraped."""

    def __init__(self, clock: ClockService, registry: CollectorRegistry) -> None:
        self._clock = clock
        self._registry = registry

    def open(self) -> None:
        """Show the metrics from now on."""
        self._registry.register(self)

    def close(self) -> None:
        """Show them no longer."""
        self._registry.unregister(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing: several services may live in one test process, under the same names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """One reading of everything."""
        synchronizer = self._clock.synchronizer
        reports = synchronizer.reports()
        yield _per_source(
            "clock_offset_seconds",
            "A source's time minus the published time, at the last round.",
            {_label(each): each.offset_ns for each in reports},
            NANOSECONDS_PER_SECOND,
        )
        yield _per_source(
            "clock_source_drift_ppm",
            "How a source's time runs against this host's monotonic clock, once known.",
            {_label(each): each.drift_ppb for each in reports},
            1000,
        )
        yield _per_source(
            "ntp_rtt_seconds",
            "Network time there and back of the last usable answer.",
            {_label(each): each.delay_ns for each in reports},
            NANOSECONDS_PER_SECOND,
        )
        yield _per_source(
            "ntp_poll_seconds", "How often a source is asked.", {_label(each): each.poll_s for each in reports}, 1
        )
        samples = CounterMetricFamily("ntp_samples", "Exchanges by verdict.", labels=["source", "result"])
        for (source, result), count in sorted(synchronizer.samples.items()):
            samples.add_metric([source, result], count)
        yield samples
        discipline = synchronizer.discipline
        yield CounterMetricFamily("clock_steps", "Forward steps of the software clock.", value=discipline.steps)
        yield CounterMetricFamily("clock_jumps", "Jumps of the host's clock that were noticed.", value=discipline.jumps)
        yield CounterMetricFamily(
            "clock_refusals", "Rounds refused because the sources are too far away.", value=discipline.refusals
        )


def _label(report: TimeSourceReport) -> str:
    return report.address if report.address not in ("", "local") else report.name


def _per_source(name: str, documentation: str, values: dict[str, int | None], divisor: int) -> Metric:
    metric = GaugeMetricFamily(name, documentation, labels=["source"])
    for source, value in values.items():
        if value is not None:
            metric.add_metric([source], value / divisor)
    return metric
