"""How much is under way at one time: file transfers, and look-ups of a file's chunk list.

One transfer more is refused at once, which costs nothing, instead of late. A look-up is short and waits its turn; its
answer may be megabytes long, so only so many are held while they are read.
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
    def take(self) -> Iterator[None]:
        """Hold one slot.

        Raises:
            OverloadedError: all are taken; nothing was started.
        """
        if self._used >= self._limit:
            raise OverloadedError("Too many file transfers are under way; try again.", limit=self._limit)
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1


class Turns:
    """Lets `limit` callers in at one time; the others wait in order of arrival."""

    def __init__(self, limit: int, *, wait_s: float) -> None:
        self._free = asyncio.Semaphore(limit)
        self._wait_s = wait_s

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Hold one turn.

        Raises:
            OverloadedError: none came free within `wait_s`; nothing was started.
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
