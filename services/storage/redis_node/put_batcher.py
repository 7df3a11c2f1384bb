"""Group commit for Redis: puts that arrive while a MULTI is under way share the next one, and its fsync.

A MULTI per chunk costs the client and the server several times the CPU, and each would wait for an fsync of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from services.storage.redis_node.chunk_keys import RecordedChunk, put_recorded
from services.storage.redis_node.link import RedisLink
from shared.background_tasks import BackgroundTasks
from shared.errors import TrivetError
from shared.units import MIB

_MAX_BATCH: Final = 64
_MAX_BATCH_BYTES: Final = MIB


@dataclass(frozen=True, slots=True)
class _Waiting:
    chunk: RecordedChunk
    future: asyncio.Future[bool]


class PutBatcher:
    """Invariant: at most one MULTI is under way; whoever waits behind a failed one fails with it.

    Failing the waiters too keeps the bound: a put against a hung Redis costs one deadline, not one per batch before it.
    The number of waiters is bounded by the byte budget of the requests that brought them.
    """

    def __init__(self, link: RedisLink, tasks: BackgroundTasks, *, is_sole_record: bool = False) -> None:
        self._link = link
        self._is_sole_record = is_sole_record
        self._tasks = tasks
        self._waiting: deque[_Waiting] = deque()
        self._is_sending = False

    async def put(self, chunk: RecordedChunk) -> bool:
        """Store `chunk` durably in Redis; whether it was new to the record. Raises what `RedisLink.call` raises."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(chunk, future))
        if not self._is_sending:
            self._tasks.start("redis puts", self._send_all())
            self._is_sending = True
        return await future

    async def _send_all(self) -> None:
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                batch = self._next_batch()
                await self._send(batch)
        finally:
            self._is_sending = False
            for waiting in (*batch, *self._waiting):  # only after a cancellation is anybody left here
                waiting.future.cancel()

    async def _send(self, batch: list[_Waiting]) -> None:
        chunks = [waiting.chunk for waiting in batch]
        size_bytes = sum(len(chunk.body) for chunk in chunks)
        try:
            created = await self._link.call(
                lambda client: put_recorded(client, chunks, is_sole_record=self._is_sole_record),
                size_bytes=size_bytes,
                changes=True,
            )
        except TrivetError as error:
            batch.extend(self._waiting)
            self._waiting.clear()
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        for waiting, is_new in zip(batch, created, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(is_new)

    def _next_batch(self) -> list[_Waiting]:
        batch = [self._waiting.popleft()]
        size_bytes = len(batch[0].chunk.body)
        while self._waiting and len(batch) < _MAX_BATCH and size_bytes < _MAX_BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size_bytes += len(batch[-1].chunk.body)
        return batch
