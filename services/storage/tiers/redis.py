"""The Redis tier, the seed's mode: this node's own Redis is the store of record.

Durable by AOF with `appendfsync always`, bounded by `maxmemory` with `noeviction`; both are checked before it is trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final, Self

import structlog

from services.storage.digests import is_whole
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk, PutOutcome
from services.storage.redis_node import chunk_keys
from services.storage.redis_node.chunk_keys import RecordedChunk
from services.storage.redis_node.link import RedisLink
from services.storage.redis_node.put_batcher import PutBatcher
from shared.background_tasks import BackgroundTasks
from shared.contracts.chunks import TierStatus
from shared.errors import ChunkCorruptError, ChunkNotFoundError, DiskFullError, UnavailableError

logger = structlog.get_logger(__name__)

_PART: Final = 1000


class RedisTier:
    """Implements `ports.Tier` on one Redis."""

    name = "redis"

    def __init__(self, link: RedisLink, *, metrics: StorageMetrics) -> None:
        self._link = link
        self._metrics = metrics
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect; when Redis does not answer, go on and let /readyz say so."""
        await self._stack.enter_async_context(self._link)
        tasks = await self._stack.enter_async_context(BackgroundTasks())
        self._batcher = PutBatcher(self._link, tasks)
        await self._link.open(_nothing_to_recover)
        tasks.start("redis supervisor", self._link.supervise(_nothing_to_recover))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def put(self, chunk: Chunk, start_index: int) -> PutOutcome:
        """See `ports.Tier`."""
        created = await self._batcher.put(RecordedChunk(chunk.digest, chunk.body(), start_index))
        return PutOutcome(self.name, created)

    async def get(self, digest: str) -> bytes:
        """See `ports.Tier`."""
        body = await self._link.call(lambda client: chunk_keys.get(client, digest))
        if body is None:
            raise ChunkNotFoundError("This node does not hold the chunk.", digest=digest)
        if is_whole(body, digest):
            return body
        # What Redis holds under this name is not the chunk: it is no longer held, so that a good replica can come back.
        self._metrics.corrupt.labels(tier=self.name).inc()
        logger.error("chunk corrupt, dropped", digest=digest, tier=self.name, size_bytes=len(body))
        await self._drop_corrupt(digest)
        raise ChunkCorruptError("This replica does not match its digest; it was dropped.", digest=digest)

    async def get_size_bytes(self, digest: str) -> int:
        """See `ports.Tier`."""
        size_bytes = await self._link.call(lambda client: chunk_keys.get_recorded_size_bytes(client, digest))
        if size_bytes is None:
            raise ChunkNotFoundError("This node does not hold the chunk.", digest=digest)
        return size_bytes

    async def has(self, digests: Sequence[str], start_index: int | None) -> set[str]:
        """See `ports.Tier`."""
        found: set[str] = set()
        for start in range(0, len(digests), _PART):
            found |= await self._has_part(digests[start : start + _PART], start_index)
        return found

    async def delete(self, digest: str) -> bool:
        """See `ports.Tier`."""
        return await self._link.call(lambda client: chunk_keys.remove(client, [digest]), changes=True) == 1

    async def statuses(self) -> list[TierStatus]:
        """See `ports.Tier`."""
        count: int | None = None
        used_bytes: int | None = None
        try:
            count, used_bytes = await self._link.call(chunk_keys.count_recorded)
        except (UnavailableError, DiskFullError):
            logger.debug("redis did not tell its size")
        return [
            TierStatus(
                name=self.name,
                is_available=self._link.is_usable,
                chunk_count=count,
                sole_chunk_count=count,
                used_bytes=used_bytes,
                capacity_bytes=self._link.limit_bytes,
            )
        ]

    def reasons_against_writes(self) -> list[str]:
        """See `ports.Tier`."""
        return [] if self._link.objection is None else [f"redis: {self._link.objection}"]

    def degradations(self) -> list[str]:
        """See `ports.Tier`."""
        return []

    async def _has_part(self, digests: Sequence[str], start_index: int | None) -> set[str]:
        return await self._link.call(
            lambda client: chunk_keys.recorded(client, digests, start_index), changes=start_index is not None
        )

    async def _drop_corrupt(self, digest: str) -> None:
        try:
            await self._link.call(
                lambda client: chunk_keys.remove_unless(client, digest, lambda body: is_whole(body, digest)),
                changes=True,
            )
        except UnavailableError:
            logger.warning("a corrupt chunk could not be dropped and will be found again", digest=digest)


async def _nothing_to_recover() -> None:
    """In this mode Redis is the record: what it holds is what there is."""
