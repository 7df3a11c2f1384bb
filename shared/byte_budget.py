"""A limit on the bytes that a process holds in memory at once, so that memory does not depend on its clients (X-19).

Bytes are reserved before they are read from a socket or a disk. A request that finds no room waits in line, which is
the backpressure; the wait and the line are bounded, so overload is an early 503 and never growing memory. Where leases have
accounts, the line serves the account that holds least first: whoever has many requests in line does not hold up the others.

Pattern of use::

    with budget.lease() as lease:
        await lease.grow(size_bytes, wait_s=1.0)
        ...
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NamedTuple, Self

from shared.errors import OverloadedError

_MAX_WAITING: Final = 1024


class ByteAccount:
    """One of those who share a budget. Invariant: `used_bytes` is what its leases hold, and what they were just granted."""

    __slots__ = ("__weakref__", "used_bytes")

    def __init__(self) -> None:
        self.used_bytes = 0


class ByteLease:
    """Bytes reserved from a budget. `release`, or leaving the `with` block, gives them back."""

    __slots__ = ("_account", "_budget", "_size_bytes")

    def __init__(self, budget: ByteBudget, account: ByteAccount) -> None:
        self._budget = budget
        self._account = account
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Bytes reserved now."""
        return self._size_bytes

    async def grow(self, size_bytes: int, *, wait_s: float | None = None) -> None:
        """Reserve `size_bytes` more, waiting in line for at most `wait_s` (default: the budget's `max_wait_s`).

        Raises:
            OverloadedError: they were not free in time, can never be, or too many wait already; definite.
        """
        await self._budget.reserve(size_bytes, self._account, wait_s=wait_s)
        self._size_bytes += size_bytes

    async def grow_to(self, size_bytes: int) -> None:
        """Hold at least `size_bytes` in all, or the whole budget for more than that. Raises OverloadedError."""
        await self.grow(max(0, min(size_bytes, self._budget.limit_bytes) - self._size_bytes))

    def try_grow(self, size_bytes: int) -> bool:
        """Reserve `size_bytes` more if that is possible at once."""
        if not self._budget.try_reserve(size_bytes, self._account):
            return False
        self._size_bytes += size_bytes
        return True

    def resize(self, size_bytes: int) -> None:
        """Account for what is held in fact. Grows without waiting and past the limit, for bytes that are here already."""
        change_bytes = size_bytes - self._size_bytes
        self._size_bytes = size_bytes
        self._budget.give_back(-change_bytes, self._account)

    def shrink_to(self, size_bytes: int) -> None:
        """Give back what lies above `size_bytes`."""
        if size_bytes < self._size_bytes:
            self.resize(size_bytes)

    def release(self) -> None:
        """Give everything back. Idempotent."""
        self.shrink_to(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _InLine(NamedTuple):
    """A request in line."""

    size_bytes: int
    account: ByteAccount
    granted: asyncio.Future[None]


def _used_bytes(entry: _InLine) -> int:
    return entry.account.used_bytes


class ByteBudget:
    """First come, first served within an account: a small request never overtakes a large one, so no request starves.

    Invariant: 0 <= used_bytes <= limit_bytes, except after `ByteLease.resize` to more.
    """

    def __init__(self, limit_bytes: int, *, max_wait_s: float = 1.0) -> None:
        self._limit_bytes = limit_bytes
        self._max_wait_s = max_wait_s
        self._used_bytes = 0
        self._waiting: deque[_InLine] = deque()
        self._own = ByteAccount()

    @property
    def limit_bytes(self) -> int:
        """The most that may be reserved."""
        return self._limit_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes reserved now."""
        return self._used_bytes

    @property
    def is_plentiful(self) -> bool:
        """Less than half is in use and nothing waits: extra read-ahead does no harm."""
        return not self._waiting and self._used_bytes * 2 < self._limit_bytes

    def lease(self, account: ByteAccount | None = None) -> ByteLease:
        """An empty lease. All that have no account share one."""
        return ByteLease(self, account or self._own)

    async def acquire(self, size_bytes: int) -> ByteLease:
        """A lease of `size_bytes`, or of the whole budget for a request larger than that.

        Raises:
            OverloadedError: see `ByteLease.grow`.
        """
        lease = self.lease()
        await lease.grow(min(size_bytes, self._limit_bytes))
        return lease

    def try_reserve(self, size_bytes: int, account: ByteAccount | None = None) -> bool:
        """Reserve at once, or not at all."""
        if self._waiting or self._used_bytes + size_bytes > self._limit_bytes:
            return False
        self._take(size_bytes, account or self._own)
        return True

    async def reserve(self, size_bytes: int, account: ByteAccount, *, wait_s: float | None = None) -> None:
        """Reserve, waiting in line for at most `wait_s`; see `ByteLease.grow`."""
        if self.try_reserve(size_bytes, account):
            return
        if size_bytes > self._limit_bytes:
            raise OverloadedError("More bytes than the whole budget were asked for.", limit_bytes=self._limit_bytes)
        if len(self._waiting) >= _MAX_WAITING:
            raise self._refusal()
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = _InLine(size_bytes, account, granted)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(self._max_wait_s if wait_s is None else wait_s):
                await granted
        except BaseException as error:
            self._withdraw(entry)
            if isinstance(error, TimeoutError):
                raise self._refusal() from error
            raise

    def give_back(self, size_bytes: int, account: ByteAccount | None = None) -> None:
        """Return reserved bytes and serve the requests that wait."""
        self._take(-size_bytes, account or self._own)
        self._grant()

    def _take(self, size_bytes: int, account: ByteAccount) -> None:
        self._used_bytes += size_bytes
        account.used_bytes += size_bytes

    def _withdraw(self, entry: _InLine) -> None:
        if entry.granted.done() and not entry.granted.cancelled():
            # Granted in the same turn of the loop in which the wait ended.
            self._take(-entry.size_bytes, entry.account)
        else:
            self._waiting.remove(entry)
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            # The first in line of those who hold least.
            entry = min(self._waiting, key=_used_bytes) if len(self._waiting) > 1 else self._waiting[0]
            if entry.granted.cancelled():
                # Its owner has not run yet; it withdraws the entry itself and calls this again.
                return
            if self._used_bytes + entry.size_bytes > self._limit_bytes:
                return
            self._waiting.remove(entry)
            self._take(entry.size_bytes, entry.account)
            entry.granted.set_result(None)

    def _refusal(self) -> OverloadedError:
        return OverloadedError("This process holds as many bytes as it may; try again.", limit_bytes=self._limit_bytes)
