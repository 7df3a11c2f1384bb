"""This host's two clocks, behind one small Protocol, so that everything that reads time can be run on invented time.

The wall clock may jump and lie; the monotonic clock never goes back and has no meaning of its own. Both are needed: the
monotonic one carries disciplined time, the wall clock is the fallback and reveals suspends.
"""

from __future__ import annotations

import time
from typing import Protocol


class HostClock(Protocol):
    """Reads the clocks of a host; both reads cost well under a microsecond."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch, as the host believes; may jump either way."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary moment; never goes back within a boot."""


class SystemHostClock:
    """The kernel's clocks."""

    def wall_ns(self) -> int:
        """CLOCK_REALTIME. This is the one place in Trivet that reads it."""
        return time.time_ns()  # noqa: TID251

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()
