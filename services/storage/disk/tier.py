"""Implements `ports.Tier` on one folder; the package docstring draws the threads of a put."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

import structlog

from services.storage.body_buffers import BUFFER_BYTES, BodyBuffers, make_body_buffers
from services.storage.digests import digest_of, is_nearly, is_whole
from services.storage.disk import catalog, pending_unlinks
from services.storage.disk.absence_filter import AbsenceFilter
from services.storage.disk.catalog import Row
from services.storage.disk.catalog_threads import CatalogThreads
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.commit_latency import CommitLatency
from services.storage.disk.disk_errors import error_from_write, is_shortage
from services.storage.disk.disk_threads import HANDED_ON, HandedOn, without_frames
from services.storage.disk.free_space import FreeSpace
from services.storage.disk.group_commit import GroupCommitter, Transaction
from services.storage.disk.pending_unlinks import UnlinksAside
from services.storage.disk.recent_reads import RecentReads
from services.storage.disk.reconciliation import FOLDER_COUNT, find_differences, resolve
from services.storage.disk.replies import Reply
from services.storage.disk.row_damage import read_packed
from services.storage.disk.wal_salvage import find_unchecked, mark_checked, salvage
from services.storage.disk.warm_files import WarmFiles
from services.storage.disk.write_gate import WriteGate
from services.storage.metrics import StorageMetrics
from services.storage.outcomes import outcomes_of, result_of, too_large_for_a_batch
from services.storage.ports import Body, Chunk, ChunkPut, ConditionalDelete, LostChunk, PutOutcome
from services.storage.verified_chunks import VerifiedChunks
from shared.contracts.chunks import HeldChunk, TierStatus
from shared.errors import ChunkCorruptError, ChunkNotFoundError, DiskFullError, TrivetError, UnavailableError
from shared.partitions import PartitionTable, SetSum
from shared.settings import refuse_to_start

logger = structlog.get_logger(__name__)

_SCRUB: Final = "scrub"
_CATALOG_NAME: Final = "catalog.sqlite"
_READ_ATTEMPTS: Final = 3
_MAX_QUESTIONS: Final = 16
"""What one reading thread replies in one hop."""
DELETIONS_PER_COMMIT: Final = 64
"""Of conditional ones: a few milliseconds of the commit thread."""


@dataclass(frozen=True, slots=True)
class SmallChunk:
    """A small chunk on its way to disk in a batch."""

    digest: str
    body: bytes
    start_index: int


@dataclass(frozen=True, slots=True)
class _WrittenFile:
    """A large chunk whose bytes are durable, without its name and its row. Not the bytes: a queue of them costs no memory."""

    temporary: Path
    digest: str
    size_bytes: int
    start_index: int


def prepare_folder(root: Path) -> None:
    """Make what a disk tier needs under `root`, durably; at start, before anything else uses it. Blocks.

    Ends the process with one sentence when the folder cannot be used.
    """
    try:
        ChunkFiles(root).prepare()
        salvage(root / _CATALOG_NAME, root / "quarantine")
    except OSError as error:
        refuse_to_start(f"the data folder {root} cannot be used: {error}")
    catalog.prepare(root / _CATALOG_NAME)


class DiskTier:
    """Implements `ports.Tier` on one folder that `prepare_folder` has made ready.

    Invariant: a row is committed only after the bytes that it names are durable; bytes leave only after their row is gone.
    """

    name = "disk"

    def __init__(
        self,
        root: Path,
        *,
        space: FreeSpace,
        metrics: StorageMetrics,
        verified: VerifiedChunks | None = None,
        small_limit_bytes: int,
        slow_commit_s: float = 0.1,
        reader_threads: int = 4,
        writer_threads: int = 4,
        max_warm_files: int = 256,
        buffers: BodyBuffers | None = None,
    ) -> None:
        buffers = make_body_buffers() if buffers is None else buffers
        self._database = root / _CATALOG_NAME
        self._files = ChunkFiles(root, buffers)
        self._space = space
        self._metrics = metrics
        self._small_limit_bytes = small_limit_bytes
        self.gate = WriteGate()
        self._commit_latency = CommitLatency(slow_commit_s, metrics)
        self._reads = CatalogThreads(self._database, self.gate, reader_threads, "disk-read", _MAX_QUESTIONS)
        self._writes = CatalogThreads(self._database, self.gate, writer_threads, "disk-write", 1)
        self._warm = WarmFiles(max_warm_files, buffers)
        self._recent_reads = RecentReads()
        self._verified = VerifiedChunks() if verified is None else verified
        self._absence = AbsenceFilter()
        self._sums = PartitionTable()
        self._sums_lock = threading.Lock()
        """The commit thread changes the sums while others read them."""
        self._pending_unlink_count = 0  # written by the commit thread only
        self._newly_pending: set[str] | None = None
        """Recorded since `_drop_finished_aside` began; the commit thread's own."""
        self._dropping = asyncio.Lock()
        self._unlinks_aside = UnlinksAside(self._files)

    async def __aenter__(self) -> Self:
        """Open the folder, and reconcile what a crash left between files and rows."""
        await self._reads.open()
        await self._writes.open()
        await self._reads.ask(self._open)
        await self._reconcile()
        await self._check_salvaged()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._close)

    async def put(self, chunk: Chunk, start_index: int) -> PutOutcome:
        """See `ports.Tier`. A row alone acknowledges nothing: its bytes were verified lately, or are now, or are replaced."""
        if self.is_small(chunk.size_bytes):
            return result_of((await self.put_many([ChunkPut(chunk, start_index)]))[0])
        return await self._put_alone(chunk, start_index)

    async def put_many(self, puts: Sequence[ChunkPut], *, yields: bool = False) -> list[PutOutcome | TrivetError]:
        """See `ports.Tier`. Small ones share one hop to a reading thread and one transaction."""
        self.gate.check()
        small = [put for put in puts if self.is_small(put.chunk.size_bytes)]
        packed = await self._reads.hand_on(partial(self._pack_many, small, yields)) if small else []
        found: dict[str, PutOutcome | TrivetError] = {
            put.chunk.digest: created if isinstance(created, TrivetError) else PutOutcome(self.name, created)
            for put, created in zip(small, packed, strict=True)
            if created is not None
        }
        alone = [put for put in puts if put.chunk.digest not in found]
        outcomes = await outcomes_of([self._put_alone(put.chunk, put.start_index, yields=yields) for put in alone])
        found.update(zip([put.chunk.digest for put in alone], outcomes, strict=True))
        return [found[put.chunk.digest] for put in puts]

    async def _put_alone(self, chunk: Chunk, start_index: int, *, yields: bool = False) -> PutOutcome:
        self.gate.check()
        threads = self._threads_for(chunk)
        created = await threads.hand_on(partial(self._store_unless_held, chunk, start_index, yields=yields))
        if created is None and chunk.digest in await self.has([chunk.digest], start_index):
            return PutOutcome(self.name, created=False)
        if created is None:  # it is gone again
            created = await threads.hand_on(lambda _, reply: self._store(chunk, start_index, reply, yields=yields))
        return PutOutcome(self.name, bool(created))

    def is_small(self, size_bytes: int) -> bool:
        """Whether a chunk of this length is packed in the catalog."""
        return size_bytes <= self._small_limit_bytes

    async def put_batch(self, chunks: Sequence[SmallChunk]) -> None:
        """Store many small chunks in one transaction; all are durable on return. Raises what `put` raises."""
        if chunks:
            await self._committer.run(partial(self._add_small, chunks=chunks))

    async def get(self, digest: str) -> Body:
        """See `ports.Tier`."""
        body = self._warm.read(digest)
        if body is not None and is_whole(body, digest):
            self._metrics.warm_reads.inc()
            return body
        return await self._get(digest)

    async def get_many(self, digests: Sequence[str], max_bytes: int) -> list[Body | TrivetError]:
        """See `ports.Tier`. One hop to a reading thread; what it finds bad is read again as `get` does."""
        found = await self._reads.ask(self._read_many, digests, max_bytes)
        bad = [digest for digest, body in zip(digests, found, strict=True) if body is None]
        again = iter(await outcomes_of([self._get(digest) for digest in bad]))
        return [next(again) if body is None else body for body in found]

    async def reread(self, digest: str) -> Body:
        """As `get`, from the medium: a chunk with a file of its own is read past the page cache, and is verified then."""
        return await self._get(digest, past_cache=True)

    def is_verified(self, digest: str) -> bool:
        """See `ports.Tier`."""
        return digest in self._verified

    async def verify(self, digest: str) -> int:
        """See `ports.Tier`. A packed chunk shares its pages with others, so it is not read past the cache but written anew."""
        body = await self.reread(digest)
        if digest not in self._verified:
            await self._committer.run(partial(self._rewrite, digest=digest, body=bytes(body)))
        return len(body)

    async def _get(self, digest: str, *, past_cache: bool = False) -> Body:
        for attempt in range(_READ_ATTEMPTS):
            # After a failed attempt never from the cache: it may be the cache that has a flipped bit.
            body = await self._reads.ask(self._read, digest, past_cache=past_cache or attempt > 0)
            if body is not None:
                return body
            if await self._quarantine(digest):
                self._metrics.corrupt.labels(tier=self.name).inc()
                raise ChunkCorruptError("This replica does not match its digest; it was quarantined.", digest=digest)
        raise UnavailableError("The chunk is being replaced.", digest=digest)

    async def get_size_bytes(self, digest: str) -> int:
        """See `ports.Tier`."""
        row = await self.find(digest)
        if row is None:
            raise ChunkNotFoundError("This node does not hold the chunk.", digest=digest)
        if not row.is_sound:
            raise ChunkCorruptError("The record of this chunk is damaged; reading it will put it right.", digest=digest)
        return row.size_bytes

    async def find(self, digest: str) -> Row | None:
        """The chunk's row."""
        return await self._reads.ask(catalog.find, digest)

    async def find_or_check_room(self, chunks: Sequence[Chunk]) -> list[bool | DiskFullError]:
        """For each whether it is held; if it is not and there is no room for it behind those before it, the refusal."""
        # Of what is certainly new nothing has to be asked, while it is known that there is room.
        is_new = all(self._absence.is_absent(chunk.digest) for chunk in chunks)
        if is_new and self._space.grant(sum(chunk.size_bytes for chunk in chunks), self._sums.total.used_bytes):
            return [False] * len(chunks)
        return await self._reads.ask(self._are_held_or_have_room, chunks)

    async def has(self, digests: Sequence[str], start_index: int | None) -> set[str]:
        """See `ports.Tier`."""
        # Not from memory: a row may have been damaged since, and what it names cannot be served.
        found = await self._reads.ask(catalog.present, digests)
        return found if start_index is None else await self._record_on_held(dict.fromkeys(sorted(found), start_index))

    async def record_start_indexes(self, start_indexes: Mapping[str, int]) -> set[str]:
        """See `ports.Tier`."""
        found = await self._reads.ask(catalog.present, list(start_indexes))
        return await self._record_on_held({digest: start_indexes[digest] for digest in sorted(found)})

    async def _record_on_held(self, start_indexes: Mapping[str, int]) -> set[str]:
        if not start_indexes:
            return set()
        # Looked up again in the transaction: a delete may have come in between.
        return await self._committer.run(partial(_raise_and_list, start_indexes=start_indexes))

    async def start_indexes(self, digests: Sequence[str]) -> dict[str, int]:
        """See `ports.Tier`."""
        return await self._reads.ask(catalog.start_indexes, digests)

    async def delete(self, digest: str) -> bool:
        """See `ports.Tier`."""
        return await self._committer.run(partial(self._delete, digest=digest))

    async def delete_if(self, candidates: Sequence[ConditionalDelete]) -> set[str]:
        """See `ports.Tier`. In transactions of `DELETIONS_PER_COMMIT`: what else waits for a commit waits for one of them."""
        deleted: set[str] = set()
        for start in range(0, len(candidates), DELETIONS_PER_COMMIT):
            part = candidates[start : start + DELETIONS_PER_COMMIT]
            deleted |= await self._committer.run(partial(self._delete_if, candidates=part), yields=True)
            await self._writes.ask(self._unlink_aside)
            if self._pending_unlink_count >= pending_unlinks.MAX_PENDING // 2:
                async with self._dropping:
                    await self._drop_finished_aside()
        return deleted

    async def list_chunks(self, prefix: str, after: str, limit: int) -> list[HeldChunk]:
        """See `ports.Tier`."""
        return await self._reads.ask(catalog.list_chunks, prefix, after, limit)

    async def sums(self, group: int | None) -> list[SetSum]:
        """See `ports.Tier`."""
        with self._sums_lock:
            return list(self._sums.groups()) if group is None else self._sums.group(group)

    async def list_lost(self, after: str, limit: int) -> list[LostChunk]:
        """See `ports.Tier`."""
        return await self._reads.ask(catalog.list_lost, after, limit)

    async def restore(self, chunk: Chunk) -> bool:
        """See `ports.Tier`."""
        self.gate.check()
        if not await self._reads.ask(catalog.is_lost, chunk.digest):
            return False
        is_restored: bool | None = await self._threads_for(chunk).hand_on(
            lambda _, reply: self._store(chunk, 0, reply, only_if_lost=True)
        )
        return bool(is_restored)

    async def record_lost(self, digest: str, start_index: int) -> None:
        """Record, durably, that a chunk was acknowledged and is nowhere here; nothing happens while it is held."""
        await self._committer.run(partial(_lose_unless_held, digest=digest, start_index=start_index))

    async def scrub_position(self) -> str:
        """The last digest that the scrub has read in this pass; empty before the first."""
        return await self._reads.ask(catalog.position, _SCRUB)

    async def save_scrub_position(self, digest: str) -> None:
        """Record it durably. Raises UnavailableError."""
        await self._committer.run(partial(catalog.save_position, name=_SCRUB, digest=digest))

    async def statuses(self) -> list[TierStatus]:
        """See `ports.Tier`."""
        with self._sums_lock:
            total = self._sums.total
        return [
            TierStatus(
                name=self.name,
                is_available=self.gate.reason is None,
                chunk_count=total.chunk_count,
                sole_chunk_count=total.chunk_count,
                used_bytes=total.used_bytes,
                capacity_bytes=await self._reads.ask(lambda _: self._space.capacity_bytes()),
                lost_chunk_count=await self._reads.ask(catalog.count_lost),
            )
        ]

    def reasons_against_writes(self) -> list[str]:
        """See `ports.Tier`."""
        return [] if self.gate.reason is None else [self.gate.reason]

    def shortage(self) -> str | None:
        """See `ports.Tier`. Known since the last put, heartbeat or question for the status."""
        return self._space.shortage(self._sums.total.used_bytes)

    def is_slow(self) -> bool:
        """Whether commits take far longer than the disk should need."""
        return self._commit_latency.slow_median_s() is not None

    def degradations(self) -> list[str]:
        """See `ports.Tier`."""
        median_s = self._commit_latency.slow_median_s()
        return [] if median_s is None else [f"the disk is slow: a commit takes {1000 * median_s:.0f} ms"]

    def _threads_for(self, chunk: Chunk) -> CatalogThreads:
        return self._reads if self.is_small(chunk.size_bytes) else self._writes

    # Blocking halves, each run in one of the pools.

    def _open(self, sql: sqlite3.Connection) -> None:
        self._files.open()
        self._committer = GroupCommitter(self._database, self.gate, self._after_commit, self._commit_latency.observe)
        self._sums.fill(self._added_to_filter(catalog.all_sizes(sql)))
        self._space.measure()
        self._space.publish(self._metrics)

    def _added_to_filter(self, sizes: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
        for digest, size_bytes in sizes:
            self._absence.add(digest)
            yield digest, size_bytes

    def _close(self) -> None:
        self._writes.close()
        self._reads.close()
        self._committer.close()
        self._warm.close()

    def _are_held_or_have_room(self, sql: sqlite3.Connection, chunks: Sequence[Chunk]) -> list[bool | DiskFullError]:
        held = catalog.present(sql, [chunk.digest for chunk in chunks])
        missing = [chunk for chunk in chunks if chunk.digest not in held]
        if not missing:
            return [True] * len(chunks)
        sizes_bytes = [chunk.size_bytes for chunk in missing]
        refusals = iter(self._space.refusals(sizes_bytes, self._sums.total.used_bytes))
        return [chunk.digest in held or next(refusals) or False for chunk in chunks]

    def _pack_many(
        self,
        puts: Sequence[ChunkPut],
        yields: bool,
        sql: sqlite3.Connection,
        reply: Reply[list[bool | TrivetError | None]],
    ) -> list[bool | TrivetError | None] | HandedOn:
        """For each whether it was not held, or its refusal; None for one that a file holds, with which nothing was done."""
        results: list[bool | TrivetError | None] = []
        chunks: list[SmallChunk] = []
        for put, is_held in zip(puts, self._are_held_or_have_room(sql, [put.chunk for put in puts]), strict=True):
            chunk = put.chunk
            is_in_file = is_held is True and chunk.digest not in self._verified and _is_in_file(sql, chunk.digest)
            results.append(None if is_in_file else is_held)
            if not is_in_file and not isinstance(is_held, TrivetError):
                chunks.append(SmallChunk(chunk.digest, chunk.body(), put.start_index))
        if not chunks:
            return results
        self._committer.submit(partial(self._add_packed_of, chunks=chunks, results=results), reply, yields=yields)
        return HANDED_ON

    def _store_unless_held(
        self,
        chunk: Chunk,
        start_index: int,
        sql: sqlite3.Connection,
        reply: Reply[bool | None],
        *,
        yields: bool = False,
    ) -> HandedOn | None:
        """None when a verified replica is held; nothing was done then."""
        forgets = self._verified.forgets()
        if self._absence.is_absent(chunk.digest):
            return self._store(chunk, start_index, reply, yields=yields)
        row = catalog.find(sql, chunk.digest)
        if row is None or not row.is_sound:
            return self._store(chunk, start_index, reply, yields=yields)
        if chunk.digest in self._verified:
            return None
        body = self._read_whole(sql, chunk.digest, row, past_cache=True)
        if body is not None and len(body) == row.size_bytes and row.packed_id is None:
            self._verified.record_read(chunk.digest, forgets)
            return None
        return self._store(chunk, start_index, reply, yields=yields)

    def _store(
        self,
        chunk: Chunk,
        start_index: int,
        reply: Reply[bool | None],
        *,
        only_if_lost: bool = False,
        yields: bool = False,
    ) -> HandedOn:
        """Write what needs a file; the commit thread does the rest and delivers the reply."""
        self._space.check(chunk.size_bytes, self._sums.total.used_bytes)
        if self.is_small(chunk.size_bytes):
            return self._pack(chunk, start_index, reply, only_if_lost=only_if_lost, yields=yields)
        temporary = self._write(chunk)
        written = _WrittenFile(temporary, chunk.digest, chunk.size_bytes, start_index)
        publish = partial(self._publish, written, only_if_lost)
        try:
            self._committer.submit(publish, reply, on_failure=partial(_discard, temporary), yields=yields)
        except TrivetError:
            _discard(temporary)
            raise
        return HANDED_ON

    def _pack(
        self, chunk: Chunk, start_index: int, reply: Reply[bool | None], *, only_if_lost: bool, yields: bool
    ) -> HandedOn:
        pack = _restore_packed if only_if_lost else self._add_packed
        operation = partial(pack, digest=chunk.digest, body=chunk.body(), start_index=start_index)
        self._committer.submit(operation, reply, yields=yields)
        return HANDED_ON

    def _write(self, chunk: Chunk) -> Path:
        try:
            return self._files.write_temporary(chunk)
        except OSError as error:
            raise error_from_write(error, self.gate) from error

    def _read_many(
        self, sql: sqlite3.Connection, digests: Sequence[str], max_bytes: int
    ) -> list[Body | TrivetError | None]:
        found: list[Body | TrivetError | None] = []
        for digest in digests:
            try:
                found.append(self._read(sql, digest, past_cache=False, max_bytes=max_bytes))
            except TrivetError as error:
                found.append(without_frames(error))
        return found

    def _read(
        self, sql: sqlite3.Connection, digest: str, *, past_cache: bool, max_bytes: int | None = None
    ) -> Body | None:
        """The whole chunk, or None when what lies here, or its record, is bad."""
        removals, forgets = self._warm.removals(), self._verified.forgets()
        row = catalog.find(sql, digest)
        if row is None:
            raise ChunkNotFoundError("This node does not hold the chunk.", digest=digest)
        if max_bytes is not None and row.is_sound and row.size_bytes > max_bytes:
            raise too_large_for_a_batch(max_bytes)
        # A scrub is no reader: what it reads would push out what readers come back to.
        past_cache = past_cache or self._is_first_read(digest, row)
        body = self._read_whole(sql, digest, row, past_cache=past_cache)
        if body is not None and not (row.is_sound and len(body) == row.size_bytes):
            return None  # the record is bad
        if body is not None and row.packed_id is None:
            if past_cache:
                self._verified.record_read(digest, forgets)
            else:
                self._warm.keep(digest, self._files.path_of(digest), len(body), removals)
        return body

    def _is_first_read(self, digest: str, row: Row) -> bool:
        """Whether a file is read for the first time lately: then past the cache, where that costs less."""
        is_file = row.is_sound and row.packed_id is None and row.size_bytes <= BUFFER_BYTES
        return is_file and self._files.is_direct and not self._recent_reads.record(digest)

    def _read_whole(self, sql: sqlite3.Connection, digest: str, row: Row, *, past_cache: bool) -> Body | None:
        body = self._read_unchecked(sql, digest, row, past_cache=past_cache)
        return body if body is not None and is_whole(body, digest) else None

    def _read_unchecked(self, sql: sqlite3.Connection, digest: str, row: Row, *, past_cache: bool) -> Body | None:
        try:
            if row.packed_id is not None:
                return read_packed(sql, row.packed_id)
            return self._files.read_past_cache(digest) if past_cache else self._files.read(digest)
        except (OSError, sqlite3.Error) as error:
            if is_shortage(error):
                # No word about the replica: taking it out of service would be wrong.
                raise UnavailableError("This node is short of file descriptors or memory.", digest=digest) from error
            logger.warning("a chunk cannot be read", digest=digest, error=str(error))
            return None

    # Operations, run by the commit thread inside a transaction.

    def _publish(self, file: _WrittenFile, only_if_lost: bool, transaction: Transaction) -> bool:
        if not only_if_lost and catalog.find(transaction.sql, file.digest) is None:
            catalog.insert_file(transaction, file.digest, file.size_bytes, file.start_index)
            self._give_name(transaction, file)
            return True
        is_unwanted = only_if_lost and not catalog.is_lost(transaction.sql, file.digest)
        replaced_index = 0 if is_unwanted else self._take_out_unverified(transaction, file.digest)
        start_index = max(file.start_index, replaced_index)
        if is_unwanted or not catalog.add_file(transaction, file.digest, file.size_bytes, start_index):
            transaction.unlinks.append(file.temporary)
            return False
        self._give_name(transaction, file)
        return True

    def _give_name(self, transaction: Transaction, file: _WrittenFile) -> None:
        path = self._files.path_of(file.digest)
        transaction.unlinks_aside.discard(file.digest)
        self._unlinks_aside.take_back(file.digest)
        file.temporary.rename(path)
        if file.digest not in transaction.removed:  # otherwise a rollback brings back a row that needs this file
            transaction.created.append(path)
        transaction.directories.add(path.parent)
        # A delete in the same batch asked for the unlink of this name, which is now the new file's.
        transaction.unlinks = [unlink for unlink in transaction.unlinks if unlink != path]

    def _add_packed(self, transaction: Transaction, digest: str, body: bytes, start_index: int) -> bool:
        """Store a small chunk; a replica that is held and not verified is replaced by it. Whether it was not held."""
        row = catalog.find(transaction.sql, digest)
        if row is None:
            catalog.insert_packed(transaction, digest, body, start_index)
            return True
        is_held = row.is_sound
        start_index = max(start_index, self._take_out_unverified(transaction, digest))
        return catalog.add_packed(transaction, digest, body, start_index) and not is_held

    def _add_small(self, transaction: Transaction, chunks: Sequence[SmallChunk]) -> list[bool]:
        return [self._add_packed(transaction, chunk.digest, chunk.body, chunk.start_index) for chunk in chunks]

    def _add_packed_of(
        self, transaction: Transaction, chunks: Sequence[SmallChunk], results: Sequence[bool | TrivetError | None]
    ) -> list[bool | TrivetError | None]:
        """`results`, with what became of `chunks` in their places."""
        created = iter(self._add_small(transaction, chunks))
        return [next(created) if isinstance(result, bool) else result for result in results]

    def _rewrite(self, transaction: Transaction, digest: str, body: bytes) -> None:
        row = catalog.find(transaction.sql, digest)
        if row is not None and row.is_sound and row.packed_id is not None:  # otherwise deleted or replaced meanwhile
            self._add_packed(transaction, digest, body, 0)

    def _take_out_unverified(self, transaction: Transaction, digest: str) -> int:
        """Make way for the bytes at hand, if a replica is held that may be bad; the start index that it had, or 0."""
        # The last question searches a list as long as the batch.
        if not catalog.holds(transaction.sql, digest) or digest in self._verified or digest in transaction.written:
            return 0
        row = catalog.remove(transaction, digest)
        if row is None:
            return 0
        if row.packed_id is None:
            self._files.move_to_quarantine(digest)
            transaction.directories.add(self._files.path_of(digest).parent)
            self._metrics.corrupt.labels(tier=self.name).inc()
            logger.error("chunk corrupt, replaced by the bytes of a put", digest=digest, size_bytes=row.size_bytes)
        return row.start_index

    def _delete(self, transaction: Transaction, digest: str) -> bool:
        row = self._forget(transaction, digest)
        if row is not None and row.packed_id is None:
            transaction.unlinks.append(self._files.path_of(digest))
        return row is not None

    def _delete_if(self, transaction: Transaction, candidates: Sequence[ConditionalDelete]) -> set[str]:
        chosen = {each.digest for each in candidates if _is_condemned(transaction.sql, each)}
        for digest in chosen:
            row = self._forget(transaction, digest)
            if row is not None and row.packed_id is None:
                transaction.unlinks_aside.add(digest)
        return chosen

    def _forget(self, transaction: Transaction, digest: str) -> Row | None:
        """Take a chunk out, a lost one too; the row that was there. Its file is the caller's to unlink."""
        catalog.forget_lost(transaction, digest)
        row = catalog.remove(transaction, digest)
        if row is not None and row.packed_id is None:
            if self._pending_unlink_count >= pending_unlinks.MAX_PENDING:
                pending_unlinks.drop_finished(transaction, self._files)
                self._pending_unlink_count = 0
            pending_unlinks.record(transaction, digest)
            self._pending_unlink_count += 1
            if self._newly_pending is not None:
                self._newly_pending.add(digest)
        return row

    async def _drop_finished_aside(self) -> None:
        """As `pending_unlinks.drop_finished`, with its fsyncs in another thread, because they take a second together."""
        newly_pending: set[str] = set()

        def begin(_: Transaction) -> None:
            self._newly_pending = newly_pending

        def end(transaction: Transaction) -> None:
            # Of a file that was stored and deleted again meanwhile, the last unlink may not be durable.
            pending_unlinks.drop(transaction, [digest for digest in finished if digest not in newly_pending])
            self._newly_pending = None
            self._pending_unlink_count = len(newly_pending)

        await self._committer.run(begin)
        finished = await self._writes.ask(self._sync_finished)
        await self._committer.run(end)

    def _sync_finished(self, sql: sqlite3.Connection) -> list[str]:
        try:
            return pending_unlinks.sync_finished(sql, self._files)
        except OSError as error:
            raise error_from_write(error, self.gate) from error

    def _unlink_aside(self, _: sqlite3.Connection) -> None:
        try:
            self._unlinks_aside.run()
        except OSError as error:
            self.gate.close(f"a file that no row names could not be removed ({error.strerror})")

    async def _quarantine(self, digest: str) -> bool:
        """Quarantine a bad replica; False when there is none any more: it was deleted or replaced meanwhile."""
        try:
            return await self._committer.run(partial(self._take_out_of_service, digest))
        except TrivetError:
            # The node takes no changes any more. The replica stays, and is found bad again at every read.
            logger.exception("a bad replica could not be quarantined", digest=digest)
            return True

    def _take_out_of_service(self, digest: str, transaction: Transaction) -> bool:
        # Read again here, where nothing can change meanwhile: inode numbers are reused, so only the bytes can tell whether
        # this is still the replica that a reader found bad.
        row = catalog.find(transaction.sql, digest)
        if row is None:
            return False
        if (body := self._read_whole(transaction.sql, digest, row, past_cache=True)) is not None:
            if not (row.is_sound and len(body) == row.size_bytes):
                catalog.correct(transaction, digest, row, len(body))
                logger.error("the record of a whole chunk was damaged, and is written anew", digest=digest)
            return False
        packed = None if row.packed_id is None else read_packed(transaction.sql, row.packed_id)
        logger.error("chunk corrupt, quarantined", digest=digest, tier=self.name, size_bytes=row.size_bytes)
        catalog.lose(transaction, digest, row.start_index)
        if packed is not None and is_nearly(actual := digest_of(packed), digest):
            # Damage hit the name in the catalog and not the bytes: they are a whole chunk, and it is missing here.
            catalog.add_packed(transaction, actual, packed, row.start_index)
            logger.warning("a packed chunk lay under a damaged name", digest=digest, actual=actual)
        if row.packed_id is None:
            self._files.move_to_quarantine(digest)
            transaction.directories.add(self._files.path_of(digest).parent)
        return True

    def _after_commit(self, transaction: Transaction) -> None:
        # By the commit thread only, after COMMIT and before any reply of the batch goes out.
        if transaction.removed:
            self._warm.forget(transaction.removed)
            self._verified.forget(transaction.removed)
        if self.gate.reason is None:  # else this commit may be in doubt, and its rows be back after a restart
            self._unlinks_aside.add(transaction.unlinks_aside)
        self._verified.record(transaction.written)
        for digest in transaction.written:
            self._absence.add(bytes.fromhex(digest))
        with self._sums_lock:
            for partition, difference in transaction.differences.items():
                self._sums.change(partition, difference)

    # Start.

    async def _reconcile(self) -> None:
        for prefix in range(FOLDER_COUNT):
            found = await self._reads.ask(find_differences, self._files, prefix)
            verdicts = await asyncio.gather(*[self._reads.ask(self._is_whole_file, name) for name in found.unnamed])
            whole = [name for name, is_good in zip(found.unnamed, verdicts, strict=True) if is_good]
            bad = [name for name, is_good in zip(found.unnamed, verdicts, strict=True) if not is_good]
            if found.unnamed or found.deleted or found.missing:
                await self._committer.run(partial(resolve, files=self._files, found=found, whole=whole, bad=bad))
                logger.warning(
                    "reconciled a chunk folder", adopted=len(whole), quarantined=len(bad), lost=len(found.missing)
                )
        await self._committer.run(partial(pending_unlinks.drop_finished, files=self._files))

    def _is_whole_file(self, _: sqlite3.Connection, digest: str) -> bool:
        try:
            return is_whole(self._files.read_past_cache(digest), digest)
        except OSError as error:
            if is_shortage(error):
                raise
            logger.warning("a file without a row cannot be read", digest=digest, error=str(error))
            return False

    async def _check_salvaged(self) -> None:
        """Read what lay in a damaged write-ahead file: what is bad is lost from here on, and fetched from the peers."""
        found = await self._reads.ask(lambda _: find_unchecked(self._database))
        if found is None:
            return
        self._metrics.catalog_salvages.inc()
        digests = await self._reads.ask(catalog.newest_packed, 2 * found.wal_bytes)
        bad = 0
        for digest in digests:
            try:
                await self.get(digest)
            except ChunkCorruptError:
                bad += 1
            except ChunkNotFoundError:
                continue  # stored anew under its own name, or listed twice
        await asyncio.to_thread(mark_checked, self._database)
        logger.warning("checked the newest packed chunks after damage", checked=len(digests), bad=bad)


def _is_in_file(sql: sqlite3.Connection, digest: str) -> bool:
    row = catalog.find(sql, digest)
    return row is not None and row.packed_id is None


def _restore_packed(transaction: Transaction, digest: str, body: bytes, start_index: int) -> bool:
    return catalog.is_lost(transaction.sql, digest) and catalog.add_packed(transaction, digest, body, start_index)


def _discard(temporary: Path) -> None:
    """A file that nothing refers to; one that cannot be removed now is at the next start."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("a temporary file could not be removed", name=temporary.name, error=str(error))


def _lose_unless_held(transaction: Transaction, digest: str, start_index: int) -> None:
    if not catalog.holds(transaction.sql, digest):
        catalog.lose(transaction, digest, start_index)


def _raise_and_list(transaction: Transaction, start_indexes: Mapping[str, int]) -> set[str]:
    held = catalog.present(transaction.sql, list(start_indexes))
    catalog.raise_start_indexes(transaction, [(digest, start_indexes[digest]) for digest in held])
    return held


def _is_condemned(sql: sqlite3.Connection, candidate: ConditionalDelete) -> bool:
    row = catalog.find(sql, candidate.digest)
    if row is not None and not row.is_sound:
        return False  # its start index may be what was damaged; a read, a put or the next start puts it right
    start_index = catalog.lost_index(sql, candidate.digest) if row is None else row.start_index
    return start_index is not None and candidate.condition(start_index)
