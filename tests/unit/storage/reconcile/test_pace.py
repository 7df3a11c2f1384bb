"""Reconcile stays below its rate, and takes half of the time while requests come."""

from __future__ import annotations

from services.storage.reconcile.pace import Complaints, Foreground, Pace, Throughput


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_it_rests_until_the_rate_is_kept():
    """What the work took counts."""
    pace = Pace(1000, Foreground(Clock()), Clock())
    assert pace.pause_s(500, 0.1) == 0.4
    assert pace.pause_s(500, 0.5) == pace.pause_s(500, 2.0) == 0


def test_while_requests_come_it_rests_as_long_as_it_worked():
    """A moment after the last one it does not."""
    clock = Clock()
    foreground = Foreground(clock)
    pace = Pace(1_000_000, foreground, clock)
    assert pace.pause_s(10, 0.2) == 0
    foreground.record()
    clock.now_s += 0.09
    assert pace.pause_s(10, 0.2) == 0.2
    clock.now_s += 0.02
    assert pace.pause_s(10, 0.2) == 0


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
