"""How many bytes of chunk bodies may be in memory at once; who comes too late waits a moment and is then refused.

Waiting in order of arrival keeps a burst of parallel windows from being refused while a place frees within milliseconds;
the bounded wait and queue keep overload visible (503) instead of growing memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from shared.errors import OverloadedError

_MAX_WAITERS: Final = 1024


class ByteBudget:
    """Invariant: the sum of all leases is at most `limit_bytes`, except that a lease may be grown by `Lease.resize`."""

    def __init__(self, limit_bytes: int, max_wait_s: float) -> None:
        self._limit_bytes = limit_bytes
        self._max_wait_s = max_wait_s
        self._leased_bytes = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def leased_bytes(self) -> int:
        """Sum of all leases now."""
        return self._leased_bytes

    async def lease(self, size_bytes: int) -> Lease:
        """Room for `size_bytes`, after a wait of at most `max_wait_s` behind those who came first.

        Raises:
            OverloadedError: no room in time; definite.
        """
        size_bytes = min(size_bytes, self._limit_bytes)
        if self._waiters or self._leased_bytes + size_bytes > self._limit_bytes:
            await self._wait(size_bytes)
        else:
            self._leased_bytes += size_bytes
        return Lease(self, size_bytes)

    async def _wait(self, size_bytes: int) -> None:
        if len(self._waiters) >= _MAX_WAITERS:
            raise self._refusal()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, future)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(self._max_wait_s):
                await future
        except BaseException as error:
            if future.done() and not future.cancelled():
                self._release(size_bytes)  # it was granted in the same moment
            elif entry in self._waiters:
                self._waiters.remove(entry)
                self._grant()
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def _release(self, size_bytes: int) -> None:
        self._leased_bytes -= size_bytes
        self._grant()

    def _grant(self) -> None:
        while self._waiters and self._leased_bytes + self._waiters[0][0] <= self._limit_bytes:
            size_bytes, future = self._waiters.popleft()
            if not future.done():
                self._leased_bytes += size_bytes
                future.set_result(None)

    def _refusal(self) -> OverloadedError:
        return OverloadedError("Too many chunk bodies are in flight on this node.", limit_bytes=self._limit_bytes)


class Lease:
    """A part of the budget; release it exactly once is not required: releasing again does nothing."""

    __slots__ = ("_budget", "_size_bytes")

    def __init__(self, budget: ByteBudget, size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes

    def resize(self, size_bytes: int) -> None:
        """Account for what is really held; grows without waiting, because the bytes are already there."""
        change_bytes = size_bytes - self._size_bytes
        self._size_bytes = size_bytes
        self._budget._release(-change_bytes)  # noqa: SLF001 - a lease is the budget's other half

    def release(self) -> None:
        """Give the bytes back."""
        self.resize(0)
