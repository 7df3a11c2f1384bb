"""How many transfers and look-ups there may be at once, and the byte budget that they share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.downloads import (
    MAX_LOOKUPS,
)
from shared.consensus_calls.client import ReadContext
from shared.contracts.metadata import Answer, AnyQuery
from shared.errors import (
    OverloadedError,
)
from tests.unit.gateway.conftest import World
from tests.unit.gateway.transfers.transfer_calls import confirm, find, is_idle, order_for, put

pytestmark = pytest.mark.virtual_time


async def test_one_transfer_too_many_is_refused_at_once(make_world) -> None:
    """The slot limit, and one past it."""
    world = await make_world(max_concurrent_requests=2)
    gate = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await gate.wait()

    running = [
        asyncio.ensure_future(world.services.uploads.put(order_for(world, announced_bytes=1), body())) for _ in range(2)
    ]
    await world.wait_until(lambda: world.metric("trivet_gateway_transfers") == 2, "two transfers")
    with pytest.raises(OverloadedError) as caught:
        await put(world, b"y")
    assert caught.value.definite
    gate.set()
    await asyncio.gather(*running)
    await put(world, b"y")
    await is_idle(world)


class SlowFinds:
    """Holds every read of metadata until `gate` opens; counts those under way."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = asyncio.Event()
        self.under_way = self.most_under_way = 0
        self._read = world.metadata.read
        monkeypatch.setattr(world.metadata, "read", self)

    async def __call__(self, query: AnyQuery, **_: object) -> tuple[Answer, ReadContext]:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            async with asyncio.timeout(5):
                await self.gate.wait()
        finally:
            self.under_way -= 1
        return await self._read(query)


async def test_a_file_is_not_looked_up_without_a_slot(make_world, monkeypatch) -> None:
    """GET and HEAD take their slot first: a refused one has not fetched the chunk list of a huge file before."""
    world = await make_world(max_concurrent_requests=2)
    await put(world, b"x")
    slow = SlowFinds(world, monkeypatch)
    running = [asyncio.ensure_future(find(world)) for _ in range(2)]
    await world.wait_until(lambda: slow.under_way == 2, "two look-ups")
    with pytest.raises(OverloadedError):
        await find(world)
    assert slow.most_under_way == 2
    slow.gate.set()
    await asyncio.gather(*running)
    await find(world)
    await is_idle(world)


async def test_look_ups_are_bounded_and_wait_their_turn(make_world, monkeypatch) -> None:
    """More than the limit at once are all answered, never more than the limit at one time."""
    world = await make_world(max_concurrent_requests=3 * MAX_LOOKUPS)
    await put(world, b"x")
    slow = SlowFinds(world, monkeypatch)
    running = [asyncio.ensure_future(find(world)) for _ in range(3 * MAX_LOOKUPS)]
    await world.wait_until(lambda: slow.under_way == MAX_LOOKUPS, "as many look-ups as may be")
    slow.gate.set()
    assert {found.version.content.size_bytes for found in await asyncio.gather(*running)} == {1}
    assert slow.most_under_way == MAX_LOOKUPS
    await is_idle(world)


async def test_a_look_up_without_a_turn_in_time_is_refused(make_world, monkeypatch) -> None:
    """While no leader answers, those who wait are told so in the time that metadata may take."""
    world = await make_world(max_concurrent_requests=2 * MAX_LOOKUPS, consensus_deadline_s=0.05)
    slow = SlowFinds(world, monkeypatch)
    running = [asyncio.ensure_future(find(world)) for _ in range(MAX_LOOKUPS)]
    await world.wait_until(lambda: slow.under_way == MAX_LOOKUPS, "as many look-ups as may be")
    with pytest.raises(OverloadedError):
        await find(world)
    slow.gate.set()
    await asyncio.gather(*running, return_exceptions=True)
    await is_idle(world)


async def test_head_takes_a_slot(make_world) -> None:
    """It asks about every chunk of a file, which is work like any transfer."""
    world = await make_world(max_concurrent_requests=1)
    await put(world, b"x")
    world.nodes.hanging.update(("storage-1", "storage-2", "storage-3"))
    first = asyncio.ensure_future(confirm(world))
    await world.wait_until(lambda: world.metric("trivet_gateway_transfers") == 1, "the slot taken")
    with pytest.raises(OverloadedError):
        await confirm(world)
    world.nodes.hanging.clear()
    world.nodes.released.set()
    assert await first == 3
    await is_idle(world)


async def test_many_uploads_share_the_budget_and_all_end(make_world, seed) -> None:
    """More demand than budget: everyone waits in line and nobody is left behind, and the limit is never passed."""
    world = await make_world(
        chunk_size_bytes=256 * 1024,
        max_inflight_bytes=1536 * 1024,
        max_concurrent_requests=16,
        budget_wait_s=20,
        admission_wait_s=20,
    )
    print(f"seed {seed}")
    rng = random.Random(seed)
    bodies = [rng.randbytes(rng.randrange(1, 1024 * 1024)) for _ in range(12)]
    highest = 0

    def watch(_what: str, _node_id: str) -> None:
        nonlocal highest
        highest = max(highest, int(world.metric("trivet_gateway_inflight_bytes")))

    world.nodes.on_call = watch
    await asyncio.gather(
        *(put(world, body, name=FileName("default", f"k{number}")) for number, body in enumerate(bodies))
    )
    assert 0 < highest <= 1536 * 1024
    await is_idle(world)
