"""How fast reconcile may work: below a rate, and in the gaps between requests while there are any (S-134)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from services.storage.foreground import Foreground

logger = structlog.get_logger(__name__)

_REST_FACTOR: Final = 3
"""While requests come, a rest is so many times as long as the work before it."""
_DELETION_REST_FACTOR: Final = 2
"""The same of deletion, most of which is waiting for the journal of the file system."""
_PATIENT_CHUNKS_PER_S: Final = 400
"""What is deleted at most, while requests come and nobody waits for the space."""
_RESTORE_S: Final = 30.0
"""In which a gigabyte that is missing, or less, comes back while requests come: half of what it may take (docs/operations.md)."""
_RESTORED_BYTES: Final = 10**9
_CHUNK_BYTES: Final = 10_000
"""A small chunk costs about as much as these bytes of a large one."""
_MIN_BYTES_PER_S: Final = 4_000_000
_PULLS_PER_S: Final = 20
"""Slices that a second of pulls is cut into while requests come."""
_MIN_SLICE_BYTES: Final = 64 * _CHUNK_BYTES
"""With less in it, a slice costs more for itself than for its chunks: a question to each source, a transaction here."""
_WINDOW_S: Final = 60.0
_MIN_WINDOW_S: Final = 1.0
_SAID_EVERY_S: Final = 60.0


class Pace:
    """Tells the work when to go on."""

    def __init__(
        self, max_bytes_per_s: int, foreground: Foreground, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes_per_s = max_bytes_per_s
        self._foreground = foreground
        self._clock = clock

    @property
    def is_busy(self) -> bool:
        """Whether requests come, which the work must yield to."""
        return self._foreground.is_busy

    def pause_s(self, size_bytes: int, worked_s: float) -> float:
        """How long to rest after `size_bytes` in `worked_s`."""
        for_rate_s = size_bytes / self._max_bytes_per_s - worked_s
        return max(0.0, for_rate_s, _REST_FACTOR * worked_s if self.is_busy else 0.0)

    async def rest(self, size_bytes: int, began_s: float) -> None:
        """After work that began at `began_s` of the clock."""
        await asyncio.sleep(self.pause_s(size_bytes, self._clock() - began_s))

    def deletion_pause_s(self, patient_chunks: int, worked_s: float) -> float:
        """How long to rest after a deletion of so many chunks that has time, or none, in `worked_s`."""
        if not self.is_busy:
            return 0.0
        return max(patient_chunks / _PATIENT_CHUNKS_PER_S - worked_s, _DELETION_REST_FACTOR * worked_s)

    async def rest_after_deletion(self, patient_chunks: int, began_s: float) -> None:
        """After a deletion that began at `began_s` of the clock; see `deletion_pause_s`."""
        await asyncio.sleep(self.deletion_pause_s(patient_chunks, self._clock() - began_s))

    def pulls(self) -> PullPace:
        """The pace of one walk over what is missing."""
        return PullPace(self, self._max_bytes_per_s, self._clock)


class PullPace:
    """How fast missing chunks are fetched. While requests come: as slowly as the time in which all must be back permits.

    A replica that is missing is a risk, and a request that waits is not, so it has a lower bound, too: half of the time.
    """

    def __init__(self, pace: Pace, max_bytes_per_s: int, clock: Callable[[], float]) -> None:
        self._pace = pace
        self._max_bytes_per_s = max_bytes_per_s
        self._clock = clock
        self._needed_bytes_per_s = _MIN_BYTES_PER_S

    def expect(self, chunks: int, size_bytes: int) -> None:
        """So much is missing now. The rate that it needs only rises: by the rest of it, the end would never come."""
        needed = int(min(_RESTORED_BYTES, max(size_bytes, chunks * _CHUNK_BYTES)) / _RESTORE_S)
        self._needed_bytes_per_s = min(self._max_bytes_per_s, max(self._needed_bytes_per_s, needed))

    def slice_bytes(self, most_bytes: int) -> int:
        """How much to fetch before the next rest, by `cost_bytes`."""
        wanted_bytes = max(_MIN_SLICE_BYTES, self._needed_bytes_per_s // _PULLS_PER_S)
        return min(most_bytes, wanted_bytes) if self._pace.is_busy else most_bytes

    def cost_bytes(self, size_bytes: int) -> int:
        """What one chunk counts for."""
        return max(size_bytes, _CHUNK_BYTES) if self._pace.is_busy else size_bytes

    def pause_s(self, cost_bytes: int, worked_s: float) -> float:
        """How long to rest after chunks of `cost_bytes` together in `worked_s`."""
        rate = self._needed_bytes_per_s if self._pace.is_busy else self._max_bytes_per_s
        return max(0.0, cost_bytes / rate - worked_s, worked_s if self._pace.is_busy else 0.0)

    async def rest(self, cost_bytes: int, began_s: float) -> None:
        """After work that began at `began_s` of the clock."""
        await asyncio.sleep(self.pause_s(cost_bytes, self._clock() - began_s))


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
