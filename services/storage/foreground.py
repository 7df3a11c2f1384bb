"""Whether requests come, to which all other work yields; and the turns of what other nodes pull, which is such work.

A node that is repaired knows how busy it is itself, and not how busy those are from which it fetches. So they yield, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

_FOREGROUND_S: Final = 1.0
"""A shorter gap between two requests says nothing: repair at full speed would meet the next one."""
_AT_ONCE: Final = 2
_MAX_REST_S: Final = 0.1
"""A pull that waited for something else than this node must not keep the next one waiting until it gives up."""


class Foreground:
    """When a request about chunks came last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s = -_FOREGROUND_S

    def record(self) -> None:
        """One came now."""
        self._last_s = self._clock()

    @property
    def is_busy(self) -> bool:
        """Whether one came within the last moment."""
        return self._clock() - self._last_s < _FOREGROUND_S


class PullTurns:
    """Serves what other nodes pull: a few at a time, and while requests come no more than half of the time."""

    def __init__(self, foreground: Foreground, clock: Callable[[], float] = time.monotonic) -> None:
        self._foreground = foreground
        self._clock = clock
        self._places = asyncio.Semaphore(_AT_ONCE)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a place, and keep it for a rest behind the block while requests come."""
        async with self._places:
            began_s = self._clock()
            yield
            if self._foreground.is_busy:
                await asyncio.sleep(min(_MAX_REST_S, self._clock() - began_s))
