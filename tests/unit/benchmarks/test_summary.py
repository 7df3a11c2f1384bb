"""`benchmarks.cluster.summary`: medians and spreads, and ratios that are paired by round."""

from __future__ import annotations

import pytest

from benchmarks.cluster.rows import sensitivity_of
from benchmarks.cluster.sensitivity import slope
from benchmarks.cluster.speed_gauge import REFERENCE_US
from benchmarks.cluster.summary import Spread, median_cpu_ms, paired_ratio, samples_of


def cpu_of(sample):
    return sample.total_cpu_ms


def test_a_spread_is_the_median_between_the_extremes() -> None:
    """Even numbers of rounds have a median, too."""
    assert Spread.of([4.0, 1.0, 2.0, 9.0]) == Spread(3.0, 1.0, 9.0)
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 5.0)


def test_a_ratio_pairs_rounds_and_not_medians(make_sample) -> None:
    """The machine is slower in round 2 for both trees: the ratio is the same in both rounds."""
    this = [make_sample(round=1, cpu_ms={"gateway": 1.1}), make_sample(round=2, cpu_ms={"gateway": 4.4})]
    base = [make_sample(round=2, cpu_ms={"gateway": 4.0}), make_sample(round=1, cpu_ms={"gateway": 1.0})]
    ratio = paired_ratio(this, base, cpu_of)
    assert (ratio.spread.low, ratio.spread.high) == (pytest.approx(1.1), pytest.approx(1.1))
    assert ratio.difference == pytest.approx(0.25)
    assert ratio.verdict == "more"


def test_figures_are_told_at_one_speed_of_the_machine(make_sample) -> None:
    """Where the gauge's work costs more, the same requests do, by more than it; where it was not done, nothing is changed."""
    fast = make_sample(cpu_ms={"gateway": 1.0, "storage": 0.5})
    slow = make_sample(cpu_ms={"gateway": 8.0, "storage": 4.0}, gauge_us=4 * REFERENCE_US)
    assert sensitivity_of(slow.row) == 1.5
    assert slow.normalized_cpu_ms == fast.normalized_cpu_ms == fast.cpu_ms
    assert (slow.speed, slow.measured_cpu_ms, slow.total_cpu_ms) == (0.25, 12.0, 1.5)
    unknown = make_sample(cpu_ms={"gateway": 2.0}, gauge_us=None)
    assert (unknown.speed, unknown.total_cpu_ms) == (None, 2.0)
    assert median_cpu_ms([fast, slow]) == {"gateway": 1.0, "storage": 0.5}


def test_a_row_that_is_not_known_goes_with_the_gauge(make_sample) -> None:
    """A result of another version may have it."""
    assert make_sample(row="another", cpu_ms={"gateway": 2.0}, gauge_us=2 * REFERENCE_US).total_cpu_ms == 1.0


def test_a_faster_revision_is_not_taken_for_a_faster_machine() -> None:
    """The slope is that of each revision's own rounds; one of too few rounds says nothing."""
    old = [(x, 2 * x + 5) for x in (1.0, 2.0, 3.0)]
    new = [(x, 2 * x) for x in (4.0, 5.0, 6.0)]
    assert slope([old, new, [(0.0, 100.0)]]) == pytest.approx(2.0)
    assert slope([[(1.0, 2.0)], []]) is None


def test_a_round_that_only_one_tree_has_is_left_out(make_sample) -> None:
    """And so is one in which the base's figure is zero, which has no ratio."""
    this = [make_sample(round=number, cpu_ms={"gateway": 2.0}) for number in (1, 2, 3)]
    base = [make_sample(round=1, cpu_ms={"gateway": 1.0}), make_sample(round=2, cpu_ms={"gateway": 0.0})]
    assert paired_ratio(this, base, cpu_of).spread == Spread(2.0, 2.0, 2.0)


def test_no_pair_at_all_is_an_error(make_sample) -> None:
    """Rather than a ratio of nothing."""
    with pytest.raises(ValueError, match="no round"):
        paired_ratio([make_sample(round=1)], [make_sample(round=2)], cpu_of)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.04, 1.049, 1.05], "same"),  # every round agrees, but by no more than the noise
        ([1.06, 1.07, 1.30], "more"),
        ([0.99, 1.20, 1.30], "same"),  # one round disagrees
        ([0.80, 0.90, 0.94], "less"),
        ([0.90, 1.00, 0.80], "same"),
    ],
)
def test_a_verdict_needs_every_round_and_more_than_noise(make_sample, ratios, verdict) -> None:
    """Both sides of each edge."""
    this = [make_sample(round=number, cpu_ms={"gateway": ratio}) for number, ratio in enumerate(ratios)]
    base = [make_sample(round=number, cpu_ms={"gateway": 1.0}) for number in range(len(ratios))]
    assert paired_ratio(this, base, cpu_of).verdict == verdict


def test_samples_are_those_of_one_row_and_tree_by_round(make_sample) -> None:
    """In the order of the rounds, whatever the order of measuring."""
    wanted = [make_sample(round=2), make_sample(round=1)]
    others = [make_sample(tree="base"), make_sample(row="idle")]
    assert samples_of([*others, *wanted], "this", "get-4k-x16") == wanted[::-1]


def test_the_median_of_a_group_counts_rounds_in_which_it_was_missing(make_sample) -> None:
    """As nothing used."""
    samples = [
        make_sample(cpu_ms={"leader": 3.0}),
        make_sample(cpu_ms={"leader": 1.0, "redis": 2.0}),
        make_sample(cpu_ms={}),
    ]
    assert median_cpu_ms(samples) == {"leader": 1.0, "redis": 0.0}
