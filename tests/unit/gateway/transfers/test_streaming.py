"""A download under way: what it holds in memory, how far it reads ahead, and how it ends early."""

from __future__ import annotations

import asyncio
import random
import weakref
from types import SimpleNamespace

import pytest

from services.gateway.ports import ReadChunk
from services.gateway.transfers import read_ahead
from services.gateway.transfers.read_ahead import ReadAhead
from shared.errors import RequestTimeoutError
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES
from tests.unit.gateway.transfers.transfer_calls import Body, Received, get, is_idle, only, put

pytestmark = pytest.mark.virtual_time


async def test_a_chunk_that_was_sent_is_held_no_longer(world, seed) -> None:
    """However long the file, a download holds what it reads ahead, and gives back what the client has taken."""
    await put(world, random.Random(seed).randbytes(40 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    held: list[float] = []

    class Watching(Received):
        async def sink(self, view: memoryview) -> None:
            if view:
                held.append(world.metric("trivet_gateway_inflight_bytes"))
            await super().sink(view)

    await get(world, Watching())
    assert len(held) == 40
    assert max(held) <= (world.settings.read_ahead_chunks + 1) * CHUNK_SIZE_BYTES


async def test_a_chunk_is_held_until_the_connection_has_taken_all_of_it(world, seed) -> None:
    """What is sent and still lies in this process counts: two hundred slow clients would hold a chunk each beside the budget."""
    await put(world, random.Random(seed).randbytes(100 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    held: list[float] = []

    class Unsent(Received):
        async def sink(self, view: memoryview) -> None:
            if not view:  # the call that waits for what was sent before
                held.append(world.metric("trivet_gateway_inflight_bytes"))
            await super().sink(view)

    await get(world, Unsent())
    assert len(held) == 100
    assert min(held) >= CHUNK_SIZE_BYTES
    await is_idle(world)


async def test_a_chunk_that_was_sent_is_gone_before_the_next_is_waited_for(world, seed, monkeypatch) -> None:
    """While a download waits for budget it holds no bytes that nothing counts: two hundred would be as many chunks."""
    await put(world, random.Random(seed).randbytes(40 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    bodies: list[weakref.ref[Body]] = []
    get_chunk, require_next = world.nodes.get_chunk, ReadAhead.require_next
    surplus: list[int] = []

    async def fetch(*args: object) -> ReadChunk:
        body = Body((await get_chunk(*args)).data)
        bodies.append(weakref.ref(body))
        return ReadChunk(body)

    async def wait(self: ReadAhead) -> None:
        for _ in range(5):  # callbacks of what has ended
            await asyncio.sleep(0)
        surplus.append(sum(body() is not None for body in bodies) - len(self._ahead))
        await require_next(self)

    monkeypatch.setattr(world.nodes, "get_chunk", fetch)
    monkeypatch.setattr(ReadAhead, "require_next", wait)
    await get(world)
    assert len(surplus) >= 40
    assert max(surplus) <= 0


async def test_read_ahead_is_bounded_and_a_slow_client_stops_it(world, seed) -> None:
    """A client that takes nothing holds a few chunks, whatever the size of the file."""
    await put(world, random.Random(seed).randbytes(100 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    world.nodes.calls.clear()
    release = asyncio.Event()

    class Slow(Received):
        async def sink(self, view: memoryview) -> None:
            await release.wait()
            await super().sink(view)

    slow = Slow()
    reading = asyncio.ensure_future(get(world, slow))
    await world.wait_until(lambda: slow.confirmed is not None, "headers")
    for _ in range(50):
        await asyncio.sleep(0)
    fetched = sum(count for (what, _), count in world.nodes.calls.items() if what == "get")
    limit = world.settings.read_ahead_chunks + 1
    assert 1 <= fetched <= limit
    assert world.metric("trivet_gateway_inflight_bytes") <= limit * CHUNK_SIZE_BYTES
    release.set()
    await reading
    assert len(slow.body) == 100 * CHUNK_SIZE_BYTES
    await is_idle(world)


async def test_a_download_past_its_age_is_broken_off(world, seed, monkeypatch) -> None:
    """Its chunks are not kept for it any longer. Nothing more is fetched, and everything is given back."""
    body = random.Random(seed).randbytes(100 * CHUNK_SIZE_BYTES)
    await put(world, body)
    await is_idle(world)
    now_s = 0.0
    monkeypatch.setattr(read_ahead, "time", SimpleNamespace(monotonic=lambda: now_s))

    class Ageing(Received):
        async def sink(self, view: memoryview) -> None:
            nonlocal now_s
            await super().sink(view)
            now_s += world.settings.max_download_age_s / 10

    received = Ageing()
    with pytest.raises(BaseExceptionGroup) as caught:
        await get(world, received)
    assert isinstance(only(caught.value), RequestTimeoutError)
    assert 0 < len(received.body) < len(body)
    assert body.startswith(received.body)
    await is_idle(world)


async def test_a_client_that_goes_stops_the_fetching(world, seed) -> None:
    """Cancellation of a download cancels its attempts and gives everything back."""
    await put(world, random.Random(seed).randbytes(20 * CHUNK_SIZE_BYTES))
    await is_idle(world)
    world.nodes.hanging |= {"storage-1", "storage-2", "storage-3"}
    reading = asyncio.ensure_future(get(world))
    await world.wait_until(lambda: world.nodes.under_way > 0, "fetching")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    world.nodes.hanging.clear()
    world.nodes.released.set()
    await is_idle(world)
