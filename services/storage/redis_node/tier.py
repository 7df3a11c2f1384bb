"""The Redis tier, mode `redis`: this node's own Redis is the store of record.

Durable by AOF with `appendfsync always`, bounded by `maxmemory` with `noeviction`; both are checked before it is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final, Self

import structlog

from services.storage.digests import is_whole
from services.storage.metrics import StorageMetrics
from services.storage.outcomes import outcomes_of, result_of, too_large_for_a_batch
from services.storage.ports import Body, Chunk, ChunkPut, ConditionalDelete, LostChunk, PutOutcome
from services.storage.redis_node import chunk_keys
from services.storage.redis_node.batcher import PutBatcher
from services.storage.redis_node.chunk_keys import RecordedChunk
from services.storage.redis_node.link import RedisLink
from services.storage.redis_node.record_sums import RecordSums
from services.storage.verified_chunks import VerifiedChunks
from shared.background_tasks import BackgroundTasks
from shared.contracts.chunks import HeldChunk, TierStatus
from shared.errors import ChunkCorruptError, ChunkNotFoundError, DiskFullError, TrivetError, UnavailableError
from shared.partitions import SetSum

logger = structlog.get_logger(__name__)

_PART: Final = 1000
_YIELDING_PART: Final = 16
"""Puts that wait in a line with those of requests, one part at a time."""
_DELETED_PART: Final = 256
"""In one step of the server, which does nothing else meanwhile."""


class RedisTier:
    """Implements `ports.Tier` on one Redis; `unlimited_bytes` is the capacity told when the server has no limit."""

    name = "redis"

    def __init__(
        self, link: RedisLink, *, metrics: StorageMetrics, unlimited_bytes: int, verified: VerifiedChunks | None = None
    ) -> None:
        self._link = link
        self._unlimited_bytes = unlimited_bytes
        self._metrics = metrics
        self._verified = VerifiedChunks() if verified is None else verified
        self._stack = AsyncExitStack()
        self._sums = RecordSums(self.list_chunks)
        self._is_full = False
        """Redis refused the last put for lack of room, and nothing was deleted since."""

    async def __aenter__(self) -> Self:
        """Connect; when Redis does not answer, go on and let /readyz say so."""
        await self._stack.enter_async_context(self._link)
        self._tasks = await self._stack.enter_async_context(BackgroundTasks())
        self._batcher = PutBatcher(self._link, self._tasks, is_sole_record=True)
        await self._link.start(self._recover)
        self._link.supervise(self._recover, self._tasks)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def put(self, chunk: Chunk, start_index: int) -> PutOutcome:
        """See `ports.Tier`."""
        return result_of((await self.put_many([ChunkPut(chunk, start_index)]))[0])

    async def put_many(self, puts: Sequence[ChunkPut], *, yields: bool = False) -> list[PutOutcome | TrivetError]:
        """See `ports.Tier`. One MULTI, and so one fsync, for all of them, or for a few where they yield."""
        if yields and len(puts) > _YIELDING_PART:
            parts = [puts[start : start + _YIELDING_PART] for start in range(0, len(puts), _YIELDING_PART)]
            return [outcome for part in parts for outcome in await self.put_many(part, yields=True)]
        chunks = [RecordedChunk(put.chunk.digest, put.chunk.body(), put.start_index) for put in puts]
        digests = [chunk.digest for chunk in chunks]
        with self._sums.changing(digests):
            try:
                created = await self._batcher.put(chunks)
            except DiskFullError:
                self._is_full = True
                raise
        self._is_full = False
        self._verified.record(digests)
        return [PutOutcome(self.name, is_new) for is_new in created]

    async def get(self, digest: str) -> bytes:
        """See `ports.Tier`. The medium is the memory of Redis, so that every read verifies."""
        body = await self._link.call(lambda client: chunk_keys.get(client, digest))
        if body is not None and is_whole(body, digest):
            self._verified.record([digest])
            return body
        self._verified.forget([digest])
        if not await self._lose(digest, is_absent=body is None) and body is None:
            raise ChunkNotFoundError("This node does not hold the chunk.", digest=digest)
        # What Redis holds under this name is not the chunk: it is no longer held, so that a good replica can come back.
        self._metrics.corrupt.labels(tier=self.name).inc()
        logger.error("chunk corrupt, dropped", digest=digest, tier=self.name, size_bytes=len(body or b""))
        raise ChunkCorruptError("This replica does not match its digest; it was dropped.", digest=digest)

    async def get_many(self, digests: Sequence[str], max_bytes: int) -> list[Body | TrivetError]:
        """See `ports.Tier`. What one pipeline does not give whole is asked for alone, as `get` does."""
        found, large = await self._link.call(
            lambda client: chunk_keys.get_many_up_to(client, digests, max_bytes), size_bytes=max_bytes * len(digests)
        )
        outcomes: dict[str, Body | TrivetError] = dict.fromkeys(large, too_large_for_a_batch(max_bytes))
        outcomes |= {digest: body for digest, body in found.items() if is_whole(body, digest)}
        self._verified.record(outcomes.keys() - large)
        alone = [digest for digest in digests if digest not in outcomes]
        outcomes.update(zip(alone, await outcomes_of([self.get(digest) for digest in alone]), strict=True))
        return [outcomes[digest] for digest in digests]

    async def reread(self, digest: str) -> bytes:
        """As `get`: nothing is remembered from earlier reads."""
        return await self.get(digest)

    def is_verified(self, digest: str) -> bool:
        """See `ports.Tier`."""
        return digest in self._verified

    async def verify(self, digest: str) -> int:
        """See `ports.Tier`."""
        return len(await self.get(digest))

    async def get_size_bytes(self, digest: str) -> int:
        """See `ports.Tier`."""
        size_bytes = await self._link.call(lambda client: chunk_keys.get_recorded_size_bytes(client, digest))
        if size_bytes is None:
            raise ChunkNotFoundError("This node does not hold the chunk.", digest=digest)
        return size_bytes

    async def has(self, digests: Sequence[str], start_index: int | None) -> set[str]:
        """See `ports.Tier`."""
        if start_index is None:
            return set(await self.start_indexes(digests))
        return await self.record_start_indexes(dict.fromkeys(digests, start_index))

    async def record_start_indexes(self, start_indexes: Mapping[str, int]) -> set[str]:
        """See `ports.Tier`."""
        found: set[str] = set()
        digests = list(start_indexes)
        for start in range(0, len(digests), _PART):
            wanted = {digest: start_indexes[digest] for digest in digests[start : start + _PART]}
            found |= await self._link.call(lambda client: chunk_keys.record_start_indexes(client, wanted), changes=True)  # noqa: B023 - called at once
        return found

    async def start_indexes(self, digests: Sequence[str]) -> dict[str, int]:
        """See `ports.Tier`."""
        found: dict[str, int] = {}
        for start in range(0, len(digests), _PART):
            part = digests[start : start + _PART]
            found |= await self._link.call(lambda client: chunk_keys.start_indexes(client, part))  # noqa: B023 - called at once
        return found

    async def delete(self, digest: str) -> bool:
        """See `ports.Tier`."""
        with self._sums.changing([digest]):
            removed = await self._link.call(lambda client: chunk_keys.remove(client, [digest]), changes=True)
        self._is_full = False
        self._verified.forget([digest])
        return removed == 1

    async def delete_if(self, candidates: Sequence[ConditionalDelete]) -> set[str]:
        """See `ports.Tier`. The server compares again what the conditions have seen, in the step that deletes."""
        deleted: set[str] = set()
        for start in range(0, len(candidates), _DELETED_PART):
            conditions = {each.digest: each.condition for each in candidates[start : start + _DELETED_PART]}
            with self._sums.changing(list(conditions)):
                found = await self._link.call(lambda client: chunk_keys.delete_if(client, conditions), changes=True)  # noqa: B023 - called at once
            self._verified.forget(found)
            self._is_full = self._is_full and not found
            deleted |= found
        return deleted

    async def list_chunks(self, prefix: str, after: str, limit: int) -> list[HeldChunk]:
        """See `ports.Tier`."""
        found: list[HeldChunk] = []
        # Chunks that are deleted between the two questions leave a gap, which must not look like the last page.
        while len(found) < limit:
            at, missing = after, limit - len(found)
            digests = await self._link.call(lambda client: chunk_keys.list_index(client, prefix, at, missing))  # noqa: B023 - called at once
            if not digests:
                break
            entries = await self._link.call(lambda client: chunk_keys.sizes_and_indexes(client, digests))  # noqa: B023 - likewise
            found += [HeldChunk(digest=name, size_bytes=size, start_index=index) for name, size, index in entries]
            after = digests[-1]
            if len(digests) < missing:
                break
        return found

    async def sums(self, group: int | None) -> list[SetSum]:
        """See `ports.Tier`."""
        return await self._sums.sums(group)

    async def list_lost(self, after: str, limit: int) -> list[LostChunk]:
        """See `ports.Tier`."""
        found = await self._link.call(lambda client: chunk_keys.list_lost(client, after, limit))
        return [LostChunk(digest, start_index) for digest, start_index in found]

    async def restore(self, chunk: Chunk) -> bool:
        """See `ports.Tier`."""
        body = chunk.body()
        with self._sums.changing([chunk.digest]):
            return await self._link.call(
                lambda client: chunk_keys.restore(client, chunk.digest, body), size_bytes=len(body), changes=True
            )

    async def scrub_position(self) -> str:
        """The last digest that the scrub has read in this pass; empty before the first."""
        return await self._link.call(chunk_keys.scrub_position)

    async def save_scrub_position(self, digest: str) -> None:
        """Remember it across restarts. Raises UnavailableError."""
        await self._link.call(lambda client: chunk_keys.save_scrub_position(client, digest), changes=True)

    async def statuses(self) -> list[TierStatus]:
        """See `ports.Tier`."""
        count: int | None = None
        lost_count: int | None = None
        used_bytes: int | None = None
        try:
            count, lost_count, used_bytes = await self._link.call(chunk_keys.count_recorded)
        except (UnavailableError, DiskFullError):
            logger.debug("redis did not tell its size")
        return [
            TierStatus(
                name=self.name,
                is_available=self._link.is_usable,
                chunk_count=count,
                sole_chunk_count=count,
                used_bytes=used_bytes,
                # What was last seen while Redis is away: what a node weighs in placement must not follow its crashes.
                capacity_bytes=self._unlimited_bytes if self._link.limit_bytes == 0 else self._link.limit_bytes,
                lost_chunk_count=lost_count,
            )
        ]

    def reasons_against_writes(self) -> list[str]:
        """See `ports.Tier`."""
        return [] if self._link.objection is None else [f"redis: {self._link.objection}"]

    def shortage(self) -> str | None:
        """See `ports.Tier`. By the last put: Redis is not asked in between."""
        return "Redis has no room left." if self._is_full else None

    def degradations(self) -> list[str]:
        """See `ports.Tier`."""
        return self._tasks.degradations() + ([] if self._link.weakness is None else [self._link.weakness])

    async def _lose(self, digest: str, *, is_absent: bool) -> bool:
        """Take a bad chunk out of service; whether it was recorded as held.

        Raises:
            UnavailableError: its bytes are absent, and whether they should be there is not known.
        """
        try:
            with self._sums.changing([digest]):
                return await self._link.call(
                    lambda client: chunk_keys.lose_unless(client, digest, lambda body: is_whole(body, digest)),
                    changes=True,
                )
        except (UnavailableError, DiskFullError) as error:
            if is_absent:
                raise UnavailableError("Redis did not say whether it holds the chunk.", digest=digest) from error
            logger.warning("a corrupt chunk could not be dropped and will be found again", digest=digest)
            return True

    async def _recover(self) -> None:
        """In this mode Redis is the record: what it holds is what there is."""
        self._sums.forget()
        self._verified.clear()
