"""Admission control: concurrency limits for file transfers, and for look-ups of a file's chunk list.

A transfer beyond the limit is refused at once, before it costs anything. A look-up is short, so it waits; its answer may be
megabytes long, so the number of concurrent ones is limited.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from shared.errors import OverloadedError


class TransferSlots:
    """Invariant: 0 <= used <= limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    @property
    def used(self) -> int:
        """Transfers under way."""
        return self._used

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Hold one slot.

        Raises:
            OverloadedError: all are in use; nothing was started.
        """
        if self._used >= self._limit:
            raise OverloadedError("Too many file transfers are under way; try again.", limit=self._limit)
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1


class ConcurrencyLimit:
    """Lets `limit` callers run at one time; the others wait in order of arrival."""

    def __init__(self, limit: int, *, wait_s: float) -> None:
        self._free = asyncio.Semaphore(limit)
        self._wait_s = wait_s

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        """Hold one place.

        Raises:
            OverloadedError: none became free within `wait_s`; nothing was started.
        """
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise OverloadedError("Too many files are being looked up; try again.") from None
        try:
            yield
        finally:
            self._free.release()
