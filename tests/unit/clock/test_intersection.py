"""The majority interval contains true time whenever a majority is honest, and agrees with brute force."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.clock.intersection import Interval, majority_interval, majority_of

small = st.integers(min_value=-12, max_value=12)
intervals = st.lists(st.tuples(small, small).map(lambda pair: Interval(min(pair), max(pair))), max_size=7)


@given(intervals)
def test_it_is_the_hull_of_what_a_majority_covers(given_intervals: list[Interval]) -> None:
    """Checked against counting, for every moment, how many intervals cover it."""
    needed = majority_of(len(given_intervals))
    covered = [
        moment
        for moment in range(-13, 14)
        if sum(each.low_ns <= moment <= each.high_ns for each in given_intervals) >= needed
    ]
    found = majority_interval(given_intervals)
    assert found == (Interval(covered[0], covered[-1]) if covered else None)


@given(st.integers(min_value=0, max_value=10**19), st.data())
def test_liars_in_the_minority_cannot_exclude_true_time(truth_ns: int, data: st.DataObject) -> None:
    """More than half honest, the rest anything at all: true time is inside."""
    errors = data.draw(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=7))
    honest = [Interval(truth_ns - below, truth_ns + above) for below, above in errors]
    lies = data.draw(
        st.lists(
            st.tuples(st.integers(-(10**10), 10**10), st.integers(0, 10**9)).map(
                lambda lie: Interval.around(truth_ns + lie[0], lie[1])
            ),
            max_size=len(honest) - 1,
        )
    )
    everyone = data.draw(st.permutations(honest + lies))
    found = majority_interval(everyone)
    assert found is not None
    assert found.low_ns <= truth_ns <= found.high_ns


def test_a_subtle_liar_cannot_pull_the_interval_off_true_time() -> None:
    """Three honest sources and one that overlaps two of them: the greatest agreement of all four would exclude the truth."""
    honest = [Interval(-10, 1), Interval(-9, 10), Interval(-8, 12)]
    liar = Interval(-30, -2)
    found = majority_interval([*honest, liar])
    assert found is not None
    assert found.low_ns <= 0 <= found.high_ns


def test_half_is_no_majority() -> None:
    """Two against two agree on nothing; three of four do."""
    left, right = Interval(0, 1), Interval(10, 11)
    assert majority_interval([left, left, right, right]) is None
    assert majority_interval([left, left, left, right]) == left
    assert majority_interval([]) is None


def test_intervals_that_touch_agree() -> None:
    """Intervals are closed: one shared moment is enough."""
    assert majority_interval([Interval(0, 5), Interval(5, 9)]) == Interval(5, 5)
    assert majority_interval([Interval(0, 5), Interval(6, 9)]) is None


@given(small, small)
def test_middle_and_error_cover_the_interval_again(low: int, width: int) -> None:
    """Rounding never narrows."""
    interval = Interval(low, low + abs(width))
    again = Interval.around(interval.middle_ns, interval.error_ns)
    assert again.low_ns <= interval.low_ns
    assert again.high_ns >= interval.high_ns
