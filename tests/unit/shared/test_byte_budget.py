"""The budget: bounded, fair, and never leaking what a cancelled waiter was given."""

from __future__ import annotations

import asyncio

import pytest

from shared import byte_budget
from shared.byte_budget import ByteAccount, ByteBudget
from shared.errors import OverloadedError


async def test_the_limit_is_reached_exactly_and_not_passed() -> None:
    """All bytes can be reserved, and not one more."""
    budget = ByteBudget(100)
    lease = budget.lease()
    assert lease.try_grow(100)
    assert not budget.lease().try_grow(1)
    with pytest.raises(OverloadedError):
        await budget.lease().grow(1, wait_s=0.01)
    lease.release()
    lease.release()
    assert budget.used_bytes == 0


async def test_waiters_are_served_in_order_and_small_ones_do_not_overtake() -> None:
    """A large request at the head of the line is not starved by small ones behind it."""
    budget = ByteBudget(100)
    first = budget.lease()
    first.try_grow(60)
    served: list[str] = []

    async def reserve(name: str, size_bytes: int) -> None:
        await budget.lease().grow(size_bytes, wait_s=5)
        served.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(reserve("large", 90))
        await asyncio.sleep(0)
        group.create_task(reserve("small", 10))
        await asyncio.sleep(0)
        assert not budget.lease().try_grow(1), "nobody overtakes those who wait"
        first.release()
    assert served == ["large", "small"]


async def test_the_account_that_holds_least_is_served_first() -> None:
    """Each in its own order; what was granted counts before its owner has run."""
    budget, accounts = ByteBudget(100), {"many": ByteAccount(), "few": ByteAccount()}
    held = budget.lease(accounts["many"])
    held.try_grow(100)
    served: list[str] = []

    async def reserve(name: str, size_bytes: int) -> None:
        await budget.lease(accounts[name.split(maxsplit=1)[0]]).grow(size_bytes, wait_s=5)
        served.append(name)

    async with asyncio.TaskGroup() as group:
        for name in ("many 1", "many 2", "few 1", "few 2"):
            group.create_task(reserve(name, 20))
            await asyncio.sleep(0)
        held.release()
    assert served == ["many 1", "few 1", "many 2", "few 2"]
    assert {name: account.used_bytes for name, account in accounts.items()} == {"many": 40, "few": 40}


async def test_a_wait_that_ends_leaves_nothing_on_its_account() -> None:
    """By time, by cancellation, and by a cancellation in the turn in which it was granted."""
    budget, account = ByteBudget(100), ByteAccount()
    held = budget.lease()
    held.try_grow(100)
    with pytest.raises(OverloadedError):
        await budget.lease(account).grow(50, wait_s=0.01)
    waiter = asyncio.ensure_future(budget.lease(account).grow(50, wait_s=5))
    await asyncio.sleep(0)
    held.release()
    assert account.used_bytes == 50
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (account.used_bytes, budget.used_bytes) == (0, 0)


async def test_a_wait_that_ends_gives_its_place_and_bytes_back() -> None:
    """Timeout and cancellation leave neither a waiter nor reserved bytes behind."""
    budget = ByteBudget(100)
    holder = budget.lease()
    holder.try_grow(100)
    with pytest.raises(OverloadedError) as caught:
        await budget.lease().grow(50, wait_s=0.01)
    assert caught.value.definite
    assert caught.value.retry_after_s == 1
    waiter = asyncio.ensure_future(budget.lease().grow(50, wait_s=5))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    holder.release()
    assert budget.used_bytes == 0
    assert budget.lease().try_grow(100)


async def test_a_grant_in_the_turn_of_a_cancellation_is_not_lost() -> None:
    """The waiter is granted and cancelled before it runs again: the bytes come back."""
    budget = ByteBudget(100)
    holder = budget.lease()
    holder.try_grow(100)
    waiter = asyncio.ensure_future(budget.lease().grow(70, wait_s=5))
    await asyncio.sleep(0)
    holder.release()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert budget.used_bytes == 0


async def test_more_than_the_whole_budget_is_refused_at_once() -> None:
    """It could never be granted, so nobody waits for it."""
    with pytest.raises(OverloadedError):
        await asyncio.wait_for(ByteBudget(10).lease().grow(11, wait_s=60), timeout=1)


async def test_plenty_ends_at_half() -> None:
    """Read-ahead stops when half is in use."""
    budget = ByteBudget(100)
    lease = budget.lease()
    lease.try_grow(49)
    assert budget.is_plentiful
    lease.try_grow(1)
    assert not budget.is_plentiful


async def test_a_waiter_that_gives_up_leaves_no_trace() -> None:
    """After timeouts and cancellations the whole budget is free again, and nobody behind is stuck."""
    budget = ByteBudget(100, max_wait_s=0.02)
    held = await budget.acquire(90)
    waiting = asyncio.gather(*(budget.acquire(50) for _ in range(3)), return_exceptions=True)
    refused = await waiting
    assert all(isinstance(error, OverloadedError) for error in refused)
    async with asyncio.TaskGroup() as group:
        cancelled = group.create_task(budget.acquire(50))
        await asyncio.sleep(0)
        behind = group.create_task(budget.acquire(10))
        await asyncio.sleep(0)
        cancelled.cancel()
    (await behind).release()
    held.release()
    assert budget.used_bytes == 0
    (await budget.acquire(100)).release()


async def test_a_lease_may_be_resized_and_released_twice() -> None:
    """What is really held is counted; releasing again gives nothing away."""
    budget = ByteBudget(100, max_wait_s=0.01)
    lease = await budget.acquire(10)
    lease.resize(70)
    assert budget.used_bytes == 70
    lease.release()
    lease.release()
    assert budget.used_bytes == 0


async def test_more_than_the_limit_is_treated_as_all_of_it() -> None:
    """A request larger than the whole budget gets it alone instead of waiting for ever."""
    budget = ByteBudget(100, max_wait_s=0.01)
    lease = await budget.acquire(1000)
    assert budget.used_bytes == 100
    lease.release()


async def test_the_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last place in line is given; one request more is refused at once."""
    monkeypatch.setattr(byte_budget, "_MAX_WAITING", 2)
    budget = ByteBudget(1, max_wait_s=60)
    held = await budget.acquire(1)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(budget.acquire(1)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await asyncio.wait_for(budget.acquire(1), timeout=1)
        held.release()
        (await waiting[0]).release()
        (await waiting[1]).release()
