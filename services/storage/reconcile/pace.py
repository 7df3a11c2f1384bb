"""How fast reconcile may work: below a rate, and in the gaps between requests while there are any."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

logger = structlog.get_logger(__name__)

_FOREGROUND_S: Final = 0.1
_WINDOW_S: Final = 60.0
_MIN_WINDOW_S: Final = 1.0
_SAID_EVERY_S: Final = 60.0


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


class Pace:
    """Tells the work when to go on."""

    def __init__(
        self, max_bytes_per_s: int, foreground: Foreground, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes_per_s = max_bytes_per_s
        self._foreground = foreground
        self._clock = clock

    def pause_s(self, size_bytes: int, worked_s: float) -> float:
        """How long to rest after `size_bytes` in `worked_s`. While requests come it works at most half of the time."""
        for_rate_s = size_bytes / self._max_bytes_per_s - worked_s
        return max(0.0, for_rate_s, worked_s if self._foreground.is_busy else 0.0)

    async def rest(self, size_bytes: int, began_s: float) -> None:
        """After work that began at `began_s` of the clock."""
        await asyncio.sleep(self.pause_s(size_bytes, self._clock() - began_s))


class Throughput:
    """Bytes per second over the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done: deque[tuple[float, int]] = deque()
        self._total_bytes = 0

    def record(self, size_bytes: int) -> None:
        """So many came now."""
        self._done.append((self._clock(), size_bytes))
        self._total_bytes += size_bytes
        self._forget()

    @property
    def bytes_per_s(self) -> int:
        """0 when nothing came in the last minute."""
        self._forget()
        if not self._done:
            return 0
        return int(self._total_bytes / max(_MIN_WINDOW_S, self._clock() - self._done[0][0]))

    def _forget(self) -> None:
        while self._done and self._done[0][0] < self._clock() - _WINDOW_S:
            self._total_bytes -= self._done.popleft()[1]


class Complaints:
    """Logs the same trouble once in a while, however often it happens."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, say: Callable[..., object] = logger.warning
    ) -> None:
        self._clock = clock
        self._say = say
        self._said_s: dict[tuple[str, str], float] = {}

    def warn(self, event: str, about: str, **facts: object) -> None:
        """Log `event`, unless it was said of `about` (a peer, a digest) a moment ago."""
        now_s = self._clock()
        self._said_s = {key: said_s for key, said_s in self._said_s.items() if now_s - said_s < _SAID_EVERY_S}
        if (event, about) not in self._said_s:
            self._said_s[event, about] = now_s
            self._say(event, about=about, **facts)

    def defect(self, event: str, error: Exception) -> None:
        """As `warn`, with the traceback."""
        self.warn(event, type(error).__name__, exc_info=error)
