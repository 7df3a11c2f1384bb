"""Timestamps that follow physical time and never go back: the hybrid logical clock.

It exists because wall clocks jump: a stamp must be greater than everything its process has given or seen before, and
yet readable as a time. Source: Kulkarni et al., "Logical Physical Clocks" (2014). Pure: physical time is handed in.

A timestamp is one 64-bit integer: 48 bits count 2^-16 s since the Unix epoch, the low 16 bits count events within such a
tick. So comparing integers compares timestamps, adding one is the next event, and a full counter carries into the
physical part by itself. Equal timestamps of two nodes are told apart by their node ids.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from shared.units import NANOSECONDS_PER_SECOND

COUNTER_BITS: Final = 16
TICK_BITS: Final = 16
MAX_HLC: Final = (1 << 64) - 1

MAX_AHEAD_NS: Final = 500_000_000
"""How far ahead of our physical time a peer's timestamp may be, while our time is verified."""

WARN_AHEAD_NS: Final = 400_000_000

MAX_CREDIBLE_NS: Final = 100 * 366 * 86_400 * NANOSECONDS_PER_SECOND
"""No clock is a century ahead; without this limit one forged timestamp could use up the 64 bits while unverified."""


class Reception(StrEnum):
    """What became of a peer's timestamp."""

    MERGED = "merged"
    MERGED_FAR = "merged_far"
    REJECTED = "rejected"


def hlc_from_ns(unix_ns: int) -> int:
    """The first timestamp of the tick that contains `unix_ns` (nanoseconds since the Unix epoch, not negative)."""
    return ((unix_ns << TICK_BITS) // NANOSECONDS_PER_SECOND) << COUNTER_BITS


def ns_from_hlc(hlc: int) -> int:
    """The physical part of `hlc` in nanoseconds since the Unix epoch, rounded down."""
    return ((hlc >> COUNTER_BITS) * NANOSECONDS_PER_SECOND) >> TICK_BITS


class HybridLogicalClock:
    """The clock of one process.

    Invariant: `last` never decreases, and every timestamp given is greater than `last` was before.
    """

    __slots__ = ("last",)

    def __init__(self, floor: int = 0) -> None:
        """Start above `floor`, the greatest timestamp that an earlier life may have given."""
        self.last = floor

    def now(self, physical_ns: int) -> int:
        """The next timestamp: not before `physical_ns`, and after everything given or merged so far."""
        self.last = max(hlc_from_ns(physical_ns), self.last + 1)
        return self.last

    def receive(self, remote: int, physical_ns: int, *, is_verified: bool, announced_lead_ns: int = 0) -> Reception:
        """Take note of a peer's timestamp, so that ours are greater from now on.

        Args:
            remote: the peer's timestamp.
            physical_ns: our physical time.
            is_verified: whether our physical time is; if not, we cannot blame a peer for being ahead of it.
            announced_lead_ns: how far the peer says to lead because it restarted above its persisted bound.
        """
        ahead_ns = ns_from_hlc(remote) - physical_ns
        limit_ns = MAX_AHEAD_NS + announced_lead_ns if is_verified else MAX_CREDIBLE_NS
        if ahead_ns > limit_ns or not 0 <= remote <= MAX_HLC:
            return Reception.REJECTED
        self.last = max(self.last, remote)
        return Reception.MERGED_FAR if is_verified and ahead_ns > WARN_AHEAD_NS else Reception.MERGED

    def raise_floor(self, floor: int) -> None:
        """Give only timestamps greater than `floor` from now on, however far ahead it is."""
        self.last = max(self.last, min(floor, MAX_HLC - 1))

    def lead_ns(self, physical_ns: int) -> int:
        """How far the last timestamp is ahead of `physical_ns`; 0 when it is not."""
        return max(0, ns_from_hlc(self.last) - physical_ns)
