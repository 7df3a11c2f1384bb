"""Cutting a stream: every byte in its place, every byte reserved."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.transfers.admission import Admission, AdmissionLimits, Client
from services.gateway.transfers.chunking import DirectBody, PacedBody, ReservationWaits, cut
from shared.byte_budget import ByteLease
from shared.errors import OverloadedError
from shared.reused_buffers import ReusedBuffers
from shared.units import KIB, MIB

pytestmark = pytest.mark.virtual_time

WAITS = ReservationWaits(first_s=0.05, next_s=0.05)


async def pieces_of(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class FakeDirectBody(DirectBody):
    """The first `first_bytes` come as a piece, the rest directly; `asked` keeps the lengths that were asked for."""

    def __init__(self, body: bytes, first_bytes: int) -> None:
        self.body = body
        self.first_bytes = first_bytes
        self.at = 0
        self.asked: list[int] = []

    async def __anext__(self) -> bytes:
        if self.at == len(self.body):
            raise StopAsyncIteration
        assert self.at == 0, "no further piece is asked for"
        self.at = self.first_bytes
        return self.body[: self.at]

    @property
    def direct_bytes(self) -> int:
        return len(self.body) - self.at

    async def receive_into(self, buffer: memoryview, moved: Callable[[int], object]) -> None:
        self.asked.append(len(buffer))
        buffer[:] = self.body[self.at : self.at + len(buffer)]
        self.at += len(buffer)
        moved(len(buffer))


async def take_all(body: AsyncIterator[bytes], admission: Admission, take: Callable[[ByteLease], None]) -> None:
    async with admission.transfer(Client("client")) as transfer:
        async for held in cut(body, buffers=ReusedBuffers(bytearray), transfer=transfer, waits=WAITS):
            take(held.take_over())


def admission_of(large_bytes: int) -> Admission:
    """Admission with a budget of so many bytes beside the part for small transfers."""
    return Admission(AdmissionLimits(slots=16, budget_bytes=large_bytes * 8 // 7, slow_bytes_per_s=0))


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
    admission = admission_of(64 * MIB)
    chunks = []
    async with admission.transfer(Client("client")) as transfer:
        async for held in cut(
            pieces_of(pieces), buffers=ReusedBuffers(bytearray, chunk_size_bytes), transfer=transfer, waits=WAITS
        ):
            with held as chunk:
                assert transfer.held_bytes == len(chunk.data), "what is held is what is reserved"
            chunks.append(chunk)
    assert b"".join(chunk.data for chunk in chunks) == body
    assert all(len(chunk.data) == chunk_size_bytes for chunk in chunks[:-1])
    assert all(chunk.digest == blake3(chunk.data).hexdigest() for chunk in chunks)
    assert len(chunks) == -(-len(body) // chunk_size_bytes)
    assert admission.used_bytes == 0


async def test_the_next_piece_is_not_asked_for_while_there_is_no_budget() -> None:
    """Backpressure: with the budget held by others, the body is not read on."""
    admission = admission_of(2 * MIB)
    asked = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(8):
            asked += 1
            yield bytes(MIB)

    held = []
    with pytest.raises(OverloadedError):
        await take_all(body(), admission, held.append)
    assert len(held) == 2
    assert asked == 3, "the piece that was refused, and none after it"
    assert admission.used_bytes == 2 * MIB
    for lease in held:
        lease.release()
    assert admission.used_bytes == 0


async def test_a_reservation_grows_with_the_bytes_that_came() -> None:
    """A client that sent ten bytes holds 64 KiB of budget, and one that sent 100 KiB twice that, and not a whole chunk."""
    admission = admission_of(64 * MIB)
    seen = []

    async def body() -> AsyncIterator[bytes]:
        yield bytes(10)
        seen.append(admission.used_bytes)
        yield bytes(100 * KIB)
        seen.append(admission.used_bytes)

    await take_all(body(), admission, ByteLease.release)
    assert seen == [64 * KIB, 2 * (100 * KIB + 10)]


async def test_above_half_of_the_budget_only_whole_chunks_are_reserved() -> None:
    """So transfers that each hold a part of a chunk cannot wait for each other for ever."""
    admission = admission_of(4 * MIB)
    assert admission.large.try_reserve(MIB + 1)
    seen = []

    async def body() -> AsyncIterator[bytes]:
        yield bytes(100 * KIB)
        seen.append(admission.used_bytes)

    await take_all(body(), admission, ByteLease.release)
    assert seen == [2 * MIB + 1]


async def test_a_body_that_breaks_off_gives_its_budget_back() -> None:
    """An error in the middle of a chunk leaves nothing reserved."""
    admission = admission_of(64 * MIB)

    async def body() -> AsyncIterator[bytes]:
        yield bytes(100 * KIB)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await take_all(body(), admission, ByteLease.release)
    assert admission.used_bytes == 0


@given(
    body_bytes=st.integers(1, 20 * KIB),
    first_bytes=st.integers(1, 20 * KIB),
    chunk_size_bytes=st.sampled_from([100, 4 * KIB]),
)
async def test_what_is_received_directly_is_cut_in_the_same_way(body_bytes, first_bytes, chunk_size_bytes) -> None:
    """Wherever the first piece ends; and no chunk shares memory with an unfinished one."""
    body = FakeDirectBody(random.Random(body_bytes).randbytes(body_bytes), min(first_bytes, body_bytes))
    admission = admission_of(64 * MIB)
    chunks = []
    async with admission.transfer(Client("client")) as transfer:
        paced = PacedBody(body, transfer)
        buffers = ReusedBuffers(bytearray, chunk_size_bytes)
        async for held in cut(paced, buffers=buffers, transfer=transfer, waits=WAITS):
            with held as chunk:
                assert transfer.held_bytes == len(chunk.data), "what is held is what is reserved"
            chunks.append(chunk)
    assert b"".join(chunk.data for chunk in chunks) == body.body
    assert all(len(chunk.data) == chunk_size_bytes for chunk in chunks[:-1])
    assert all(chunk.digest == blake3(chunk.data).hexdigest() for chunk in chunks)
    assert admission.used_bytes == 0


async def direct_steps(body_bytes: int, first_bytes: int, admission: Admission) -> list[int]:
    """What was asked for at a time."""
    body = FakeDirectBody(bytes(body_bytes), first_bytes)
    async with admission.transfer(Client("client")) as transfer:
        paced = PacedBody(body, transfer)
        async for held in cut(paced, buffers=ReusedBuffers(bytearray), transfer=transfer, waits=WAITS):
            with held:
                pass
    return body.asked


async def test_direct_room_grows_with_the_bytes_that_came() -> None:
    """Twice of what came, then all of a chunk of which a quarter came, then whole chunks: the client is no slow one."""
    asked = await direct_steps(3 * MIB + 5, 10, admission_of(64 * MIB))
    assert asked == [64 * KIB - 10, 64 * KIB + 2, 128 * KIB + 4, 768 * KIB - 6, MIB, MIB, 5]


async def test_direct_room_begins_small_for_every_chunk_while_budget_is_short() -> None:
    """Above half of the budget a client that stops in a chunk must hold little, or the chunk must come whole."""
    admission = admission_of(16 * MIB)
    assert admission.large.try_reserve(8 * MIB)
    asked = await direct_steps(2 * MIB, 100 * KIB, admission)
    assert asked == [MIB - 100 * KIB, 64 * KIB, MIB - 64 * KIB]
