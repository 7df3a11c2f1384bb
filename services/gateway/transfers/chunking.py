"""Cuts a stream of bytes into chunks, holding no more than one unfinished chunk, every byte of it reserved beforehand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass

from services.gateway.ports import FileChunk
from services.gateway.settings import FIRST_RESERVATION_BYTES
from services.gateway.transfers.admission import Transfer
from shared.byte_budget import ByteLease


@dataclass(frozen=True, slots=True)
class ReservationWaits:
    """How long a transfer may wait for its first bytes of budget, and for later ones, in seconds."""

    first_s: float
    next_s: float


async def cut(
    body: AsyncIterable[bytes], *, chunk_size_bytes: int, transfer: Transfer, waits: ReservationWaits
) -> AsyncGenerator[tuple[FileChunk, ByteLease], None]:
    """The chunks of `body` in order; all have `chunk_size_bytes` but the last. The taker releases each lease.

    The next piece is not read while the last one waits for its reservation. A chunk is joined once from its pieces.

    Raises:
        OverloadedError: the budget stayed used up.
    """
    buffer = _Buffer(chunk_size_bytes, transfer, waits)
    try:
        await buffer.reserve(1)
        async for piece in body:
            rest = memoryview(piece)
            while rest:
                part = rest[: chunk_size_bytes - buffer.size_bytes]
                rest = rest[len(part) :]
                await buffer.reserve(len(part))
                buffer.add(part)
                if buffer.size_bytes == chunk_size_bytes:
                    yield buffer.take()
        if buffer.size_bytes:
            yield buffer.take()
    finally:
        buffer.lease.release()


class _Buffer:
    """The unfinished chunk. Invariant: `lease` covers at least the bytes in `_pieces`."""

    def __init__(self, chunk_size_bytes: int, transfer: Transfer, waits: ReservationWaits) -> None:
        self._chunk_size_bytes = chunk_size_bytes
        self._transfer = transfer
        self._wait_s = waits.first_s
        self._waits = waits
        self._pieces: list[memoryview] = []
        self.size_bytes = 0
        self.lease = transfer.lease()

    async def reserve(self, size_bytes: int) -> None:
        """Cover `size_bytes` more, at most twice of what came: a client that sends slowly holds little."""
        needed = self.size_bytes + size_bytes
        if needed <= self.lease.size_bytes:
            return
        step = self._chunk_size_bytes
        if needed <= FIRST_RESERVATION_BYTES:
            step = FIRST_RESERVATION_BYTES
        elif self._transfer.has_room_for_steps(self._chunk_size_bytes):
            step = 2 * needed
        target = min(step, self._chunk_size_bytes)
        await self._transfer.grow(self.lease, target - self.lease.size_bytes, wait_s=self._wait_s)
        self._wait_s = self._waits.next_s

    def add(self, part: memoryview) -> None:
        """Keep `part`."""
        self._pieces.append(part)
        self.size_bytes += len(part)

    def take(self) -> tuple[FileChunk, ByteLease]:
        """The chunk as it stands, with its lease; begins the next one."""
        chunk, lease = FileChunk.of(b"".join(self._pieces)), self.lease
        lease.shrink_to(len(chunk.data))
        self._pieces, self.size_bytes, self.lease = [], 0, self._transfer.lease()
        return chunk, lease
