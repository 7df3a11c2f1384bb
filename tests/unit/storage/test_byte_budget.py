from __future__ import annotations

import asyncio

import pytest

from services.storage.byte_budget import ByteBudget
from shared.errors import OverloadedError


async def test_the_limit_is_met_exactly_and_not_passed():
    """Leases up to the limit are given at once; one byte more waits and is refused."""
    budget = ByteBudget(100, max_wait_s=0.01)
    leases = [await budget.lease(60), await budget.lease(40)]
    with pytest.raises(OverloadedError) as caught:
        await budget.lease(1)
    assert caught.value.definite
    assert budget.leased_bytes == 100
    for lease in leases:
        lease.release()
    assert budget.leased_bytes == 0


async def test_who_came_first_is_served_first():
    """A small request does not overtake a large one that waits, so the large one is not starved."""
    budget = ByteBudget(100, max_wait_s=5)
    first = await budget.lease(80)
    order: list[str] = []

    async def take(name: str, size_bytes: int) -> None:
        lease = await budget.lease(size_bytes)
        order.append(name)
        lease.release()

    async with asyncio.TaskGroup() as group:
        group.create_task(take("large", 90))
        await asyncio.sleep(0)
        group.create_task(take("small", 10))
        await asyncio.sleep(0)
        assert order == []
        first.release()
    assert order == ["large", "small"]
    assert budget.leased_bytes == 0


async def test_a_waiter_that_gives_up_leaves_no_trace():
    """After timeouts and cancellations the whole budget is free again, and nobody behind is stuck."""
    budget = ByteBudget(100, max_wait_s=0.02)
    held = await budget.lease(90)
    waiting = asyncio.gather(*(budget.lease(50) for _ in range(3)), return_exceptions=True)
    refused = await waiting
    assert all(isinstance(error, OverloadedError) for error in refused)
    async with asyncio.TaskGroup() as group:
        cancelled = group.create_task(budget.lease(50))
        await asyncio.sleep(0)
        behind = group.create_task(budget.lease(10))
        await asyncio.sleep(0)
        cancelled.cancel()
    (await behind).release()
    held.release()
    assert budget.leased_bytes == 0
    (await budget.lease(100)).release()


async def test_a_lease_may_be_resized_and_released_twice():
    """What is really held is counted; releasing again gives nothing away."""
    budget = ByteBudget(100, max_wait_s=0.01)
    lease = await budget.lease(10)
    lease.resize(70)
    assert budget.leased_bytes == 70
    lease.release()
    lease.release()
    assert budget.leased_bytes == 0


async def test_more_than_the_limit_is_treated_as_all_of_it():
    """A request larger than the whole budget gets it alone instead of waiting for ever."""
    budget = ByteBudget(100, max_wait_s=0.01)
    lease = await budget.lease(1000)
    assert budget.leased_bytes == 100
    lease.release()
