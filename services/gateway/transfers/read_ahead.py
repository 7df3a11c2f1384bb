"""Fetches the next chunks of a download while one is being sent, as far as the byte budget goes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from services.gateway.replicas.reader import FetchedChunk
from services.gateway.transfers.admission import Transfer
from services.gateway.transfers.chunk_lists import ChunkSlice, SliceCursor
from services.gateway.transfers.chunking import ReservationWaits
from services.gateway.transfers.download_source import DownloadSource, EarlyFetch
from shared.byte_budget import ByteLease
from shared.contracts.cluster import NodeMap
from shared.errors import RequestTimeoutError, TrivetError


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """See `GatewaySettings`."""

    read_ahead_chunks: int
    waits: ReservationWaits
    lookup_wait_s: float
    max_age_s: float


@dataclass(frozen=True, slots=True)
class _Begun:
    """A chunk under way, or at hand, and the lease that covers it."""

    chunk: ChunkSlice
    lease: ByteLease
    outcome: FetchedChunk | asyncio.Future[FetchedChunk | TrivetError]

    async def fetched(self) -> FetchedChunk:
        """Raises the error of the fetch."""
        if isinstance(self.outcome, FetchedChunk):
            return self.outcome
        fetched = await self.outcome
        if isinstance(fetched, TrivetError):
            raise fetched
        return fetched


class FetchedSlice(NamedTuple):
    """A chunk at hand; the lease that covers it is given back when its block is left."""

    chunk: ChunkSlice
    found: FetchedChunk
    lease: ByteLease

    def __enter__(self) -> None:
        """The owner works on it."""

    def __exit__(self, *_: object) -> None:
        self.lease.release()

    def view(self) -> memoryview:
        """The bytes that are wanted of it."""
        return memoryview(self.found.data)[self.chunk.start : self.chunk.stop]


class ReadAhead:
    """Chunks being fetched ahead, in file order.

    Invariant: each is covered by a lease. Only the next one waits for budget; others are fetched when it is plentiful,
    so downloads cannot wait for each other in a circle.
    """

    def __init__(
        self,
        cursor: SliceCursor,
        node_map: NodeMap,
        transfer: Transfer,
        *,
        early: EarlyFetch | None,
        source: DownloadSource,
        limits: DownloadLimits,
        group: asyncio.TaskGroup,
    ) -> None:
        self._cursor = cursor
        self._node_map = node_map
        self._transfer = transfer
        self._early = early
        self._source = source
        self._limits = limits
        self._group = group
        self._ahead: deque[_Begun] = deque()
        self._leases: set[ByteLease] = set()
        self._wait_s = limits.waits.first_s
        self._ends_at_s = time.monotonic() + limits.max_age_s

    async def require_next(self) -> None:
        """Have the next chunk under way, if there is one, waiting for its budget; and more while there is plenty."""
        transfer, cursor = self._transfer, self._cursor
        if not cursor.is_at_end and time.monotonic() >= self._ends_at_s:
            # The version may be replaced or deleted, and its chunks collected: they would be missing one by one.
            raise RequestTimeoutError("The download takes longer than the chunks of a replaced file are kept.")
        if not self._ahead and (following := await cursor.load()) is not None:
            lease = self._new_lease()
            await transfer.grow(lease, following.size_bytes, wait_s=self._wait_s)
            self._wait_s = self._limits.waits.next_s
            self._begin(following, lease)
        while (
            len(self._ahead) < self._limits.read_ahead_chunks
            and (following := cursor.peek()) is not None
            and transfer.budget.is_plentiful
        ):
            lease = self._new_lease()
            if not lease.try_grow(following.size_bytes):
                return
            self._begin(following, lease)

    @property
    def is_first_cached(self) -> bool:
        """Whether the next chunk needs no storage node."""
        return isinstance(self._ahead[0].outcome, FetchedChunk)

    async def first(self) -> FetchedChunk:
        """The next chunk, which stays the next."""
        return await self._ahead[0].fetched()

    async def next(self) -> FetchedSlice | None:
        """The next chunk, which the caller enters; None after the last one."""
        if not self._ahead:
            return None
        fetched = await self._ahead[0].fetched()
        begun = self._ahead.popleft()
        return FetchedSlice(begun.chunk, fetched, begun.lease)

    def unsent(self) -> tuple[list[ChunkSlice], SliceCursor]:
        """The chunks under way, and where those behind them begin."""
        return [begun.chunk for begun in self._ahead], self._cursor.fork()

    def close(self) -> None:
        """Stop fetching and give all budget back."""
        for begun in self._ahead:
            if not isinstance(begun.outcome, FetchedChunk):
                begun.outcome.cancel()
        for lease in self._leases:
            lease.release()

    def _new_lease(self) -> ByteLease:
        self._leases = {lease for lease in self._leases if lease.size_bytes}
        lease = self._transfer.lease()
        self._leases.add(lease)
        return lease

    def _begin(self, chunk: ChunkSlice, lease: ByteLease) -> None:
        self._cursor.advance()
        outcome: FetchedChunk | asyncio.Future[FetchedChunk | TrivetError] | None = self._source.find(chunk)
        if outcome is None and self._early is not None:
            outcome = self._early.take(chunk, self._node_map)
        if outcome is None:
            outcome = self._group.create_task(self._source.fetch(chunk, self._node_map))
        self._ahead.append(_Begun(chunk, lease, outcome))
