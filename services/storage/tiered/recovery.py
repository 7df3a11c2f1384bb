"""Reconciles Redis and disk at start and after an outage of either (S-84, S-86).

The record of Redis names the chunks that were acknowledged there. Those that are not in this process' memory are checked and
moved to disk before Redis is used again. A delete that Redis did not confirm is kept in memory and repeated; one that is
forgotten leaves garbage, never a lost chunk. Garbage is never served: a body in Redis is a copy only if the disk knows the
chunk.

`TieredTier` and `Recovery` share the disk tier, the link, the write-behind buffer and the read cache, all owned by the tier.
The tier adds to buffer and cache and reports changes of Redis that failed (`mark_unconfirmed`, `remove_from_redis`,
`release_from_record`, `drop_copies`, `defer_deletes`). Recovery alone keeps the unconfirmed changes and pending deletes, and
answers from them (`may_record`, `is_record_unknown`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog

from services.storage.digests import is_whole
from services.storage.disk.changes import SmallChunk
from services.storage.disk.tier import DiskTier
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from services.storage.redis_node import chunk_keys
from services.storage.redis_node.link import RedisLink
from services.storage.tiered.read_cache import ReadCache
from services.storage.tiered.write_behind import WriteBehindBuffer
from shared.errors import DiskFullError, TrivetError, UnavailableError

logger = structlog.get_logger(__name__)

_PART: Final = 16
"""Chunks per step: each may be as large as a chunk can be."""
_MAX_PENDING_DELETES: Final = 10_000
_LOST_PAGE: Final = 1000
_MAX_ROUNDS: Final = 3


class Recovery:
    """Keeps Redis and disk consistent for one `TieredTier`.

    Invariant: while the record may name a chunk that is not in memory, `may_record` says so.
    """

    def __init__(
        self, disk: DiskTier, link: RedisLink, buffer: WriteBehindBuffer, read_cache: ReadCache, metrics: StorageMetrics
    ) -> None:
        self._disk = disk
        self._link = link
        self._buffer = buffer
        self._read_cache = read_cache
        self._metrics = metrics
        self._pending_deletes: dict[str, None] = {}
        self._unconfirmed: dict[str, int] = {}
        """Digest -> number of the last unconfirmed change of its entry in the record."""
        self._unconfirmed_count = 0
        self._running = asyncio.Lock()
        self._learnt_run: tuple[str, str] | None = None
        """The run of the server of which the record, the read cache and the pending deletes name every body; `learn_again`."""
        self.has_read_record = False
        """Whether all that an earlier process left in the record is on disk; before, Redis may hold unknown chunks."""

    async def run(self) -> None:
        """Move to disk what only Redis has, then fill the read cache from what it holds. No request uses Redis meanwhile.

        What it holds is read once per run of the server: after a lost answer the record alone says what is different.

        Raises:
            UnavailableError, DiskFullError: not finished; Redis stays unused and this is tried again.
        """
        async with self._running:
            await self._reconcile()
            if self._learnt_run is None or self._learnt_run != self._link.run:
                self._learnt_run = self._link.run
                try:
                    await self._learn_copies()
                except BaseException:
                    self.learn_again()
                    raise
            for _ in range(_MAX_ROUNDS):
                # Puts and a flush that were under way when the circuit opened failed and left unconfirmed changes. Nothing
                # new reaches Redis now, so they are reconciled here; left for later they would open the circuit again.
                if not self._unconfirmed and not self._pending_deletes:
                    return
                await self._reconcile()

    @asynccontextmanager
    async def excluded(self) -> AsyncIterator[None]:
        """No recovery runs until the block ends: none moves a chunk to disk by an entry of the record that it read before."""
        async with self._running:
            yield

    @property
    def is_record_unknown(self) -> bool:
        """Whether an earlier process may have left acknowledged chunks in Redis that this one has not seen yet.

        Ends when Redis was read once, also one that came back empty. Whatever happens to it later, memory has the rest.
        """
        return not self.has_read_record and self._link.was_used_before

    async def _reconcile(self) -> None:
        # A change that is marked from here on may concern a part of the record that was read before: it stays unconfirmed.
        unconfirmed = dict(self._unconfirmed)
        await self._apply_pending_deletes()
        moved = await self._move_recorded()
        if moved:
            logger.warning("moved acknowledged chunks from redis to disk", chunks=moved)
        for digest, number in unconfirmed.items():
            if self._unconfirmed.get(digest) == number:
                del self._unconfirmed[digest]
        self.has_read_record = True

    def may_record(self, digest: str) -> bool:
        """Whether the record of Redis may name a chunk that is not in memory: it comes back at the next recovery."""
        return digest in self._unconfirmed or self.is_record_unknown

    def mark_unconfirmed(self, digests: Iterable[str]) -> None:
        """A change of the record got no answer: the record may name `digests` until it was read.

        Bounded by what fits into the write-behind buffer, because without answers the circuit soon opens.
        """
        self._unconfirmed_count += 1
        self._unconfirmed.update(dict.fromkeys(digests, self._unconfirmed_count))

    def learn_again(self) -> None:
        """Redis has a body that nothing here names: the next recovery looks through all of them."""
        self._learnt_run = None

    def request_reconciliation(self) -> None:
        """Open the circuit until `run` has reconciled, if changes of Redis are unconfirmed or pending."""
        if self._link.is_usable and (self._pending_deletes or self._unconfirmed):
            self._link.open_circuit("an answer was lost; its record is compared with the disk")

    async def remove_from_redis(self, digest: str) -> bool:
        """Delete a chunk from Redis, now or as soon as it answers; whether it is gone, durably.

        An unconfirmed one is deleted once more before the record is read: a put that timed out may arrive after the delete.
        """
        self.defer_deletes([digest])
        try:
            await self._link.call(lambda client: chunk_keys.remove(client, [digest]), changes=True)
        except (UnavailableError, DiskFullError):
            return False
        if digest not in self._unconfirmed:
            self._pending_deletes.pop(digest, None)
        return True

    async def release_from_record(self, digests: Sequence[str]) -> None:
        """Take chunks that the disk has out of the record, now or at the next recovery."""
        try:
            await self._link.call(lambda client: chunk_keys.release(client, digests), changes=True)
        except (UnavailableError, DiskFullError):
            self.mark_unconfirmed(digests)

    async def drop_copies(self, digests: Sequence[str]) -> None:
        """Delete copies, now or as soon as Redis answers."""
        try:
            await self._link.call(lambda client: chunk_keys.drop_copies(client, digests), changes=True)
        except (UnavailableError, DiskFullError):
            self.defer_deletes(digests)

    async def restore(self, digest: str, body: bytes) -> bool:
        """Put a chunk that the disk has lost back from its copy, which is whole; whether it is not lost any more."""
        try:
            is_restored = await self._disk.restore(Chunk(digest, len(body), (body,)))
        except TrivetError as error:
            logger.warning("a lost chunk was not restored from redis", digest=digest, error=error.message)
            return False
        if is_restored:
            logger.info("a lost chunk was restored from its copy in redis", digest=digest)
        return True

    def defer_deletes(self, digests: Sequence[str]) -> None:
        """Delete copies at the next recovery, unless they are stored again before."""
        self._pending_deletes.update(dict.fromkeys(digests))
        while len(self._pending_deletes) > _MAX_PENDING_DELETES:
            self._pending_deletes.pop(next(iter(self._pending_deletes)))
            self.learn_again()

    async def _apply_pending_deletes(self) -> None:
        # What was stored again since is not deleted: Redis holds it again.
        for digest in [
            digest for digest in self._pending_deletes if digest in self._buffer or digest in self._read_cache
        ]:
            del self._pending_deletes[digest]
        pending = list(self._pending_deletes)
        if pending:
            await self._link.probe(lambda client: chunk_keys.remove(client, pending))
        for digest in pending:
            self._pending_deletes.pop(digest, None)

    async def _move_recorded(self) -> int:
        """Bring every chunk of the record to disk that is neither there nor in memory; how many were moved."""
        moved = 0
        cursor: int | None = None
        while cursor != 0:
            # By cursor and not by rank: a flush that is under way may still shorten the record.
            cursor, entries = await self._scan_record(cursor or 0)
            for start in range(0, len(entries), _PART):
                part = entries[start : start + _PART]
                # Those in memory will be flushed from there.
                foreign = {digest: start_index for digest, start_index in part if digest not in self._buffer}
                if foreign:
                    moved += await self._move(foreign)
        return moved

    async def _scan_record(self, cursor: int) -> tuple[int, list[tuple[str, int]]]:
        return await self._link.probe(lambda client: chunk_keys.scan_recorded(client, cursor))

    async def _move(self, start_indexes: Mapping[str, int]) -> int:
        digests = list(start_indexes)
        bodies = await self._link.probe(lambda client: chunk_keys.get_many(client, digests))
        whole = {d: body for d, body in zip(digests, bodies, strict=True) if body is not None and is_whole(body, d)}
        small = [SmallChunk(d, body, start_indexes[d]) for d, body in whole.items() if self._disk.is_small(len(body))]
        await self._disk.put_batch(small)
        for digest, body in whole.items():
            if not self._disk.is_small(len(body)):
                await self._disk.put(Chunk(digest, len(body), (body,)), start_indexes[digest])
            self._read_cache.add(digest, len(body))
        for digest in start_indexes.keys() - whole.keys():
            await self._report_if_lost(digest, start_indexes[digest])
        await self._link.probe(lambda client: chunk_keys.release(client, digests))
        return len(whole)

    async def _report_if_lost(self, digest: str, start_index: int) -> None:
        if not await self._disk.has([digest], start_index):
            await self._disk.record_lost(digest, start_index)
            self._metrics.lost_in_redis.inc()
            logger.error("redis lost an acknowledged chunk; it is to be fetched from another node", digest=digest)

    async def _learn_copies(self) -> None:
        """Fill the read cache from what Redis holds: an earlier process may have filled the server.

        A body that neither the disk nor the record knows belongs to a deleted chunk and is dropped. A chunk that the disk has
        lost is restored: the copy may be the last good replica.
        """
        cursor: int | None = None
        while cursor != 0:
            cursor, found = await self._scan(cursor or 0)
            unknown = {d: size for d, size in found if d not in self._buffer and d not in self._read_cache}
            held = await self._disk.has(list(unknown), None)
            # Asked second: what was quarantined in between is lost already.
            lost = await self._lost_of(unknown.keys() - held)
            for start in range(0, len(lost), _PART):
                await self._restore_from_copies(lost[start : start + _PART])
            # One that was deleted since the disk was asked has a pending delete.
            for digest in held.union(lost) - self._pending_deletes.keys():
                self._read_cache.add(digest, unknown[digest])
            await self._drop_garbage(unknown.keys() - held.union(lost))
            await self._evict()

    async def _evict(self) -> None:
        evicted = self._read_cache.evict()
        lost = await self._lost_of(set(evicted) - await self._disk.has(evicted, None))
        for start in range(0, len(lost), _PART):
            await self._restore_from_copies(lost[start : start + _PART])
        # What could not be restored stays in Redis for the next recovery.
        needed = set(lost) - await self._disk.has(lost, None)
        if needed:
            self.learn_again()
        await self._drop_now([digest for digest in evicted if digest not in needed])

    async def _lost_of(self, missing: Collection[str]) -> list[str]:
        lost: list[str] = []
        after = ""
        while len(lost) < len(missing) and (page := await self._disk.list_lost(after, _LOST_PAGE)):
            lost += [chunk.digest for chunk in page if chunk.digest in missing]
            after = page[-1].digest
        return lost

    async def _restore_from_copies(self, digests: Sequence[str]) -> None:
        bodies = await self._link.probe(lambda client: chunk_keys.get_many(client, digests))
        for digest, body in zip(digests, bodies, strict=True):
            if body is not None and is_whole(body, digest):
                await self.restore(digest, body)

    async def _drop_garbage(self, digests: Collection[str]) -> None:
        if digests:
            logger.warning("dropped copies in redis of chunks that are not held", chunks=len(digests))
            await self._link.probe(lambda client: chunk_keys.drop_unrecorded(client, digests))

    async def _scan(self, cursor: int) -> tuple[int, list[tuple[str, int]]]:
        return await self._link.probe(lambda client: chunk_keys.scan_sizes(client, cursor))

    async def _drop_now(self, digests: Sequence[str]) -> None:
        await self._link.probe(lambda client: chunk_keys.drop_copies(client, digests))
