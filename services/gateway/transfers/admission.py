"""Admission control: which transfers may run, what each may hold, and which one ends when there is no room for others.

Three rules keep clients that are slow, on purpose or not, from taking the gateway away from the others:

- Small transfers (bodies and files up to `SMALL_BYTES`) have a part of the byte budget of their own, and uploads that are
  not small never use the last quarter of the slots.
- Once half of the slots are in use, a client address holds at most its share: all of them divided by the addresses.
- When a slot or bytes are missing, the transfer whose client is slowest ends, addresses above their share first. Only
  time spent waiting for the client counts, and a client that moves `slow_bytes_per_s` is never ended.

A transfer without a slot is refused at once, before it costs anything.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from shared.byte_budget import ByteBudget, ByteLease
from shared.errors import OverloadedError
from shared.units import KIB, MIB

SMALL_BYTES: Final = 64 * KIB
"""Up to here a body or a file is small."""

GRACE_S: Final = 2.0
"""So much waiting for a client is no sign that it is slow."""

_MEMORY_S: Final = 8.0
"""Waiting for the client, after which what was moved before counts half."""

_RELIEF_INTERVAL_S: Final = 0.5


def small_reserve_bytes(budget_bytes: int) -> int:
    """The part of the byte budget that only small transfers use."""
    return min(budget_bytes // 8, 8 * MIB)


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """See `GatewaySettings`."""

    slots: int
    budget_bytes: int
    slow_bytes_per_s: int


class Transfer:
    """One upload or download under way. `budget` is what its chunks are reserved from."""

    def __init__(self, admission: Admission, client: str, *, is_large_upload: bool) -> None:
        self.client = client
        self.is_large_upload = is_large_upload
        self.budget = admission.large
        self.scope = asyncio.timeout(None)
        self.has_slot = False
        self._admission = admission
        self._clock = admission.clock
        self._leases: set[ByteLease] = set()
        self._moved_bytes = 0.0
        self._waited_s = 0.0
        self._waiting_since_s: float | None = None

    def size_known(self, size_bytes: int) -> None:
        """Use the part of the budget that is kept for small transfers, if this is one."""
        if size_bytes <= SMALL_BYTES:
            self.budget = self._admission.small

    def lease(self) -> ByteLease:
        """An empty lease of this transfer."""
        self._leases = {lease for lease in self._leases if lease.size_bytes}
        lease = self.budget.lease()
        self._leases.add(lease)
        return lease

    @property
    def held_bytes(self) -> int:
        """Bytes reserved now."""
        return sum(lease.size_bytes for lease in self._leases)

    def has_room_for_steps(self, chunk_bytes: int) -> bool:
        """Whether a chunk may be reserved step by step.

        Steps end at half of the budget, and what lies above it goes to whole chunks only: those always move on, so
        transfers that each hold a part of a chunk cannot wait for each other for ever.
        """
        return (self.budget.used_bytes + chunk_bytes) * 2 <= self.budget.limit_bytes

    async def grow(self, lease: ByteLease, size_bytes: int, *, wait_s: float) -> None:
        """Reserve more, waiting for at most `wait_s`; slow transfers end meanwhile if that is what it takes.

        Raises:
            OverloadedError: the bytes did not become free.
        """
        if lease.try_grow(size_bytes):
            return
        with self._admission.relief(self, size_bytes):
            await lease.grow(size_bytes, wait_s=wait_s)

    @contextmanager
    def waiting_for_client(self) -> Iterator[None]:
        """Time in this block is the client's."""
        self._waiting_since_s = self._clock()
        try:
            yield
        finally:
            self._waited_s += self._clock() - self._waiting_since_s
            self._waiting_since_s = None

    def moved(self, size_bytes: int) -> None:
        """The client sent or took so many bytes."""
        if self._waited_s > _MEMORY_S:
            self._waited_s /= 2
            self._moved_bytes /= 2
        self._moved_bytes += size_bytes

    def slowness(self) -> float | None:
        """Bytes per second of waiting for the client; None while it is not slow enough to be ended."""
        if self._waiting_since_s is None or not self.has_slot:
            return None
        waited_s = self._waited_s + self._clock() - self._waiting_since_s
        rate = self._moved_bytes / max(waited_s, GRACE_S)
        return rate if waited_s >= GRACE_S and rate < self._admission.slow_bytes_per_s else None

    def end(self) -> None:
        """Stop it: the block of `Admission.transfer` ends in OverloadedError."""
        self._admission.give_slot_back(self)
        self.scope.reschedule(asyncio.get_running_loop().time())


class Admission:
    """All transfers of a gateway. Invariant: at most `slots` transfers have a slot."""

    def __init__(self, limits: AdmissionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        reserve_bytes = small_reserve_bytes(limits.budget_bytes)
        self.large = ByteBudget(limits.budget_bytes - reserve_bytes)
        self.small = ByteBudget(reserve_bytes)
        self.clock = clock
        self.slow_bytes_per_s = limits.slow_bytes_per_s
        self.ended_count = 0
        self._slots = limits.slots
        self._transfers: set[Transfer] = set()
        self._by_client: Counter[str] = Counter()

    @property
    def used_slots(self) -> int:
        """Transfers that have a slot."""
        return self._by_client.total()

    @property
    def used_bytes(self) -> int:
        """Bytes reserved now."""
        return self.large.used_bytes + self.small.used_bytes

    def transfer(self, client: str, *, is_large_upload: bool = False) -> AbstractAsyncContextManager[Transfer]:
        """Run one transfer of the client at this address.

        Raises:
            OverloadedError: there is no slot for it, nothing was started; or it was too slow while others waited.
        """
        return _Admitted(self, client, is_large_upload=is_large_upload)

    def begin(self, transfer: Transfer) -> None:
        """Give it a slot. Raises OverloadedError."""
        self._make_slot(transfer.client, is_large_upload=transfer.is_large_upload)
        transfer.has_slot = True
        self._transfers.add(transfer)
        self._by_client[transfer.client] += 1

    def finish(self, transfer: Transfer) -> None:
        """It has ended, in whatever way."""
        self.give_slot_back(transfer)
        self._transfers.discard(transfer)

    def give_slot_back(self, transfer: Transfer) -> None:
        """Its slot is free. Idempotent."""
        if transfer.has_slot:
            transfer.has_slot = False
            self._by_client[transfer.client] -= 1
            if not self._by_client[transfer.client]:
                del self._by_client[transfer.client]

    @contextmanager
    def relief(self, asking: Transfer, size_bytes: int) -> Iterator[None]:
        """While `asking` waits for bytes, end the slowest transfers that hold as many."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def relieve() -> None:
            nonlocal timer
            self._free_bytes(asking, size_bytes)
            timer = loop.call_later(_RELIEF_INTERVAL_S, relieve)

        relieve()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    def _free_bytes(self, asking: Transfer, size_bytes: int) -> None:
        freed_bytes = 0
        while freed_bytes < size_bytes:
            victim = self._slowest(lambda other: other.budget is asking.budget and other.held_bytes > 0)
            if victim is None or victim is asking:
                return
            freed_bytes += victim.held_bytes
            self._end(victim)

    def _make_slot(self, client: str, *, is_large_upload: bool) -> None:
        if is_large_upload and self._large_uploads() >= max(1, self._slots * 3 // 4):
            self._replace(lambda other: other.is_large_upload)
        share = self._share(client)
        if self.used_slots * 2 >= self._slots and self._by_client[client] >= share:
            self._replace(lambda other: other.client == client)
        if self.used_slots >= self._slots:
            self._replace(lambda _: True)

    def _large_uploads(self) -> int:
        return sum(transfer.is_large_upload and transfer.has_slot for transfer in self._transfers)

    def _replace(self, among: Callable[[Transfer], bool]) -> None:
        """End the slowest of these for a new transfer. Raises OverloadedError when none is slow."""
        victim = self._slowest(among)
        if victim is None:
            raise OverloadedError("Too many file transfers are under way; try again.", limit=self._slots)
        self._end(victim)

    def _slowest(self, among: Callable[[Transfer], bool]) -> Transfer | None:
        slow = [
            (self._by_client[transfer.client] <= self._share(transfer.client), rate, transfer)
            for transfer in self._transfers
            if among(transfer) and (rate := transfer.slowness()) is not None
        ]
        return min(slow, key=lambda entry: entry[:2])[2] if slow else None

    def _end(self, transfer: Transfer) -> None:
        self.ended_count += 1
        transfer.end()

    def _share(self, client: str) -> int:
        clients = len(self._by_client) + (client not in self._by_client)
        return max(1, self._slots // clients)


class _Admitted(AbstractAsyncContextManager[Transfer]):
    """`Admission.transfer`. By hand: a generator and what drives it would cost a tenth of a small request."""

    __slots__ = ("_admission", "_transfer")

    def __init__(self, admission: Admission, client: str, *, is_large_upload: bool) -> None:
        self._admission = admission
        self._transfer = Transfer(admission, client, is_large_upload=is_large_upload)

    async def __aenter__(self) -> Transfer:
        self._admission.begin(self._transfer)
        await self._transfer.scope.__aenter__()
        return self._transfer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transfer = self._transfer
        try:
            await transfer.scope.__aexit__(kind, error, trace)
            if isinstance(error, TimeoutError) and transfer.scope.expired():
                raise error
        except TimeoutError as timeout:
            raise OverloadedError("The client was too slow while others waited; try again.") from timeout
        finally:
            self._admission.finish(transfer)


class ConcurrencyLimit:
    """Lets `limit` callers run at one time; the others wait in order of arrival. Enter it for one place.

    Raises:
        OverloadedError: none became free within `wait_s`; nothing was started.
    """

    def __init__(self, limit: int, *, wait_s: float) -> None:
        self._free = asyncio.Semaphore(limit)
        self._wait_s = wait_s

    async def __aenter__(self) -> None:
        if not self._free.locked():
            await self._free.acquire()  # at once, and without the cost of a timer
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise OverloadedError("Too many files are being looked up; try again.") from None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free.release()
