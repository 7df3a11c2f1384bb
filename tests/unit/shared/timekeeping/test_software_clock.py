"""The steered clock never goes back, and frequency is never claimed to be better known than it is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.timekeeping.frequency import (
    KNOWN_DRIFT_PPB,
    MIN_POINTS,
    STEADY_DRIFT_PPB,
    UNKNOWN_DRIFT_PPB,
    FrequencyEstimator,
)
from shared.timekeeping.software_clock import MAX_FREQUENCY_PPB, SLEW_PPB, SoftwareClock

SECOND_NS = 1_000_000_000
MS = 1_000_000
adjustments = st.tuples(
    st.integers(1, 10**12),
    st.integers(-(10**9), 10**9),
    st.integers(0, 10**9),
    st.integers(-2 * MAX_FREQUENCY_PPB, 2 * MAX_FREQUENCY_PPB),
)


def fresh_clock() -> SoftwareClock:
    return SoftwareClock(0, 10**18, frequency_ppb=0, slew_ns=0, error_ns=MS, drift_ppb=UNKNOWN_DRIFT_PPB)


@given(st.lists(adjustments, max_size=10), st.lists(st.integers(0, 5), max_size=20))
def test_readings_never_go_back_whatever_is_adjusted(
    steps: list[tuple[int, int, int, int]], nanoseconds: list[int]
) -> None:
    """Nanosecond by nanosecond and across adjustments, with frequency and slew at their limits against each other."""
    clock, now_ns, last_ns = fresh_clock(), 0, 0
    for after_ns, offset_ns, error_ns, frequency_ppb in steps:
        for step_ns in [*nanoseconds, after_ns]:
            now_ns += step_ns
            reading_ns = clock.utc_ns(now_ns)
            assert reading_ns >= last_ns
            last_ns = reading_ns
        clock = clock.adjusted(
            now_ns, offset_ns=offset_ns, error_ns=error_ns, frequency_ppb=frequency_ppb, drift_ppb=15_000
        )
        assert clock.utc_ns(now_ns) == last_ns


@given(st.integers(-(10**9), 10**9), st.integers(0, 4 * 10**12))
def test_the_slew_is_worked_off_at_its_rate_and_then_ends(offset_ns: int, elapsed_ns: int) -> None:
    """At every moment what was slewed and what is left add up to the offset, at 500 ppm and not faster."""
    clock = fresh_clock().adjusted(0, offset_ns=offset_ns, error_ns=0, frequency_ppb=0, drift_ppb=0)
    slewed_ns = clock.utc_ns(elapsed_ns) - clock.utc_ns(0) - elapsed_ns
    assert slewed_ns + clock.slew_left_ns(elapsed_ns) == pytest.approx(offset_ns, abs=2)
    assert abs(slewed_ns) <= elapsed_ns * SLEW_PPB // SECOND_NS + 1


def test_the_bound_is_error_plus_slew_left_plus_drift() -> None:
    """E(t) = E_sync + |slew left| + rho (t - t_sync)."""
    clock = fresh_clock().adjusted(0, offset_ns=-10 * MS, error_ns=3 * MS, frequency_ppb=0, drift_ppb=50_000)
    assert clock.error_bound_ns(0) == 13 * MS + 1
    assert clock.error_bound_ns(10 * SECOND_NS) == 3 * MS + 5 * MS + 500_000 + 1
    assert clock.error_bound_ns(60 * SECOND_NS) == 3 * MS + 3 * MS + 1


@pytest.mark.parametrize("seed", range(20))
def test_the_true_rate_is_within_the_claimed_drift(seed: int) -> None:
    """Random rates, errors and spacings: after every point the true correction is within drift of the estimate."""
    chance = random.Random(seed)
    rate_ppb = chance.randint(-200_000, 200_000)
    error_ns = chance.choice([100_000, MS, 20 * MS])
    estimator = FrequencyEstimator()
    now_ns = 0
    for _ in range(300):
        now_ns += round(chance.uniform(50, 70) * SECOND_NS)
        truth_ns = now_ns * (SECOND_NS + rate_ppb) // SECOND_NS
        estimator.add(now_ns, truth_ns + chance.randint(-error_ns, error_ns), error_ns)
        assert abs(estimator.frequency_ppb - rate_ppb) <= estimator.drift_ppb, f"seed {seed}"
    assert estimator.drift_ppb == STEADY_DRIFT_PPB


def test_nothing_is_known_before_ten_points() -> None:
    """However exact the points, nine are not enough; then the proof decides between unknown, known and steady."""
    drifts = []
    estimator = FrequencyEstimator()
    for index in range(200):
        estimator.add(index * 64 * SECOND_NS, index * 64 * SECOND_NS, 20 * MS)
        drifts.append(estimator.drift_ppb)
    assert set(drifts[: MIN_POINTS - 1]) == {UNKNOWN_DRIFT_PPB}
    assert drifts == sorted(drifts, reverse=True)
    assert set(drifts) == {UNKNOWN_DRIFT_PPB, KNOWN_DRIFT_PPB, STEADY_DRIFT_PPB}


def test_a_contradiction_forgets_everything() -> None:
    """A rate that changed makes the drift unknown again until it is proven anew."""
    estimator = FrequencyEstimator()
    for index in range(50):
        estimator.add(index * 64 * SECOND_NS, index * 64 * SECOND_NS, 100_000)
    assert estimator.drift_ppb == STEADY_DRIFT_PPB
    estimator.add(50 * 64 * SECOND_NS, 50 * 64 * SECOND_NS + 50 * MS, 100_000)
    assert (estimator.frequency_ppb, estimator.drift_ppb) == (0, UNKNOWN_DRIFT_PPB)
