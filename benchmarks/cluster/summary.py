"""Medians, spreads and paired ratios of what the rounds measured. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.cluster.samples import RowSample


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of one figure over the rounds, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of this tree divided by that of the base, paired by round.

    Attributes:
        difference: median of the differences of the pairs, in the figure's unit.
        is_one_sided: every pair, not only the median, lies on one side of 1.
    """

    spread: Spread
    difference: float
    is_one_sided: bool

    @property
    def verdict(self) -> str:
        """`more` or `less` where every round agrees and the median is more than 5 % away from 1; else `same`."""
        if not self.is_one_sided or abs(self.spread.median - 1) <= _NOISE:
            return "same"
        return "more" if self.spread.median > 1 else "less"


_NOISE = 0.05
Figure = Callable[[RowSample], float]


def samples_of(samples: Sequence[RowSample], tree: str, row: str) -> list[RowSample]:
    """Those of one row on one tree, by round."""
    return sorted((s for s in samples if (s.tree, s.row) == (tree, row)), key=lambda sample: sample.round)


def paired_ratio(this: Sequence[RowSample], base: Sequence[RowSample], figure: Figure) -> Ratio:
    """The ratio of a figure over the rounds that both trees have.

    Rounds in which the base's figure is zero, or without a base, have no ratio. Raises ValueError: no round has one.
    """
    of_base = {sample.round: figure(sample) for sample in base}
    pairs = [(figure(sample), of_base[sample.round]) for sample in this if of_base.get(sample.round)]
    if not pairs:
        raise ValueError("no round was measured on both trees")
    ratios = [ours / theirs for ours, theirs in pairs]
    is_one_sided = all(ratio > 1 for ratio in ratios) or all(ratio < 1 for ratio in ratios)
    return Ratio(Spread.of(ratios), statistics.median(ours - theirs for ours, theirs in pairs), is_one_sided)


def median_cpu_ms(samples: Sequence[RowSample]) -> dict[str, float]:
    """Median CPU per operation of each process group, normalized."""
    normalized = [sample.normalized_cpu_ms for sample in samples]
    groups = {group: None for cpu_ms in normalized for group in cpu_ms}
    return {group: statistics.median(cpu_ms.get(group, 0.0) for cpu_ms in normalized) for group in groups}
