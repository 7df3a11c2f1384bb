"""A gateway whose host's clock was set back: `python -m tests.integration.gateway.late_gateway SECONDS`."""

from __future__ import annotations

import sys

from services.gateway.main import main
from shared.timekeeping.host_clock import SystemHostClock


def set_back(seconds: int) -> None:
    """From now on this process' wall clock is late."""
    true_ns = SystemHostClock.wall_ns
    SystemHostClock.wall_ns = lambda clock: true_ns(clock) - seconds * 1_000_000_000  # type: ignore[method-assign]


if __name__ == "__main__":
    set_back(int(sys.argv[1]))
    main()
