"""Smearing servers are left out for a day on either side of an announced leap second, and never else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.clock.leap import WINDOW_NS, LeapWatch, end_of_month_ns, is_smearing
from shared.contracts.time import Leap
from shared.units import NANOSECONDS_PER_SECOND


def ns(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp()) * NANOSECONDS_PER_SECOND


LEAP_NS = ns(2027, 1, 1)


def test_the_window_reaches_a_day_before_and_after_the_end_of_the_month() -> None:
    """An announcement in December opens the window on 31 December and closes it on 2 January, to the nanosecond."""
    watch = LeapWatch()
    watch.note([1, 1, 0], ns(2026, 12, 20))
    assert watch.announced is Leap.INSERT
    for offset_ns, expected in ((-WINDOW_NS - 1, False), (-WINDOW_NS, True), (0, True), (WINDOW_NS, True)):
        assert watch.is_in_window(LEAP_NS + offset_ns) is expected
    assert not watch.is_in_window(LEAP_NS + WINDOW_NS + 1)


def test_the_window_outlives_the_flag_and_a_late_flag_announces_nothing_new() -> None:
    """Servers drop the flag at the leap or some minutes later; neither ends the window early nor moves it."""
    watch = LeapWatch()
    watch.note([1, 1, 1], ns(2026, 12, 31, 12))
    watch.note([1, 1, 1], LEAP_NS + 300 * NANOSECONDS_PER_SECOND)
    watch.note([0, 0, 0], LEAP_NS + 600 * NANOSECONDS_PER_SECOND)
    assert watch.is_in_window(LEAP_NS + WINDOW_NS)
    watch.note([0, 0, 0], LEAP_NS + WINDOW_NS + 1)
    assert watch.announced is Leap.NONE
    assert not watch.is_in_window(ns(2027, 2, 1))


@pytest.mark.parametrize("indicators", [[], [0, 0, 0], [1, 0], [1, 0, 0], [1, 2]])
def test_half_or_less_of_the_sources_announces_nothing(indicators: list[int]) -> None:
    """One server that cries leap does not change who is asked."""
    watch = LeapWatch()
    watch.note(indicators, ns(2026, 12, 31))
    assert watch.announced is Leap.NONE
    assert not watch.is_in_window(LEAP_NS)


def test_months_end_where_they_end() -> None:
    """Leap seconds come at the end of a UTC month, December included."""
    assert end_of_month_ns(ns(2026, 6, 30, 23, 59, 59)) == ns(2026, 7, 1)
    assert end_of_month_ns(ns(2026, 12, 1)) == LEAP_NS


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("time.google.com", True),
        ("TIME.google.com.", True),
        ("time3.google.com", True),
        ("pool.ntp.org", False),
        ("time.windows.com", False),
        ("192.0.2.1", False),
    ],
)
def test_known_smearing_servers_are_recognised(name: str, expected: bool) -> None:
    """The names of the defaults fall on the right side."""
    assert is_smearing(name) is expected
