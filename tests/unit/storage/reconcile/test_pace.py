"""Reconcile stays below its rate, and yields while requests come."""

from __future__ import annotations

import pytest

from services.storage.foreground import Foreground
from services.storage.reconcile.pace import Complaints, Pace, PullPace, Throughput
from shared.units import KIB, MIB


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_it_rests_until_the_rate_is_kept():
    """What the work took counts."""
    pace = Pace(1000, Foreground(Clock()), Clock())
    assert pace.pause_s(500, 0.1) == 0.4
    assert pace.pause_s(500, 0.5) == pace.pause_s(500, 2.0) == 0


def test_while_requests_come_it_rests_longer_than_it_worked():
    """A moment after the last one it does not."""
    clock = Clock()
    foreground = Foreground(clock)
    pace = Pace(1_000_000, foreground, clock)
    assert pace.pause_s(10, 0.2) == 0
    foreground.record()
    clock.now_s += 0.9
    assert pace.pause_s(10, 0.2) == pytest.approx(0.6)
    clock.now_s += 0.2
    assert pace.pause_s(10, 0.2) == 0


def test_work_that_nobody_waits_for_is_spread():
    """In slices of five milliseconds it would otherwise be over at once, and requests would see that."""
    clock = Clock()
    foreground = Foreground(clock)
    pace = Pace(1_000_000, foreground, clock)
    assert pace.deletion_pause_s(64, 0.005) == 0
    foreground.record()
    assert 0.005 + pace.deletion_pause_s(64, 0.005) == pytest.approx(64 / 400)
    assert pace.deletion_pause_s(64, 0.2) == pytest.approx(0.4)


def busy(max_bytes_per_s: int = 64 * MIB) -> PullPace:
    foreground = Foreground(Clock())
    foreground.record()
    return Pace(max_bytes_per_s, foreground, Clock()).pulls()


@pytest.mark.parametrize(
    ("chunks", "size_bytes"), [(1000, 1000 * MIB), (750, 750 * MIB), (100_000, 100_000 * 4 * KIB), (25_000, 25_000)]
)
def test_what_is_missing_comes_back_within_half_a_minute_of_work_and_rest(chunks, size_bytes):
    """While requests come; in twenty slices a second, with a rest behind each."""
    pace = busy()
    pace.expect(chunks, size_bytes)
    cost_bytes = pace.cost_bytes(size_bytes // chunks)
    at_once = max(1, pace.slice_bytes(4 * MIB) // cost_bytes)
    took_s = 0.005 + pace.pause_s(at_once * cost_bytes, 0.005)
    assert pace.slice_bytes(4 * MIB) <= 2 * MIB
    assert 25 <= took_s * chunks / at_once <= 33


def test_a_machine_that_cannot_keep_up_pulls_half_of_the_time():
    """Not all of it: requests need the rest."""
    pace = busy()
    pace.expect(100_000, 100_000)
    assert pace.pause_s(10_000, 5.0) == 5.0


def test_the_last_ones_are_not_pulled_more_slowly_than_the_first():
    """By the rate of what is left the end would never come; and a few chunks are back within seconds."""
    pace = busy()
    pace.expect(1000, 1000 * MIB)
    before_s = pace.pause_s(MIB, 0)
    pace.expect(1, MIB)
    assert pace.pause_s(MIB, 0) == before_s
    few = busy()
    few.expect(5, 5)
    assert 5 * few.pause_s(few.cost_bytes(1), 0) < 0.1


def test_pulls_stay_below_the_rate_of_the_operator():
    """Whatever is missing."""
    pace = busy(5_000_000)
    pace.expect(1000, 1000 * MIB)
    assert pace.pause_s(5_000_000, 0) == 1.0


def test_without_requests_pulls_take_large_slices_and_no_rests():
    """But those of the rate."""
    pace = Pace(1_000_000, Foreground(Clock()), Clock()).pulls()
    pace.expect(10, 10)
    assert pace.slice_bytes(4 * MIB) == 4 * MIB
    assert pace.cost_bytes(100) == 100
    assert pace.pause_s(100, 0.2) == 0
    assert pace.pause_s(500_000, 0.2) == pytest.approx(0.3)


def test_the_rate_is_of_the_last_minute():
    """And 0 when nothing came in it."""
    clock = Clock()
    throughput = Throughput(clock)
    assert throughput.bytes_per_s == 0
    throughput.record(500)
    assert throughput.bytes_per_s == 500
    clock.now_s += 10
    throughput.record(500)
    assert throughput.bytes_per_s == 100
    clock.now_s += 55
    assert throughput.bytes_per_s == 500 // 55
    clock.now_s += 60
    assert throughput.bytes_per_s == 0


def test_the_same_trouble_is_logged_once_in_a_while():
    """Of each peer."""
    clock = Clock()
    said = []
    complaints = Complaints(clock, lambda event, **facts: said.append((event, facts["about"])))
    for _ in range(3):
        complaints.warn("wrong", "n1")
    complaints.warn("wrong", "n2")
    assert said == [("wrong", "n1"), ("wrong", "n2")]
    clock.now_s += 61
    complaints.warn("wrong", "n1")
    assert len(said) == 3
