"""Which moments can be true time, if more than half of the sources are honest (T-29).

Each honest source's interval contains true time, so true time is covered by a majority of all intervals. The hull of the
points that a majority covers is therefore an interval that contains it, whatever the others say. Source: Marzullo and
Owicki, "Maintaining the Time in a Distributed System" (1983); RFC 5905 section 11.2.1.

Marzullo's smallest interval of greatest agreement is narrower, but one source that lies a little can pull it off true
time although it is outvoted; the hull cannot be pulled. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """Closed interval of time in nanoseconds."""

    low_ns: int
    high_ns: int

    @classmethod
    def around(cls, middle_ns: int, error_ns: int) -> Interval:
        """`middle_ns` ± `error_ns`."""
        return cls(middle_ns - error_ns, middle_ns + error_ns)

    @property
    def middle_ns(self) -> int:
        """The midpoint, rounded down."""
        return (self.low_ns + self.high_ns) // 2

    @property
    def error_ns(self) -> int:
        """Half the width, rounded up, so that `around` covers the interval again."""
        return (self.high_ns - self.low_ns + 1) // 2

    def overlaps(self, other: Interval) -> bool:
        """Whether they share a moment."""
        return self.low_ns <= other.high_ns and other.low_ns <= self.high_ns

    def intersection(self, other: Interval) -> Interval:
        """What both contain; they overlap."""
        return Interval(max(self.low_ns, other.low_ns), min(self.high_ns, other.high_ns))


def majority_of(count: int) -> int:
    """How many of `count` sources are strictly more than half."""
    return count // 2 + 1


def majority_interval(intervals: list[Interval]) -> Interval | None:
    """The hull of all moments that strictly more than half of `intervals` cover; None where no moment is."""
    needed = majority_of(len(intervals))
    # At the same moment an interval that begins counts before one that ends: closed intervals that touch agree.
    edges = sorted(
        [(interval.low_ns, 0, 1) for interval in intervals] + [(interval.high_ns, 1, -1) for interval in intervals]
    )
    low_ns: int | None = None
    high_ns = 0
    covered = 0
    for moment_ns, _, change in edges:
        if change < 0 and covered >= needed:
            high_ns = moment_ns
        covered += change
        if change > 0 and covered >= needed and low_ns is None:
            low_ns = moment_ns
    return None if low_ns is None else Interval(low_ns, high_ns)
