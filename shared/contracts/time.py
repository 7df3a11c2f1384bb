"""How a moment is written down: an interval that contains true time, and a hybrid logical timestamp.

Timestamps describe, they never decide: the Raft index orders (DESIGN.md, P7).
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from pydantic import Field

from shared.contracts.base import WireModel
from shared.units import NANOSECONDS_PER_SECOND


class ClockState(StrEnum):
    """What a published interval is worth (TIME.md)."""

    INIT = "INIT"
    SYNCED = "SYNCED"
    HOLDOVER = "HOLDOVER"
    LOGICAL = "LOGICAL"


class Stamp(WireModel):
    """One moment, in integers, as log entries and versions carry it.

    Attributes:
        earliest_ns: lower bound of true time in nanoseconds since the Unix epoch; None while LOGICAL or INIT.
        latest_ns: upper bound, likewise.
        hlc: hybrid logical timestamp, 64 bits: 48 bits of 2^-16 s since the Unix epoch, then a 16-bit counter.
        state: what the interval is worth.
    """

    earliest_ns: int | None = None
    latest_ns: int | None = None
    hlc: int = Field(ge=0, lt=1 << 64)
    state: ClockState

    @property
    def approximate_ns(self) -> int:
        """The physical part of `hlc` in nanoseconds since the Unix epoch; good for people, not for order."""
        return (self.hlc >> 16) * NANOSECONDS_PER_SECOND >> 16


class Timestamp(WireModel):
    """A `Stamp` as receipts show it: RFC 3339 in UTC with microseconds, and the hlc as 16 hex digits."""

    earliest: str | None
    latest: str | None
    hlc: str
    state: ClockState

    @classmethod
    def from_stamp(cls, stamp: Stamp) -> Timestamp:
        """Render `stamp`; the interval is widened, never narrowed, by the rounding to microseconds."""
        return cls(
            earliest=None if stamp.earliest_ns is None else rfc3339(stamp.earliest_ns),
            latest=None if stamp.latest_ns is None else rfc3339(stamp.latest_ns + 999),
            hlc=f"{stamp.hlc:016x}",
            state=stamp.state,
        )


class TimeSource(Protocol):
    """Who stamps operations. `shared.time_client.TimeClient` is the real one; it never makes a call per stamp."""

    def stamp(self) -> Stamp:
        """A stamp whose hlc is greater than that of every stamp this process gave or received before."""


def rfc3339(unix_ns: int) -> str:
    """`unix_ns` as RFC 3339 text in UTC, truncated to microseconds: `2026-11-22T17:05:09.123456Z`."""
    seconds, rest_ns = divmod(unix_ns, NANOSECONDS_PER_SECOND)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z"
