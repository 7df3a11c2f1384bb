"""Cuts a stream of bytes into chunks, holding no more than one unfinished chunk, every byte of it reserved beforehand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Self

from services.gateway.ports import ChunkBytes, FileChunk, LeasedChunk
from services.gateway.settings import FIRST_RESERVATION_BYTES
from services.gateway.transfers.admission import Transfer
from shared.reused_buffers import ReusedBuffers
from shared.units import MIB


class DirectBody(AsyncIterator[bytes]):
    """A body whose rest, after the first piece, can be received into the place where it stays."""

    @property
    @abstractmethod
    def direct_bytes(self) -> int:
        """How much `receive_into` can still receive; 0 when it cannot be called."""

    @abstractmethod
    async def receive_into(self, buffer: memoryview, moved: Callable[[int], object]) -> None:
        """Fill `buffer`, of at most `direct_bytes`, with what comes next; `moved` is told the length of each part that came."""


class PacedBody(AsyncIterator[bytes]):
    """`body`, with the time that it takes on the account of the client, and not faster than its principal may send."""

    def __init__(self, body: AsyncIterable[bytes], transfer: Transfer) -> None:
        # What is received directly comes by the chunk, which takes long at a low pace.
        is_held_back = transfer.piece_bytes is not None and transfer.piece_bytes < MIB
        self._direct = body if isinstance(body, DirectBody) and not is_held_back else None
        self._pieces = aiter(body)
        self._transfer = transfer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with self._transfer.waiting_for_client():
            piece = await anext(self._pieces)
        self._transfer.moved(len(piece))
        await self._transfer.take_turn(len(piece))
        return piece

    @property
    def direct_bytes(self) -> int:
        """See `DirectBody`."""
        return 0 if self._direct is None else self._direct.direct_bytes

    async def receive_into(self, buffer: memoryview) -> None:
        """See `DirectBody`."""
        assert self._direct is not None
        with self._transfer.waiting_for_client():
            await self._direct.receive_into(buffer, self._transfer.moved)
        await self._transfer.take_turn(len(buffer))


@dataclass(frozen=True, slots=True)
class ReservationWaits:
    """How long a transfer may wait for its first bytes of budget, and for later ones, in seconds."""

    first_s: float
    next_s: float


async def cut(
    body: AsyncIterable[bytes], *, buffers: ReusedBuffers[bytearray], transfer: Transfer, waits: ReservationWaits
) -> AsyncGenerator[LeasedChunk, None]:
    """The chunks of `body` in order; all are as long as `buffers` are but the last. The taker enters each.

    The next piece is not read while the last one waits for its reservation. What a `PacedBody` can receive directly comes
    into the chunk itself; other pieces are joined once.

    Raises:
        OverloadedError: the budget stayed used up.
    """
    chunk_size_bytes = buffers.size_bytes
    buffer = _Buffer(buffers, transfer, waits)
    try:
        await buffer.reserve(1)
        async for piece in body:
            rest = memoryview(piece)
            while rest:
                part_bytes = min(len(rest), chunk_size_bytes - buffer.size_bytes)
                await buffer.reserve(part_bytes)
                buffer.add(rest[:part_bytes])
                rest = rest[part_bytes:]
                if buffer.size_bytes == chunk_size_bytes:
                    yield buffer.take()
            del piece, rest  # nothing here holds what no lease covers
            while isinstance(body, PacedBody) and (direct_bytes := body.direct_bytes):
                room = await buffer.room(direct_bytes)
                await body.receive_into(room)
                buffer.filled(len(room))
                del room  # or it would keep the chunk's buffer from being used again
                if buffer.size_bytes == chunk_size_bytes:
                    yield buffer.take()
        if buffer.size_bytes:
            yield buffer.take()
    finally:
        buffer.lease.release()


class _Buffer:
    """The unfinished chunk. Invariant: `lease` covers at least the bytes in `_pieces`, and all of `_whole`.

    What came is in `_whole` as soon as there is one, in `_pieces` before.
    """

    def __init__(self, buffers: ReusedBuffers[bytearray], transfer: Transfer, waits: ReservationWaits) -> None:
        self._buffers = buffers
        self._chunk_size_bytes = buffers.size_bytes
        self._transfer = transfer
        self._wait_s = waits.first_s
        self._waits = waits
        self._pieces: list[memoryview | bytearray] = []
        self._whole: bytearray | None = None
        self._is_first = True
        self.size_bytes = 0
        self.lease = transfer.lease()

    async def reserve(self, size_bytes: int) -> None:
        """Cover `size_bytes` more, at most twice of what came, or all of a chunk of which a quarter came.

        So a client that sends slowly holds little.
        """
        needed = self.size_bytes + size_bytes
        if needed <= self.lease.size_bytes:
            return
        step = self._chunk_size_bytes
        if needed <= FIRST_RESERVATION_BYTES:
            step = FIRST_RESERVATION_BYTES
        elif 4 * needed < self._chunk_size_bytes and self._transfer.has_room_for_steps(self._chunk_size_bytes):
            step = 2 * needed
        await self._grow_to(min(step, self._chunk_size_bytes))

    async def _grow_to(self, size_bytes: int) -> None:
        await self._transfer.grow(self.lease, size_bytes - self.lease.size_bytes, wait_s=self._wait_s)
        self._wait_s = self._waits.next_s

    async def room(self, coming_bytes: int) -> memoryview:
        """Where the next of `coming_bytes` go, reserved. A client that sent a chunk has all of the next while there is plenty."""
        end = min(self._chunk_size_bytes, self.size_bytes + coming_bytes)
        if self._is_first or not self._transfer.budget.is_plentiful:
            await self.reserve(1)
        elif self.lease.size_bytes < end:
            await self._grow_to(end)
        end = min(end, self.lease.size_bytes)
        if end < self._chunk_size_bytes:
            part = bytearray(end - self.size_bytes)
            self._pieces.append(part)
            return memoryview(part)
        if self._whole is None:
            self._whole = self._buffers.take()
            at = 0
            for piece in self._pieces:
                memoryview(self._whole)[at : at + len(piece)] = piece
                at += len(piece)
            self._pieces = []
        return memoryview(self._whole)[self.size_bytes :]

    def filled(self, size_bytes: int) -> None:
        """The room was filled."""
        self.size_bytes += size_bytes

    def add(self, part: memoryview) -> None:
        """Keep `part`."""
        self._pieces.append(part)
        self.size_bytes += len(part)

    def take(self) -> LeasedChunk:
        """The chunk as it stands; begins the next one."""
        chunk, lease = FileChunk.of(self._join()), self.lease
        lease.shrink_to(len(chunk.data))
        self._pieces, self._whole, self.size_bytes, self.lease = [], None, 0, self._transfer.lease()
        self._is_first = False
        return LeasedChunk(chunk, lease)

    def _join(self) -> ChunkBytes:
        return b"".join(self._pieces) if self._whole is None else self._whole
