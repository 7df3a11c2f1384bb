"""The budget: bounded, fair, and never leaking what a cancelled waiter was given."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.byte_budget import ByteBudget
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
