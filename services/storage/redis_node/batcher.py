"""Group commit and batched reads in Redis: calls that arrive during a round trip share the next one.

A MULTI per put costs the client and the server several times the CPU, and each would wait for an fsync of its own; a GET per
read costs more in the client than everything else about a small read.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import structlog

from services.storage.redis_node.chunk_keys import (
    RecordedChunk,
    get_many_directly,
    put_buffered,
    put_recorded,
)
from services.storage.redis_node.link import RedisLink
from shared.background_tasks import BackgroundTasks
from shared.errors import TrivetError, UnavailableError
from shared.units import MIB

logger = structlog.get_logger(__name__)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_MAX_BATCH: Final = 64
_MAX_BATCH_BYTES: Final = MIB


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[ItemT, ResultT]):
    items: Sequence[ItemT]
    size_bytes: int
    future: asyncio.Future[Sequence[ResultT]]


class Batcher(Generic[ItemT, ResultT]):
    """Invariant: at most one batch is under way; calls that wait behind a failed one fail with it.

    That keeps the bound: a call to a hung Redis costs one deadline, not one per batch before it.
    The number of waiters is bounded by the byte budget of the requests that brought them.
    """

    def __init__(
        self, send: Callable[[Sequence[ItemT], int], Awaitable[Sequence[ResultT]]], tasks: BackgroundTasks, name: str
    ) -> None:
        self._send = send
        self._tasks = tasks
        self._name = name
        self._waiting: deque[_Waiting[ItemT, ResultT]] = deque()
        self._is_sending = False

    async def call(self, items: Sequence[ItemT], size_bytes: int) -> Sequence[ResultT]:
        """What the server answers for each of `items`, together about `size_bytes` on the wire; they stay together.

        Raises what `RedisLink.call` raises.
        """
        future: asyncio.Future[Sequence[ResultT]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(items, size_bytes, future))
        if not self._is_sending:
            self._tasks.start(self._name, self._send_all())
            self._is_sending = True
        return await future

    async def _send_all(self) -> None:
        batch: list[_Waiting[ItemT, ResultT]] = []
        try:
            while self._waiting:
                batch = self._next_batch()
                await self._send_one(batch)
        finally:
            self._is_sending = False
            for waiting in (*batch, *self._waiting):  # only after a cancellation is anybody left here
                waiting.future.cancel()

    async def _send_one(self, batch: list[_Waiting[ItemT, ResultT]]) -> None:
        items = [item for waiting in batch for item in waiting.items]
        try:
            results = await self._send(items, sum(waiting.size_bytes for waiting in batch))
            parts = _in_parts(results, [len(waiting.items) for waiting in batch])
        except TrivetError as error:
            self._fail(batch, error)
            return
        except Exception:
            logger.exception("a batch for redis failed", name=self._name)
            self._fail(batch, UnavailableError("Redis was not asked as it should be.", definite=False))
            return
        for waiting, part in zip(batch, parts, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(part)

    def _fail(self, batch: list[_Waiting[ItemT, ResultT]], error: TrivetError) -> None:
        batch.extend(self._waiting)
        self._waiting.clear()
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_exception(error)

    def _next_batch(self) -> list[_Waiting[ItemT, ResultT]]:
        batch: list[_Waiting[ItemT, ResultT]] = []
        count = size_bytes = 0
        while self._waiting and count < _MAX_BATCH and size_bytes < _MAX_BATCH_BYTES:
            batch.append(self._waiting.popleft())
            count += len(batch[-1].items)
            size_bytes += batch[-1].size_bytes
        return batch


def _in_parts(results: Sequence[ResultT], counts: Sequence[int]) -> list[Sequence[ResultT]]:
    """Raises ValueError when they do not add up."""
    if len(results) != sum(counts):
        raise ValueError(f"{len(results)} results for {sum(counts)} items")
    ends = list(itertools.accumulate(counts))
    return [results[end - count : end] for end, count in zip(ends, counts, strict=True)]


class PutBatcher:
    """Group commit: puts share a MULTI and its fsync."""

    def __init__(self, link: RedisLink, tasks: BackgroundTasks, *, is_sole_record: bool = False) -> None:
        self._link = link
        self._is_sole_record = is_sole_record
        self._connection = link.make_direct_connection()
        self._batcher = Batcher(self._send, tasks, "redis puts")

    async def put(self, chunks: Sequence[RecordedChunk]) -> Sequence[bool]:
        """Store `chunks` durably in Redis, all or none; for each whether it was new to the record.

        Raises what `RedisLink.call` raises.
        """
        return await self._batcher.call(chunks, sum(len(chunk.body) for chunk in chunks))

    async def _send(self, chunks: Sequence[RecordedChunk], size_bytes: int) -> list[bool]:
        put = put_recorded if self._is_sole_record else put_buffered
        return await self._link.call(lambda _: put(self._connection, chunks), size_bytes=size_bytes, changes=True)


class GetBatcher:
    """Reads of small chunks share an MGET."""

    def __init__(self, link: RedisLink, tasks: BackgroundTasks) -> None:
        self._link = link
        self._connection = link.make_direct_connection()
        self._batcher = Batcher(self._send, tasks, "redis gets")

    async def get(self, digests: Sequence[str], size_bytes: int) -> Sequence[bytes | None]:
        """The bytes of each, together about `size_bytes`, unchecked. Raises what `RedisLink.call` raises."""
        return await self._batcher.call(digests, size_bytes)

    async def _send(self, digests: Sequence[str], size_bytes: int) -> list[bytes | None]:
        return await self._link.call(lambda _: get_many_directly(self._connection, digests), size_bytes=size_bytes)
