"""How a moment is written down: an interval that contains true time, and a hybrid logical timestamp.

Timestamps describe, they never decide: the Raft index orders (docs/promises.md, P7).
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Protocol, TypedDict

from pydantic import Field

from shared.contracts.base import WireModel
from shared.units import NANOSECONDS_PER_SECOND


class ClockState(StrEnum):
    """What a published interval is worth."""

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
        return cls(**timestamp_fields(stamp))


class TimestampFields(TypedDict):
    """The fields of a `Timestamp`."""

    earliest: str | None
    latest: str | None
    hlc: str
    state: ClockState


def timestamp_fields(stamp: Stamp) -> TimestampFields:
    """What `Timestamp.from_stamp` shows, for an answer that is encoded without models."""
    return {
        "earliest": None if stamp.earliest_ns is None else rfc3339(stamp.earliest_ns),
        "latest": None if stamp.latest_ns is None else rfc3339(stamp.latest_ns + 999),
        "hlc": f"{stamp.hlc:016x}",
        "state": stamp.state,
    }


class SourceVerdict(StrEnum):
    """What the last round of a clock service made of one source of time."""

    OK = "ok"
    FALSETICKER = "falseticker"
    UNREACHABLE = "unreachable"
    REJECTED = "rejected"
    REFUSED = "refused"
    SMEARED = "smeared"


class TimeSourceReport(WireModel):
    """One source of a clock service, with its verdict.

    Attributes:
        name: as configured; `address` is the one of its addresses that is asked.
        verdict: `rejected` means that its last answer was not usable (`reason` says why), `refused` that it told us
            to stay away, `smeared` that it is left out around a leap second.
        offset_ns: its time minus the published time; None before its first usable answer.
        error_ns: half-width of its interval.
        drift_ppb: how its time runs against this host's monotonic clock, in parts per 10^9, once known.
    """

    name: str
    address: str
    verdict: SourceVerdict
    reason: str = ""
    offset_ns: int | None = None
    error_ns: int | None = None
    delay_ns: int | None = None
    drift_ppb: int | None = None
    stratum: int | None = None
    poll_s: int | None = None


class SourceCounts(WireModel):
    """How many sources agree with the published time, contradict it, or cannot be used now."""

    ok: int = Field(ge=0)
    false: int = Field(ge=0)
    unreachable: int = Field(ge=0)


class Leap(StrEnum):
    """A leap second that the majority of sources announces for the end of this UTC month."""

    NONE = "none"
    INSERT = "insert"
    DELETE = "delete"


class TimeReport(WireModel):
    """What a clock service publishes (GET /v1/time, signed).

    Attributes:
        earliest_ns, latest_ns: true time lies between them, in nanoseconds since the Unix epoch; None while INIT or
            LOGICAL, as is `error_ns`, half their distance.
        utc_ns: the midpoint; while INIT or LOGICAL the host's own clock, unverified. Never goes back within an epoch.
        hlc: a new hybrid logical timestamp of the service.
        hlc_lead_ns: how far `hlc` leads because the service started above its persisted bound; 0 otherwise.
        epoch: grows with every discontinuity of `utc_ns`: first synchronisation, step, return from LOGICAL.
        reasons: why the state is not SYNCED, in sentences for people.
    """

    earliest_ns: int | None
    latest_ns: int | None
    utc_ns: int
    error_ns: int | None
    state: ClockState
    hlc: int = Field(ge=0, lt=1 << 64)
    hlc_lead_ns: int = Field(ge=0)
    epoch: int = Field(ge=0)
    sources: SourceCounts
    source_reports: list[TimeSourceReport] = Field(default_factory=list, max_length=64)
    leap: Leap
    reasons: list[str] = Field(default_factory=list, max_length=64)


class TimeSource(Protocol):
    """Who stamps operations. `shared.timekeeping.time_client.TimeClient` is the real one; it never makes a call per stamp."""

    def stamp(self) -> Stamp:
        """A stamp whose hlc is greater than that of every stamp this process gave or received before."""


def rfc3339(unix_ns: int) -> str:
    """`unix_ns` as RFC 3339 text in UTC, truncated to microseconds: `2026-11-22T17:05:09.123456Z`."""
    second, microseconds = divmod(unix_ns // 1000, 1_000_000)
    return f"{_second_text(second)}.{microseconds:06d}Z"


@lru_cache(maxsize=1024)
def _second_text(unix_s: int) -> str:
    """Changes come many in a second, in the order of their times."""
    minutes, second = divmod(unix_s, 60)
    return f"{_minute_text(minutes)}{second:02d}"


@lru_cache(maxsize=1024)
def _minute_text(unix_minutes: int) -> str:
    """A page of a list has a thousand times, most of them close together."""
    return f"{datetime.fromtimestamp(unix_minutes * 60, UTC):%Y-%m-%dT%H:%M:}"
