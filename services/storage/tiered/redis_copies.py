"""RedisCopies of flushed chunks in Redis: what is read from there, what is promoted, and what makes room (S-82).

A copy only saves time, so every kind of trouble in Redis is a miss. The disk has the chunk, unless it has lost it: then the
copy may be the last good replica, and is not evicted before it was restored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final, Self

import structlog

from services.storage.digests import is_whole
from services.storage.disk.tier import DiskTier
from services.storage.metrics import StorageMetrics
from services.storage.ports import Body
from services.storage.redis_node import chunk_keys
from services.storage.redis_node.batcher import GetBatcher
from services.storage.redis_node.link import RedisLink
from services.storage.tiered.keyed_locks import KeyedLocks
from services.storage.tiered.read_cache import ReadCache
from services.storage.tiered.recovery import Recovery
from shared.background_tasks import BackgroundTasks
from shared.errors import DiskFullError, OverloadedError, UnavailableError
from shared.units import MIB

logger = structlog.get_logger(__name__)

_MAX_PROMOTIONS: Final = 16


class RedisCopies:
    """The copies of one `TieredTier`, whose disk, link, recovery, read cache and locks of changes they share."""

    def __init__(
        self,
        disk: DiskTier,
        link: RedisLink,
        recovery: Recovery,
        *,
        read_cache: ReadCache,
        changes: KeyedLocks,
        metrics: StorageMetrics,
    ) -> None:
        self._disk = disk
        self._link = link
        self._recovery = recovery
        self._read_cache = read_cache
        self._changes = changes
        self._metrics = metrics
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin, with a link that is open."""
        self._promotions = await self._stack.enter_async_context(BackgroundTasks(_MAX_PROMOTIONS))
        self._reads = GetBatcher(self._link, await self._stack.enter_async_context(BackgroundTasks()))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop what is under way: nobody waits for a promotion."""
        await self._stack.aclose()

    async def get(self, digest: str) -> bytes | None:
        """The body of a whole copy; None where there is none."""
        size_bytes = self._read_cache.size_bytes(digest)
        return None if size_bytes is None else await self._read(digest, size_bytes)

    async def get_many(self, digests: Sequence[str], max_bytes: int) -> dict[str, bytes]:
        """Those of the digests that have a whole copy of at most `max_bytes`."""
        sizes_bytes = {d: size for d in digests if (size := self._read_cache.size_bytes(d)) is not None}
        return await self._read_many({digest: size for digest, size in sizes_bytes.items() if size <= max_bytes})

    async def restore(self, digest: str) -> bool:
        """Put a chunk that the disk has lost back from Redis, listed or not; whether it is not lost any more."""
        size_bytes = self._read_cache.size_bytes(digest)
        body = await self._read(digest, MIB if size_bytes is None else size_bytes)
        return body is not None and await self._recovery.restore(digest, body)

    def missed(self, digest: str, body: Body) -> None:
        """The disk had to answer: make a copy, in the background, of what is read again and again."""
        if not (self._disk.is_small(len(body)) and self._link.is_usable and self._read_cache.should_promote(digest)):
            return
        try:
            self._promotions.start("promote", self._promote(digest, bytes(body)))
        except OverloadedError:
            return  # a copy only saves time

    async def evict(self, reserved_bytes: int = 0) -> None:
        """Keep the bounds of the read cache, with room for `reserved_bytes` more.

        A chunk whose only good replica is the copy is restored first; where that fails it stays in Redis until the next
        recovery.
        """
        if not (evicted := self._read_cache.evict(reserved_bytes)):
            return
        held = await self._disk.has(evicted, None)
        dropped = [digest for digest in evicted if digest in held or await self.restore(digest)]
        if len(dropped) < len(evicted):
            self._recovery.learn_again()
        await self._recovery.drop_copies(dropped)

    async def _read(self, digest: str, size_bytes: int) -> bytes | None:
        return (await self._read_many({digest: size_bytes})).get(digest)

    async def _read_many(self, sizes_bytes: Mapping[str, int]) -> dict[str, bytes]:
        """Those of the digests in `sizes_bytes` that are whole."""
        if not sizes_bytes or not self._link.is_usable:
            return {}
        try:
            bodies = await self._reads.get(list(sizes_bytes), sum(sizes_bytes.values()))
        except (UnavailableError, DiskFullError):
            return {}
        whole: dict[str, bytes] = {}
        for digest, body in zip(sizes_bytes, bodies, strict=True):
            if body is not None and is_whole(body, digest):
                self._read_cache.touch(digest)
                whole[digest] = body
            else:
                self._record_bad_copy(digest, is_corrupt=body is not None)
        return whole

    def _record_bad_copy(self, digest: str, *, is_corrupt: bool) -> None:
        self._read_cache.remove(digest)
        if is_corrupt:
            self._metrics.corrupt.labels(tier="redis").inc()
            self._recovery.learn_again()
            logger.error("a copy in redis is not the chunk; the disk answers", digest=digest)

    async def _promote(self, digest: str, body: bytes) -> None:
        async with self._changes.hold(digest):
            # It may have been deleted since it was read.
            if digest in self._read_cache or await self._disk.find(digest) is None:
                return
            try:
                await self._link.call(lambda client: chunk_keys.put_copy(client, digest, body), changes=True)
            except DiskFullError:
                await self.evict(reserved_bytes=MIB)
                return
            except UnavailableError as error:
                if not error.definite:
                    self._recovery.defer_deletes([digest])
                return
            self._read_cache.add(digest, len(body))
        await self.evict()
