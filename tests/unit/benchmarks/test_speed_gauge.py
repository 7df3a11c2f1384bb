"""`benchmarks.cluster.speed_gauge`, and what `measure` makes of its readings."""

from __future__ import annotations

import pytest

from benchmarks.cluster.measure import Reading, spent_between
from benchmarks.cluster.speed_gauge import GaugeReading, speed_gauge
from tests.waiting import block_until


def reading(at_s: float, *, busy_s: float = 0.0, gauge: GaugeReading) -> Reading:
    return Reading(at_s, ({"gateway-1": 0},), busy_s, 0.0, gauge.cpu_ns, gauge)


def test_the_gauge_counts_until_its_context_ends(tmp_path) -> None:
    """A process of its own; every reading is of whole works."""
    with speed_gauge(tmp_path) as gauge:
        first = gauge.read()
        block_until(lambda: gauge.read().count >= first.count + 5, "works are counted")
        last = gauge.read()
    assert last.count > first.count >= 1
    assert 0 < (last.cpu_ns - first.cpu_ns) / (last.count - first.count) < 100e6


def test_what_the_work_cost_between_two_readings_is_its_mean() -> None:
    """200 works of 300 µs; they are no other load."""
    before = reading(0.0, gauge=GaugeReading(100, 10_000_000))
    after = reading(2.0, busy_s=0.06, gauge=GaugeReading(300, 70_000_000))
    spent = spent_between(before, after)
    assert spent.gauge_us == 300.0
    assert spent.other_cores == pytest.approx(0.0, abs=1e-9)


def test_a_stretch_without_a_work_has_no_speed() -> None:
    """Unknown, not zero."""
    at = GaugeReading(100, 10_000_000)
    assert spent_between(reading(0.0, gauge=at), reading(0.001, gauge=at)).gauge_us is None
