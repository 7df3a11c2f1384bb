"""Admission control: which transfers may run, what each may hold, and which one ends when there is no room for others.

Three rules keep clients that are slow, on purpose or not, from taking the gateway away from the others:

- Small transfers (bodies and files up to `SMALL_BYTES`) have a part of the byte budget of their own, and uploads that are
  not small never use the last quarter of the slots.
- Once half of the slots are in use, a principal holds at most its share, all of them divided by the principals, and an address
  its share of what is its principal's. Bytes that become free go to the principal that holds least.
- When a slot or bytes are missing, the transfer whose client is slowest ends, those above their share first. Only time spent
  waiting for the client counts, and a client that moves `slow_bytes_per_s` is never ended. The pace that a principal has to
  keep is time of the client, too: what is held back holds nothing that others need.

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
from weakref import WeakValueDictionary

from services.gateway.access.rate_limits import BodyPace
from shared.byte_budget import ByteAccount, ByteBudget, ByteLease
from shared.contracts.access import ANONYMOUS, SYSTEM
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


@dataclass(frozen=True, slots=True)
class Client:
    """Whom a transfer is for. `pace`: that of its principal, None where it has none to keep."""

    address: str
    principal: str = ANONYMOUS
    pace: BodyPace | None = None

    @property
    def owner(self) -> str | None:
        """The identity that what it writes counts for."""
        return None if self.principal in {ANONYMOUS, SYSTEM} else self.principal

    @property
    def account(self) -> tuple[str, str]:
        """Whom bytes are counted for: clients without a credential have nothing in common."""
        return self.principal, self.address if self.principal == ANONYMOUS else ""


class Transfer:
    """One upload or download under way. `budget` is what its chunks are reserved from."""

    def __init__(self, admission: Admission, client: Client, *, is_large_upload: bool) -> None:
        self.client = client
        self.is_large_upload = is_large_upload
        self.budget = admission.large
        self._account = admission.account(client)
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
        lease = self.budget.lease(self._account)
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

    @property
    def piece_bytes(self) -> int | None:
        """How much to move between two calls of `take_turn`; None for any number."""
        return None if self.client.pace is None else self.client.pace.piece_bytes

    async def take_turn(self, size_bytes: int) -> None:
        """Wait until the pace of the principal allows so many bytes."""
        pace = self.client.pace
        if pace is not None and (wait_s := pace.turn(size_bytes)):
            with self.waiting_for_client():
                await asyncio.sleep(wait_s)

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
        self.limits = limits
        self._slots = limits.slots
        self._transfers: set[Transfer] = set()
        self._addresses: dict[str, Counter[str]] = {}
        self._accounts: WeakValueDictionary[tuple[str, str], ByteAccount] = WeakValueDictionary()
        self.used_slots = 0

    @property
    def used_bytes(self) -> int:
        """Bytes reserved now."""
        return self.large.used_bytes + self.small.used_bytes

    def transfer(self, client: Client, *, is_large_upload: bool = False) -> AbstractAsyncContextManager[Transfer]:
        """Run one transfer of this client.

        Raises:
            OverloadedError: there is no slot for it, nothing was started; or it was too slow while others waited.
            TooManyRequestsError: its principal has to wait for long as it is; nothing was started.
        """
        return _Admitted(self, client, is_large_upload=is_large_upload)

    def account(self, client: Client) -> ByteAccount:
        """The account of all that this client holds; it lasts as long as anything is held."""
        key = client.account
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = ByteAccount()
        return account

    def begin(self, transfer: Transfer) -> None:
        """Give it a slot. Raises OverloadedError, TooManyRequestsError."""
        client = transfer.client
        if client.pace is not None:
            client.pace.check_backlog()
        self._make_slot(client, is_large_upload=transfer.is_large_upload)
        transfer.has_slot = True
        self._transfers.add(transfer)
        self._addresses.setdefault(client.principal, Counter())[client.address] += 1
        self.used_slots += 1

    def finish(self, transfer: Transfer) -> None:
        """It has ended, in whatever way."""
        self.give_slot_back(transfer)
        self._transfers.discard(transfer)

    def give_slot_back(self, transfer: Transfer) -> None:
        """Its slot is free. Idempotent."""
        if not transfer.has_slot:
            return
        transfer.has_slot = False
        self.used_slots -= 1
        principal, address = transfer.client.principal, transfer.client.address
        addresses = self._addresses[principal]
        addresses[address] -= 1
        if not addresses[address]:
            del addresses[address]
        if not addresses:
            del self._addresses[principal]

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

    def _make_slot(self, client: Client, *, is_large_upload: bool) -> None:
        if is_large_upload and self._large_uploads() >= max(1, self._slots * 3 // 4):
            self._replace(lambda other: other.is_large_upload)
        if self.used_slots * 2 >= self._slots:
            holding = self._holding(client)
            if holding.of_principal >= holding.principal_share:
                self._replace(lambda other: other.client.principal == client.principal)
            elif holding.of_address >= holding.address_share:
                self._replace(
                    lambda other: (other.client.principal, other.client.address) == (client.principal, client.address)
                )
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
            (self._holding(transfer.client).is_within_shares, rate, transfer)
            for transfer in self._transfers
            if among(transfer) and (rate := transfer.slowness()) is not None
        ]
        return min(slow, key=lambda entry: entry[:2])[2] if slow else None

    def _end(self, transfer: Transfer) -> None:
        self.ended_count += 1
        transfer.end()

    def _holding(self, client: Client) -> _Holding:
        addresses: Counter[str] = self._addresses.get(client.principal) or Counter()
        principals = len(self._addresses) + (client.principal not in self._addresses)
        principal_share = max(1, self._slots // principals)
        return _Holding(
            of_principal=addresses.total(),
            principal_share=principal_share,
            of_address=addresses[client.address],
            address_share=max(1, principal_share // (len(addresses) + (client.address not in addresses))),
        )


@dataclass(frozen=True, slots=True)
class _Holding:
    """Slots that a client's principal and address have, and may have once half of all are in use."""

    of_principal: int
    principal_share: int
    of_address: int
    address_share: int

    @property
    def is_within_shares(self) -> bool:
        """Neither has more."""
        return self.of_principal <= self.principal_share and self.of_address <= self.address_share


class _Admitted(AbstractAsyncContextManager[Transfer]):
    """`Admission.transfer`. By hand: a generator and what drives it would cost a tenth of a small request."""

    __slots__ = ("_admission", "_transfer")

    def __init__(self, admission: Admission, client: Client, *, is_large_upload: bool) -> None:
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
