"""What the tiered store owes Redis, and what Redis owes the disk, after either was away.

At start, and whenever Redis comes back, its record names the chunks that were acknowledged there: those that are not in
this process' memory are checked and moved to disk before Redis is used again. In between, removals that Redis did not hear
are kept and done later; a removal that is forgotten leaves garbage, never a lost chunk. Garbage is never served: a body in
Redis counts as a copy only if the disk knows the chunk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import structlog

from services.storage.digests import is_whole
from services.storage.disk.tier import DiskTier, SmallChunk
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from services.storage.redis_node import chunk_keys
from services.storage.redis_node.link import RedisLink
from services.storage.tiered.read_cache import HotChunks
from services.storage.tiered.write_behind import UnflushedChunks
from shared.errors import DiskFullError, TrivetError, UnavailableError

logger = structlog.get_logger(__name__)

_PART: Final = 16
"""Chunks per step of the recovery: each may be as large as a chunk can be."""
_MAX_OWED: Final = 10_000
_LOST_PAGE: Final = 1000
_MAX_ROUNDS: Final = 3


class Recovery:
    """Keeps Redis and disk in step for `TieredStore`, which owns all the parts.

    Invariant: while the record may name a chunk that is not in memory, `may_record` says so.
    """

    def __init__(
        self, disk: DiskTier, link: RedisLink, unflushed: UnflushedChunks, hot: HotChunks, metrics: StorageMetrics
    ) -> None:
        self._disk = disk
        self._link = link
        self._unflushed = unflushed
        self._hot = hot
        self._metrics = metrics
        self._owed_removals: dict[str, None] = {}
        self._doubts: dict[str, int] = {}
        self._doubt_count = 0
        self.has_read_record = False
        """Whether all that an earlier process left in the record is on disk; before, Redis may hold unknown chunks."""

    async def run(self) -> None:
        """Move to disk what only Redis has, then learn which copies it holds. Called while no request uses Redis.

        Raises:
            UnavailableError, DiskFullError: not finished; Redis stays unused and this is tried again.
        """
        await self._compare()
        await self._learn_copies()
        for _ in range(_MAX_ROUNDS):
            # Puts and a flush that were under way when Redis went out of use were refused, and left doubts. Nothing new
            # reaches Redis now, so they can be settled here; left for later they would take it out of use again.
            if not self._doubts and not self._owed_removals:
                return
            await self._compare()

    @property
    def is_record_unknown(self) -> bool:
        """Whether an earlier process may have left acknowledged chunks in Redis that this one has not seen yet.

        Ends when Redis was read once, also one that came back empty. Whatever happens to it later, memory has the rest.
        """
        return not self.has_read_record and self._link.was_used_before

    async def _compare(self) -> None:
        # A doubt that arises from here on may be about a part of the record that was read before: it stays open.
        doubts = dict(self._doubts)
        await self._remove_owed()
        moved = await self._move_recorded()
        if moved:
            logger.warning("moved acknowledged chunks from redis to disk", chunks=moved)
        for digest, number in doubts.items():
            if self._doubts.get(digest) == number:
                del self._doubts[digest]
        self.has_read_record = True

    def may_record(self, digest: str) -> bool:
        """Whether the record of Redis may name a chunk that is not in memory: it comes back at the next recovery."""
        return digest in self._doubts or self.is_record_unknown

    def doubt(self, digests: Iterable[str]) -> None:
        """A change of the record ended without an answer: it may name these until it was read.

        They are as few as fit into the buffer at a time, for without an answer Redis is soon out of use.
        """
        self._doubt_count += 1
        self._doubts.update(dict.fromkeys(digests, self._doubt_count))

    def settle_debts(self) -> None:
        """Have what Redis did not hear, or did not answer, put right: it is taken out of use until `run` has compared."""
        if self._link.is_usable and (self._owed_removals or self._doubts):
            self._link.trip("an answer was lost; its record is compared with the disk")

    async def remove_from_redis(self, digest: str) -> bool:
        """Take a deleted chunk out of Redis, now or as soon as it answers; whether it is out, durably.

        One in doubt is taken out once more before the record is read: a put that timed out may reach Redis after its
        removal.
        """
        self._owe([digest])
        try:
            await self._link.call(lambda client: chunk_keys.remove(client, [digest]), changes=True)
        except (UnavailableError, DiskFullError):
            return False
        if digest not in self._doubts:
            self._owed_removals.pop(digest, None)
        return True

    async def release_from_record(self, digests: Sequence[str]) -> bool:
        """Tell Redis that the disk has these; whether it heard. If not, the next recovery finds them on disk."""
        try:
            await self._link.call(lambda client: chunk_keys.release(client, digests), changes=True)
        except (UnavailableError, DiskFullError):
            self.doubt(digests)
            return False
        return True

    async def drop_copies(self, digests: Sequence[str]) -> None:
        """Let copies go, now or as soon as Redis answers."""
        try:
            await self._link.call(lambda client: chunk_keys.drop_copies(client, digests), changes=True)
        except (UnavailableError, DiskFullError):
            self._owe(digests)

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

    def _owe(self, digests: Sequence[str]) -> None:
        self._owed_removals.update(dict.fromkeys(digests))
        while len(self._owed_removals) > _MAX_OWED:
            self._owed_removals.pop(next(iter(self._owed_removals)))

    async def _remove_owed(self) -> None:
        # What was stored again since is not owed any more: then Redis may hold it rightly.
        for digest in [digest for digest in self._owed_removals if digest in self._unflushed or digest in self._hot]:
            del self._owed_removals[digest]
        owed = list(self._owed_removals)
        if owed:
            await self._link.probe(lambda client: chunk_keys.remove(client, owed))
        for digest in owed:
            self._owed_removals.pop(digest, None)

    async def _move_recorded(self) -> int:
        """Bring every chunk of the record to disk that is neither there nor in memory; how many were moved."""
        moved = 0
        cursor: int | None = None
        while cursor != 0:
            # By cursor and not by rank: an end of a flush that is under way still shortens the record.
            cursor, entries = await self._scan_record(cursor or 0)
            for start in range(0, len(entries), _PART):
                part = entries[start : start + _PART]
                # Those in memory will be flushed from there.
                foreign = {digest: start_index for digest, start_index in part if digest not in self._unflushed}
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
            self._hot.add(digest, len(body))
        for digest in start_indexes.keys() - whole.keys():
            await self._report_if_lost(digest, start_indexes[digest])
        await self._link.probe(lambda client: chunk_keys.release(client, digests))
        return len(whole)

    async def _report_if_lost(self, digest: str, start_index: int) -> None:
        if not await self._disk.has([digest], start_index):
            await self._disk.note_lost(digest, start_index)
            self._metrics.lost_in_redis.inc()
            logger.error("redis lost an acknowledged chunk; it is to be fetched from another node", digest=digest)

    async def _learn_copies(self) -> None:
        """Fill the least-recently-used order with what Redis holds: an earlier process may have filled the server.

        What neither the disk nor the record knows was deleted while Redis did not hear it, and is dropped. What the disk has
        lost is restored: the copy may be the last good replica.
        """
        cursor: int | None = None
        while cursor != 0:
            cursor, found = await self._scan(cursor or 0)
            strange = {d: size for d, size in found if d not in self._unflushed and d not in self._hot}
            held = await self._disk.has(list(strange), None)
            # Asked second: what was quarantined in between is lost already.
            lost = await self._lost_of(strange.keys() - held)
            for start in range(0, len(lost), _PART):
                await self._restore_from_copies(lost[start : start + _PART])
            # One that was deleted since the disk was asked is owed.
            for digest in held.union(lost) - self._owed_removals.keys():
                self._hot.add(digest, strange[digest])
            await self._drop_garbage(strange.keys() - held.union(lost))
            await self._drop_surplus()

    async def _drop_surplus(self) -> None:
        leaving = self._hot.surplus()
        lost = await self._lost_of(set(leaving) - await self._disk.has(leaving, None))
        for start in range(0, len(lost), _PART):
            await self._restore_from_copies(lost[start : start + _PART])
        # What could not be restored stays in Redis, where the next recovery looks at it again.
        needed = set(lost) - await self._disk.has(lost, None)
        await self._drop_now([digest for digest in leaving if digest not in needed])

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
