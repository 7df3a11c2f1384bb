"""One budget for the chunk bytes that a gateway holds, so that its memory does not depend on its clients.

Bytes are reserved before they are read from a socket. Whoever cannot reserve waits in line: that is the backpressure.
A wait is bounded, and its end is an honest 503 before memory grows.

Why it cannot deadlock: a transfer reserves `FIRST_RESERVATION_BYTES`, then once the rest of its chunk, and a full chunk
always moves on in bounded time; the settings refuse a budget in which first reservations alone could fill it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Self

from shared.errors import OverloadedError


class Lease:
    """Bytes reserved from a budget, returned once by `release`."""

    __slots__ = ("_budget", "_size_bytes")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Bytes reserved now."""
        return self._size_bytes

    async def grow(self, size_bytes: int, *, wait_s: float) -> None:
        """Reserve `size_bytes` more.

        Raises:
            OverloadedError: they were not free within `wait_s`.
        """
        await self._budget.reserve(size_bytes, wait_s=wait_s)
        self._size_bytes += size_bytes

    def try_grow(self, size_bytes: int) -> bool:
        """Reserve `size_bytes` more if that is possible at once."""
        if not self._budget.try_reserve(size_bytes):
            return False
        self._size_bytes += size_bytes
        return True

    def shrink_to(self, size_bytes: int) -> None:
        """Give back what lies above `size_bytes`."""
        if size_bytes < self._size_bytes:
            surplus, self._size_bytes = self._size_bytes - size_bytes, size_bytes
            self._budget.give_back(surplus)

    def release(self) -> None:
        """Give everything back. Idempotent."""
        self.shrink_to(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ByteBudget:
    """First come, first served; a small request never overtakes a large one, so nobody starves.

    Invariant: 0 <= used_bytes <= limit_bytes.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        """Bytes reserved now."""
        return self._used_bytes

    @property
    def is_plentiful(self) -> bool:
        """Less than half is in use and nobody waits: extra read-ahead does no harm."""
        return not self._waiting and self._used_bytes * 2 < self._limit_bytes

    def lease(self) -> Lease:
        """An empty lease."""
        return Lease(self)

    def try_reserve(self, size_bytes: int) -> bool:
        """Reserve at once, or not at all."""
        if self._waiting or self._used_bytes + size_bytes > self._limit_bytes:
            return False
        self._used_bytes += size_bytes
        return True

    async def reserve(self, size_bytes: int, *, wait_s: float) -> None:
        """Reserve, waiting in line for at most `wait_s`.

        Raises:
            OverloadedError: the bytes were not free in time, or can never be.
        """
        if self.try_reserve(size_bytes):
            return
        if size_bytes > self._limit_bytes:
            raise OverloadedError("More bytes than the whole budget were asked for.", limit_bytes=self._limit_bytes)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, granted)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(wait_s):
                await granted
        except BaseException as error:
            self._withdraw(entry)
            if isinstance(error, TimeoutError):
                raise OverloadedError(
                    "The gateway holds as many bytes as it may; try again.", limit_bytes=self._limit_bytes
                ) from error
            raise

    def give_back(self, size_bytes: int) -> None:
        """Return reserved bytes and serve those who wait."""
        self._used_bytes -= size_bytes
        self._grant()

    def _withdraw(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        size_bytes, granted = entry
        if granted.done() and not granted.cancelled():
            self._used_bytes -= size_bytes  # granted in the same turn in which the wait ended
        else:
            self._waiting.remove(entry)
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            size_bytes, granted = self._waiting[0]
            if granted.cancelled():
                # Its owner is on the way out and withdraws the entry itself.
                return
            if self._used_bytes + size_bytes > self._limit_bytes:
                return
            self._waiting.popleft()
            self._used_bytes += size_bytes
            granted.set_result(None)
