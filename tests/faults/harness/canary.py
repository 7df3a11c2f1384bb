"""Was this machine itself so slow that a result says nothing? A heartbeat of 20 ms in the driver's own loop tells.

What the driver does not notice in time it cannot judge: a run with a longer stall is inconclusive, never passed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BEAT_S = 0.02
STALL_S = 0.5


class Canary:
    """Measures how late this loop wakes."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    @property
    def has_stalled(self) -> bool:
        """Whether what was measured meanwhile is inconclusive."""
        return self.worst_s > STALL_S

    @asynccontextmanager
    async def singing(self) -> AsyncIterator[Canary]:
        """Measure while the body runs."""
        song = asyncio.ensure_future(self._sing())
        try:
            yield self
        finally:
            song.cancel()
            await asyncio.gather(song, return_exceptions=True)

    async def _sing(self) -> None:
        while True:
            due = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self.worst_s = max(self.worst_s, time.monotonic() - due)
