"""Cutting a stream: every byte in its place, every byte reserved."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.transfers.chunking import ReservationWaits, cut
from shared.byte_budget import ByteBudget, ByteLease
from shared.errors import OverloadedError
from shared.units import KIB, MIB

WAITS = ReservationWaits(first_s=0.05, next_s=0.05)


async def pieces_of(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def take_all(body: AsyncIterator[bytes], budget: ByteBudget, take: Callable[[ByteLease], None]) -> None:
    async for _, lease in cut(body, chunk_size_bytes=MIB, budget=budget, waits=WAITS):
        take(lease)


@given(sizes=st.lists(st.integers(0, 9 * KIB), max_size=12), chunk_size_bytes=st.sampled_from([1, 100, KIB, 4 * KIB]))
async def test_chunks_are_the_body_in_order_and_all_full_but_the_last(sizes, chunk_size_bytes) -> None:
    """However the body is cut by the network, the chunks depend on its bytes only."""
    if chunk_size_bytes == 1:
        sizes = [size % 50 for size in sizes]
    body = random.Random(1).randbytes(sum(sizes))
    pieces, start = [], 0
    for size in sizes:
        pieces.append(body[start : start + size])
        start += size
    budget = ByteBudget(64 * MIB)
    chunks = []
    async for chunk, lease in cut(pieces_of(pieces), chunk_size_bytes=chunk_size_bytes, budget=budget, waits=WAITS):
        assert lease.size_bytes == len(chunk.data), "what is held is what is reserved"
        lease.release()
        chunks.append(chunk)
    assert b"".join(chunk.data for chunk in chunks) == body
    assert all(len(chunk.data) == chunk_size_bytes for chunk in chunks[:-1])
    assert all(chunk.digest == blake3(chunk.data).hexdigest() for chunk in chunks)
    assert len(chunks) == -(-len(body) // chunk_size_bytes)
    assert budget.used_bytes == 0


async def test_the_next_piece_is_not_asked_for_while_there_is_no_budget() -> None:
    """Backpressure: with the budget held by others, the body is not read on."""
    budget = ByteBudget(2 * MIB)
    asked = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(8):
            asked += 1
            yield bytes(MIB)

    held = []
    with pytest.raises(OverloadedError):
        await take_all(body(), budget, held.append)
    assert len(held) == 2
    assert asked == 3, "the piece that was refused, and none after it"
    assert budget.used_bytes == 2 * MIB
    for lease in held:
        lease.release()
    assert budget.used_bytes == 0


async def test_a_slow_beginning_reserves_little() -> None:
    """A client that sent ten bytes holds 64 KiB of budget and not a whole chunk."""
    budget = ByteBudget(64 * MIB)
    seen = []

    async def body() -> AsyncIterator[bytes]:
        yield bytes(10)
        seen.append(budget.used_bytes)
        yield bytes(100 * KIB)
        seen.append(budget.used_bytes)

    async for _, lease in cut(body(), chunk_size_bytes=MIB, budget=budget, waits=WAITS):
        lease.release()
    assert seen == [64 * KIB, MIB]


async def test_a_body_that_breaks_off_gives_its_budget_back() -> None:
    """An error in the middle of a chunk leaves nothing reserved."""
    budget = ByteBudget(64 * MIB)

    async def body() -> AsyncIterator[bytes]:
        yield bytes(100 * KIB)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await take_all(body(), budget, ByteLease.release)
    assert budget.used_bytes == 0
