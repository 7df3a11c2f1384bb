"""The tiered tier: write-behind through Redis, and a read cache in it (S-20).

A small chunk is acknowledged once it is fsynced in the AOF of Redis, and is flushed to disk in a batch about a second later.
A large one goes to disk at once. A flushed chunk stays in Redis as a copy until the read cache evicts it.
Where Redis fails, the disk does its work: an outage of Redis costs speed, never a request. Only a node that started without
the Redis that it used before does not know all that it holds: it serves what is on disk and calls nothing else absent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final, Self

import structlog

from services.storage.disk.changes import SmallChunk
from services.storage.disk.tier import DELETIONS_PER_COMMIT, DiskTier
from services.storage.metrics import StorageMetrics
from services.storage.outcomes import result_of, too_large_for_a_batch
from services.storage.ports import Body, Chunk, ChunkPut, ConditionalDelete, LostChunk, PutOutcome
from services.storage.redis_node.batcher import PutBatcher
from services.storage.redis_node.chunk_keys import RecordedChunk
from services.storage.redis_node.link import RedisLink
from services.storage.tiered.keyed_locks import KeyedLocks
from services.storage.tiered.read_cache import ReadCache
from services.storage.tiered.recovery import Recovery
from services.storage.tiered.redis_copies import RedisCopies
from services.storage.tiered.write_behind import BufferedChunk, WriteBehindBuffer
from shared.background_tasks import BackgroundTasks
from shared.contracts.chunks import HeldChunk, TierStatus
from shared.errors import ChunkNotFoundError, DiskFullError, TrivetError, UnavailableError
from shared.partitions import SetSum
from shared.units import MIB, NANOSECONDS_PER_SECOND

logger = structlog.get_logger(__name__)

_FLUSH_BATCH_BYTES: Final = 4 * MIB
_FLUSH_RETRY_MAX_S: Final = 4.0
_BUFFERED: Final = PutOutcome("redis", created=False)


class TieredTier:
    """Implements `ports.Tier` on a disk tier and a Redis.

    Invariant: every acknowledged chunk is on disk, or both in the record of Redis and in `_buffer`.
    Invariant: the record of a digest is written once; until it is flushed, further puts of it go to disk.
    Invariant: nothing is called absent, and no inventory is whole, before the record of Redis was read.
    """

    name = "tiered"

    def __init__(
        self,
        disk: DiskTier,
        link: RedisLink,
        *,
        metrics: StorageMetrics,
        read_cache_bytes: int,
        write_behind_bytes: int,
        flush_interval_s: float,
    ) -> None:
        self._disk = disk
        self._link = link
        self._metrics = metrics
        self._flush_interval_s = flush_interval_s
        self._buffer = WriteBehindBuffer(write_behind_bytes)
        self._read_cache = ReadCache(read_cache_bytes)
        self._recovery = Recovery(disk, link, self._buffer, self._read_cache, metrics)
        self._changes = KeyedLocks()
        self._copies = RedisCopies(
            disk, link, self._recovery, read_cache=self._read_cache, changes=self._changes, metrics=metrics
        )
        self._flushing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open the disk and recover what an earlier process left in Redis; without Redis, go on with the disk alone."""
        self._metrics.write_behind_bytes.set_function(lambda: self._buffer.size_bytes)
        self._metrics.flush_lag_s.set_function(self._lag_s)
        await self._stack.enter_async_context(self._disk)
        await self._stack.enter_async_context(self._link)
        await self._stack.enter_async_context(self._copies)
        self._tasks = await self._stack.enter_async_context(BackgroundTasks())
        self._batcher = PutBatcher(self._link, self._tasks)
        await self._link.start(self._recovery.run)
        self._link.supervise(self._recovery.run, self._tasks)
        self._tasks.every(
            "flush", self._flush_interval_s, self._flush_step, wake=self._wake, failure_pause_max_s=_FLUSH_RETRY_MAX_S
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Flush what can be flushed; the rest is in Redis and is recovered at the next start."""
        try:
            await self._flush_all()
        except TrivetError as error:
            logger.warning("could not flush before the end", error=error.message, chunks=len(self._buffer))
        await self._stack.aclose()

    async def put(self, chunk: Chunk, start_index: int) -> PutOutcome:
        """See `ports.Tier`."""
        if not self._disk.is_small(chunk.size_bytes):
            return await self._disk.put(chunk, start_index)
        async with self._changes.hold(chunk.digest):
            return result_of((await self._put_small([ChunkPut(chunk, start_index)]))[chunk.digest])

    async def put_many(self, puts: Sequence[ChunkPut], *, yields: bool = False) -> list[PutOutcome | TrivetError]:
        """See `ports.Tier`. Small ones share a question to the disk and a round trip to Redis.

        Those that yield go to disk at once: nobody waits for them, and in Redis puts of requests would wait behind them.
        """
        small = [put for put in puts if self._disk.is_small(put.chunk.size_bytes)]
        async with self._changes.hold(*[put.chunk.digest for put in small]):
            found = await self._put_on_disk(small, yields=True) if yields else await self._put_small(small)
        large = [put for put in puts if put.chunk.digest not in found]
        found.update(await self._put_on_disk(large, yields=yields))
        return [found[put.chunk.digest] for put in puts]

    async def get(self, digest: str) -> Body:
        """See `ports.Tier`. In order: memory, Redis, disk; a chunk only ever moves in that order too."""
        if (buffered := self._buffer.get(digest)) is not None and buffered.is_acknowledged:
            self._metrics.reads_by_place.labels(place="memory").inc()
            return buffered.body
        if (copy := await self._copies.get(digest)) is not None:
            self._metrics.reads_by_place.labels(place="redis").inc()
            return copy
        # Before the disk is asked: what a recovery moves there meanwhile may be missed.
        is_record_unknown = self._recovery.is_record_unknown
        try:
            body = await self._disk.get(digest)
        except ChunkNotFoundError as error:
            if is_record_unknown:
                raise _record_not_read() from error
            raise
        self._count_disk_read(digest, body)
        return body

    async def get_many(self, digests: Sequence[str], max_bytes: int) -> list[Body | TrivetError]:
        """See `ports.Tier`. In the order of `get`; one MGET, and one hop for what is left."""
        found: dict[str, Body | TrivetError] = {}
        for digest in digests:
            if (buffered := self._buffer.get(digest)) is not None and buffered.is_acknowledged:
                is_too_large = len(buffered.body) > max_bytes
                found[digest] = too_large_for_a_batch(max_bytes) if is_too_large else buffered.body
        self._metrics.reads_by_place.labels(place="memory").inc(len(found))
        copies = await self._copies.get_many([digest for digest in digests if digest not in found], max_bytes)
        self._metrics.reads_by_place.labels(place="redis").inc(len(copies))
        found.update(copies)
        on_disk = [digest for digest in digests if digest not in found]
        found.update(zip(on_disk, await self._get_from_disk(on_disk, max_bytes), strict=True))
        return [found[digest] for digest in digests]

    async def _get_from_disk(self, digests: Sequence[str], max_bytes: int) -> list[Body | TrivetError]:
        if not digests:
            return []
        is_record_unknown = self._recovery.is_record_unknown  # as in `get`, before
        outcomes = await self._disk.get_many(digests, max_bytes)
        for digest, body in zip(digests, outcomes, strict=True):
            if not isinstance(body, TrivetError):
                self._count_disk_read(digest, body)
        if not is_record_unknown:
            return outcomes
        return [_record_not_read() if isinstance(found, ChunkNotFoundError) else found for found in outcomes]

    def _count_disk_read(self, digest: str, body: Body) -> None:
        self._metrics.reads_by_place.labels(place="disk").inc()
        self._copies.missed(digest, body)

    def is_verified(self, digest: str) -> bool:
        """See `ports.Tier`. What is in the write-behind buffer was written by this process."""
        return self._is_acknowledged(digest) or self._disk.is_verified(digest)

    async def verify(self, digest: str) -> int:
        """See `ports.Tier`."""
        if (buffered := self._buffer.get(digest)) is not None and buffered.is_acknowledged:
            return len(buffered.body)
        return await self._disk.verify(digest)

    async def get_size_bytes(self, digest: str) -> int:
        """See `ports.Tier`."""
        if (buffered := self._buffer.get(digest)) is not None and buffered.is_acknowledged:
            return len(buffered.body)
        is_record_unknown = self._recovery.is_record_unknown
        try:
            return await self._disk.get_size_bytes(digest)
        except ChunkNotFoundError as error:
            if is_record_unknown:
                raise _record_not_read() from error
            raise

    async def has(self, digests: Sequence[str], start_index: int | None) -> set[str]:
        """See `ports.Tier`."""
        if start_index is not None:
            return await self.record_start_indexes(dict.fromkeys(digests, start_index))
        is_record_unknown = self._recovery.is_record_unknown
        held = {digest for digest in digests if self._is_acknowledged(digest)}
        held |= await self._disk.has([digest for digest in digests if digest not in held], None)
        if is_record_unknown and not held.issuperset(digests):
            # The caller takes what is left out for absent, and might put it or count it as missing.
            raise _record_not_read()
        return held

    async def record_start_indexes(self, start_indexes: Mapping[str, int]) -> set[str]:
        """See `ports.Tier`."""
        is_record_unknown = self._recovery.is_record_unknown
        # A start index is kept where the chunk is. Moving the chunk first leaves one place to write it.
        await self._flush_if_buffered(start_indexes)
        held = await self._disk.record_start_indexes(start_indexes)
        if is_record_unknown and not held.issuperset(start_indexes):
            raise _record_not_read()
        return held

    async def start_indexes(self, digests: Sequence[str]) -> dict[str, int]:
        """See `ports.Tier`."""
        self._check_record_is_known()
        # Before the disk is asked: a chunk only moves in that direction.
        buffered = {d: entry for d in digests if (entry := self._buffer.get(d)) is not None and entry.is_acknowledged}
        found = await self._disk.start_indexes(digests)
        # A later put of a buffered chunk goes to disk.
        return found | {d: max(entry.start_index, found.get(d, 0)) for d, entry in buffered.items()}

    async def delete(self, digest: str) -> bool:
        """See `ports.Tier`."""
        self._disk.gate.check()
        async with self._changes.hold(digest):
            if digest not in self._buffer:
                return await self._delete_flushed(digest)
            # Not during a flush of this chunk, which would store on disk what is deleted here.
            async with self._flushing:
                self._buffer.remove(digest)
                is_out_of_redis = await self._recovery.remove_from_redis(digest)
                if not is_out_of_redis:
                    self._recovery.mark_unconfirmed([digest])  # its record is not in memory any more
                try:
                    await self._delete_flushed(digest)
                except TrivetError as error:
                    if not error.definite:
                        raise
                    # It is gone from memory and Redis, whatever the disk refused.
                    raise UnavailableError(
                        "The disk did not take the deletion, of which a part is done.", definite=False, digest=digest
                    ) from error
                if not is_out_of_redis:
                    raise _deletion_not_confirmed(digest)
                return True

    async def delete_if(self, candidates: Sequence[ConditionalDelete]) -> set[str]:
        """See `ports.Tier`. The disk decides: what is buffered is flushed first, and a put of a candidate waits."""
        deleted: set[str] = set()
        for start in range(0, len(candidates), DELETIONS_PER_COMMIT):
            part = candidates[start : start + DELETIONS_PER_COMMIT]
            async with self._recovery.excluded(), self._changes.hold(*[each.digest for each in part]):
                deleted |= await self._delete_part_if(part)
        return deleted

    async def _delete_part_if(self, candidates: Sequence[ConditionalDelete]) -> set[str]:
        self._check_record_is_known()
        await self._flush_if_buffered([each.digest for each in candidates])
        # The next recovery would bring the others back. It comes soon: an unconfirmed change opens the circuit.
        deleted = await self._disk.delete_if(
            [each for each in candidates if not self._recovery.may_record(each.digest)]
        )
        if copies := [digest for digest in deleted if digest in self._read_cache]:
            for digest in copies:
                self._read_cache.remove(digest)
            await self._recovery.drop_copies(copies)
        return deleted

    async def list_chunks(self, prefix: str, after: str, limit: int) -> list[HeldChunk]:
        """See `ports.Tier`. What only Redis has is flushed first, so that the disk has all of it."""
        self._check_record_is_known()
        await self._flush_prefix(prefix)
        return await self._disk.list_chunks(prefix, after, limit)

    async def sums(self, group: int | None) -> list[SetSum]:
        """See `ports.Tier`."""
        self._check_record_is_known()
        await self._flush_prefix("" if group is None else f"{group:02x}")
        return await self._disk.sums(group)

    async def list_lost(self, after: str, limit: int) -> list[LostChunk]:
        """See `ports.Tier`. What a copy in Redis can replace is restored from it first, and not listed."""
        while page := await self._disk.list_lost(after, limit):
            if left := [lost for lost in page if not await self._copies.restore(lost.digest)]:
                return left
            after = page[-1].digest
        return []

    async def restore(self, chunk: Chunk) -> bool:
        """See `ports.Tier`. To disk at once: no request waits for it."""
        return await self._disk.restore(chunk)

    async def statuses(self) -> list[TierStatus]:
        """See `ports.Tier`."""
        # Counted before the disk: a chunk that moves meanwhile is counted twice rather than not at all.
        buffered_count = len(self._buffer)
        (disk,) = await self._disk.statuses()
        is_record_known = self._recovery.has_read_record
        return [
            disk,
            TierStatus(
                name="redis",
                is_available=self._link.is_usable,
                chunk_count=len(self._read_cache) + len(self._buffer) if is_record_known else None,
                sole_chunk_count=buffered_count if is_record_known else None,
                used_bytes=self._read_cache.used_bytes + self._buffer.size_bytes if is_record_known else None,
                capacity_bytes=self._link.limit_bytes or None,
            ),
        ]

    def reasons_against_writes(self) -> list[str]:
        """See `ports.Tier`."""
        return self._disk.reasons_against_writes()

    def shortage(self) -> str | None:
        """See `ports.Tier`."""
        return self._disk.shortage()

    def degradations(self) -> list[str]:
        """See `ports.Tier`."""
        without = [] if self._link.is_usable else ["redis is not used; the disk does its work"]
        if self._recovery.is_record_unknown:
            without.append("what redis has acknowledged is not known yet: only what is on disk can be read")
        if self._link.weakness is not None:
            without.append(self._link.weakness)
        return without + self._tasks.degradations() + self._disk.degradations()

    def _check_record_is_known(self) -> None:
        if self._recovery.is_record_unknown:
            raise _record_not_read()

    async def _delete_flushed(self, digest: str) -> bool:
        may_be_in_redis = digest in self._read_cache or not self._link.is_usable or self._recovery.may_record(digest)
        self._read_cache.remove(digest)
        is_out_of_redis = not may_be_in_redis or await self._recovery.remove_from_redis(digest)
        was_held = await self._disk.delete(digest)
        if not is_out_of_redis and self._recovery.may_record(digest):
            raise _deletion_not_confirmed(digest)
        return was_held

    async def _put_small(self, puts: Sequence[ChunkPut]) -> dict[str, PutOutcome | TrivetError]:
        """The outcomes by digest. The caller is alone with these digests."""
        self._disk.gate.check()
        if not puts:
            return {}
        buffered = {put.chunk.digest: self._buffer.get(put.chunk.digest) for put in puts}
        outcomes: dict[str, PutOutcome | TrivetError] = {
            put.chunk.digest: _BUFFERED
            for put in puts
            if (entry := buffered[put.chunk.digest]) is not None and entry.start_index >= put.start_index
        }
        refused, through_redis = await self._choose_for_redis(
            [put for put in puts if buffered[put.chunk.digest] is None]
        )
        outcomes |= refused
        is_redis_full = False
        try:
            outcomes |= await self._put_through_redis(through_redis)
        except DiskFullError:
            is_redis_full = True
        except UnavailableError:
            pass  # the disk acknowledges
        to_disk = [put for put in puts if put.chunk.digest not in outcomes]
        for digest, outcome in (await self._put_on_disk(to_disk)).items():
            is_buffered = buffered[digest] is not None and not isinstance(outcome, TrivetError)
            outcomes[digest] = _BUFFERED if is_buffered else outcome
        if is_redis_full:
            await self._copies.evict(reserved_bytes=MIB)
        return outcomes

    async def _put_on_disk(
        self, puts: Sequence[ChunkPut], *, yields: bool = False
    ) -> dict[str, PutOutcome | TrivetError]:
        """The outcomes by digest. What the disk refuses altogether says nothing of what Redis has acknowledged."""
        if not puts:
            return {}
        try:
            outcomes = await self._disk.put_many(puts, yields=yields)
        except TrivetError as error:
            return dict.fromkeys([put.chunk.digest for put in puts], error)
        return {put.chunk.digest: outcome for put, outcome in zip(puts, outcomes, strict=True)}

    async def _choose_for_redis(self, puts: Sequence[ChunkPut]) -> tuple[dict[str, TrivetError], list[ChunkPut]]:
        """Those for which there is no room on disk, and those that Redis can take."""
        if puts and not self._link.is_usable:
            self._wake.set()
        if not puts or not self._link.is_usable:
            return {}, []
        refused: dict[str, TrivetError] = {}
        chosen: list[ChunkPut] = []
        found = await self._disk.find_or_check_room([put.chunk for put in puts], self._buffer.size_bytes)
        for put, is_held in zip(puts, found, strict=True):
            if isinstance(is_held, TrivetError):
                refused[put.chunk.digest] = is_held
            elif not is_held:
                chosen.append(put)
        return refused, chosen

    async def _put_through_redis(self, puts: Sequence[ChunkPut]) -> dict[str, PutOutcome]:
        """The outcomes of those that the buffer has room for, all of which Redis has acknowledged.

        Raises:
            DiskFullError, UnavailableError: it has acknowledged none; what the buffer had of them is out of it again.
        """
        entries: list[BufferedChunk] = []
        for put in puts:
            if not self._buffer.has_room(put.chunk.size_bytes):
                self._wake.set()
                continue
            entries.append(BufferedChunk(put.chunk.digest, put.chunk.body(), put.start_index, time.monotonic_ns()))
            self._buffer.add(entries[-1])
        if not entries:
            return {}
        try:
            await self._batcher.put([RecordedChunk(entry.digest, entry.body, entry.start_index) for entry in entries])
        except BaseException as error:
            for entry in entries:
                self._buffer.remove(entry.digest)
            # Full, Redis certainly took none: there is nothing to compare, only room to be made. Otherwise it is unknown
            # what it has, and recovery takes it out.
            if not isinstance(error, DiskFullError):
                self._recovery.mark_unconfirmed([entry.digest for entry in entries])
            raise
        for entry in entries:
            entry.is_acknowledged = True
        if self._buffer.is_half_full():
            self._wake.set()
        return {entry.digest: PutOutcome("redis", created=True) for entry in entries}

    def _is_acknowledged(self, digest: str) -> bool:
        buffered = self._buffer.get(digest)
        return buffered is not None and buffered.is_acknowledged

    async def _flush_step(self) -> None:
        # After a failure the chunks stay in memory and in Redis; once the buffer is full, puts go to the disk and get its error.
        await self._flush_all()
        self._recovery.request_reconciliation()

    async def _flush_if_buffered(self, digests: Iterable[str]) -> None:
        if any(self._is_acknowledged(digest) for digest in digests):
            await self._flush_all()

    async def _flush_prefix(self, prefix: str) -> None:
        """Have nothing acknowledged in memory whose digest begins with `prefix`. A comparison asks for hundreds of them."""
        if self._buffer.has_acknowledged(prefix):
            await self._flush_all()

    async def _flush_all(self) -> None:
        """Move to disk what was acknowledged before this call."""
        async with self._flushing:
            until_ns = time.monotonic_ns()
            while (batch := self._buffer.oldest(_FLUSH_BATCH_BYTES)) and batch[0].since_ns <= until_ns:
                await self._flush(batch)

    async def _flush(self, batch: Sequence[BufferedChunk]) -> None:
        await self._disk.put_batch([SmallChunk(chunk.digest, chunk.body, chunk.start_index) for chunk in batch])
        digests = [chunk.digest for chunk in batch]
        self._metrics.flushed.inc(len(batch))
        await self._recovery.release_from_record(digests)
        for chunk in batch:
            # From here on the disk has it; the copy in Redis, which may stand in the record still, only saves time.
            self._buffer.remove(chunk.digest)
            self._read_cache.add(chunk.digest, len(chunk.body))
        await self._copies.evict()

    def _lag_s(self) -> float:
        return self._buffer.lag_ns(time.monotonic_ns()) / NANOSECONDS_PER_SECOND


def _record_not_read() -> UnavailableError:
    return UnavailableError("What Redis holds is not known yet, and a chunk may be there.")


def _deletion_not_confirmed(digest: str) -> UnavailableError:
    """Not acknowledged: pending deletes are forgotten in a crash, and the record of Redis would then bring the chunk back."""
    return UnavailableError(
        "Redis did not confirm the deletion and may bring the chunk back.", definite=False, digest=digest
    )
