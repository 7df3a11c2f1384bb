"""Implements `ports.Tier` on one folder; the package docstring draws the threads of a put."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Self

import structlog

from services.storage.body_buffers import BodyBuffers, make_body_buffers
from services.storage.digests import is_whole
from services.storage.disk import catalog, pending_unlinks
from services.storage.disk.catalog import Row
from services.storage.disk.catalog_threads import CatalogThreads
from services.storage.disk.changes import (
    TIER_NAME,
    ChunkChanges,
    SmallChunk,
    WrittenFile,
    lose_unless_held,
    raise_and_list,
    restore_packed,
)
from services.storage.disk.chunk_files import ChunkFiles
from services.storage.disk.commit_latency import CommitLatency
from services.storage.disk.disk_errors import error_from_write, is_shortage
from services.storage.disk.disk_threads import HANDED_ON, HandedOn
from services.storage.disk.free_space import FreeSpace
from services.storage.disk.group_commit import GroupCommitter
from services.storage.disk.holdings import Holdings
from services.storage.disk.pending_unlinks import PendingUnlinks, UnlinksAside
from services.storage.disk.reconciliation import FOLDER_COUNT, find_differences, resolve
from services.storage.disk.replica_reads import DiskReader
from services.storage.disk.replies import Reply
from services.storage.disk.wal_salvage import find_unchecked, mark_checked, salvage
from services.storage.disk.warm_files import WarmFiles
from services.storage.disk.write_gate import WriteGate
from services.storage.metrics import StorageMetrics
from services.storage.outcomes import outcomes_of, result_of
from services.storage.ports import Body, Chunk, ChunkPut, ConditionalDelete, LostChunk, PutOutcome
from services.storage.verified_chunks import VerifiedChunks
from shared.contracts.chunks import HeldChunk, TierStatus
from shared.errors import ChunkCorruptError, ChunkNotFoundError, DiskFullError, TrivetError, UnavailableError
from shared.partitions import SetSum
from shared.settings import refuse_to_start

logger = structlog.get_logger(__name__)

_SCRUB: Final = "scrub"
_CATALOG_NAME: Final = "catalog.sqlite"
_READ_ATTEMPTS: Final = 3
_MAX_QUESTIONS: Final = 16
"""What one reading thread replies in one hop."""
DELETIONS_PER_COMMIT: Final = 64
"""Of conditional ones: a few milliseconds of the commit thread."""


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

    name = TIER_NAME

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
        self._verified = VerifiedChunks() if verified is None else verified
        self._reader = DiskReader(self._files, self._warm, self._verified)
        self._holdings = Holdings()
        self._pending = PendingUnlinks(self._files)
        self._dropping = asyncio.Lock()
        self._unlinks_aside = UnlinksAside(self._files)
        self._changes = ChunkChanges(
            self._files,
            reader=self._reader,
            warm=self._warm,
            verified=self._verified,
            holdings=self._holdings,
            pending=self._pending,
            unlinks_aside=self._unlinks_aside,
            gate=self.gate,
            metrics=metrics,
        )

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
            await self._committer.run(partial(self._changes.add_small, chunks=chunks))

    async def get(self, digest: str) -> Body:
        """See `ports.Tier`."""
        body = self._warm.read(digest)
        if body is not None and is_whole(body, digest):
            self._metrics.warm_reads.inc()
            return body
        return await self._get(digest)

    async def get_many(self, digests: Sequence[str], max_bytes: int) -> list[Body | TrivetError]:
        """See `ports.Tier`. One hop to a reading thread; what it finds bad is read again as `get` does."""
        found = await self._reads.ask(self._reader.read_many, digests, max_bytes)
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
            await self._committer.run(partial(self._changes.rewrite, digest=digest, body=bytes(body)))
        return len(body)

    async def _get(self, digest: str, *, past_cache: bool = False) -> Body:
        for attempt in range(_READ_ATTEMPTS):
            # After a failed attempt never from the cache: it may be the cache that has a flipped bit.
            body = await self._reads.ask(self._reader.read, digest, past_cache=past_cache or attempt > 0)
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

    async def find_or_check_room(self, chunks: Sequence[Chunk], promised_bytes: int = 0) -> list[bool | DiskFullError]:
        """For each whether it is held; if it is not and there is no room for it behind those before it, the refusal.

        Args:
            promised_bytes: that will be put later, and have their room.
        """
        # Of what is certainly new nothing has to be asked, while it is known that there is room.
        is_new = all(self._holdings.is_absent(chunk.digest) for chunk in chunks)
        size_bytes = sum(chunk.size_bytes for chunk in chunks)
        if is_new and self._space.grant(size_bytes, self._holdings.total.used_bytes, promised_bytes):
            return [False] * len(chunks)
        return await self._reads.ask(self._are_held_or_have_room, chunks, promised_bytes)

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
        return await self._committer.run(partial(raise_and_list, start_indexes=start_indexes))

    async def start_indexes(self, digests: Sequence[str]) -> dict[str, int]:
        """See `ports.Tier`."""
        return await self._reads.ask(catalog.start_indexes, digests)

    async def delete(self, digest: str) -> bool:
        """See `ports.Tier`."""
        return await self._committer.run(partial(self._changes.delete, digest=digest))

    async def delete_if(self, candidates: Sequence[ConditionalDelete]) -> set[str]:
        """See `ports.Tier`. In transactions of `DELETIONS_PER_COMMIT`: what else waits for a commit waits for one of them."""
        deleted: set[str] = set()
        for start in range(0, len(candidates), DELETIONS_PER_COMMIT):
            part = candidates[start : start + DELETIONS_PER_COMMIT]
            deleted |= await self._committer.run(partial(self._changes.delete_if, candidates=part), yields=True)
            await self._writes.ask(self._unlink_aside)
            if self._pending.count >= pending_unlinks.MAX_PENDING // 2:
                async with self._dropping:
                    await self._drop_finished_aside()
        return deleted

    async def list_chunks(self, prefix: str, after: str, limit: int) -> list[HeldChunk]:
        """See `ports.Tier`."""
        return await self._reads.ask(catalog.list_chunks, prefix, after, limit)

    async def sums(self, group: int | None) -> list[SetSum]:
        """See `ports.Tier`."""
        return self._holdings.sums(group)

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
        await self._committer.run(partial(lose_unless_held, digest=digest, start_index=start_index))

    async def scrub_position(self) -> str:
        """The last digest that the scrub has read in this pass; empty before the first."""
        return await self._reads.ask(catalog.position, _SCRUB)

    async def save_scrub_position(self, digest: str) -> None:
        """Record it durably. Raises UnavailableError."""
        await self._committer.run(partial(catalog.save_position, name=_SCRUB, digest=digest))

    async def statuses(self) -> list[TierStatus]:
        """See `ports.Tier`."""
        total = self._holdings.total
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
        return self._space.shortage(self._holdings.total.used_bytes)

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
        self._committer = GroupCommitter(
            self._database, self.gate, self._changes.after_commit, self._commit_latency.observe
        )
        self._holdings.fill(catalog.all_sizes(sql))
        self._space.measure()
        self._space.publish(self._metrics)

    def _close(self) -> None:
        self._writes.close()
        self._reads.close()
        self._committer.close()
        self._warm.close()

    def _are_held_or_have_room(
        self, sql: sqlite3.Connection, chunks: Sequence[Chunk], promised_bytes: int = 0
    ) -> list[bool | DiskFullError]:
        held = catalog.present(sql, [chunk.digest for chunk in chunks])
        missing = [chunk for chunk in chunks if chunk.digest not in held]
        if not missing:
            return [True] * len(chunks)
        sizes_bytes = [chunk.size_bytes for chunk in missing]
        refusals = iter(self._space.refusals(sizes_bytes, self._holdings.total.used_bytes, promised_bytes))
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
        self._committer.submit(
            partial(self._changes.add_packed_of, chunks=chunks, results=results), reply, yields=yields
        )
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
        if self._holdings.is_absent(chunk.digest):
            return self._store(chunk, start_index, reply, yields=yields)
        row = catalog.find(sql, chunk.digest)
        if row is None or not row.is_sound:
            return self._store(chunk, start_index, reply, yields=yields)
        if chunk.digest in self._verified:
            return None
        body = self._reader.read_whole(sql, chunk.digest, row, past_cache=True)
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
        self._space.check(chunk.size_bytes, self._holdings.total.used_bytes)
        if self.is_small(chunk.size_bytes):
            return self._pack(chunk, start_index, reply, only_if_lost=only_if_lost, yields=yields)
        temporary = self._write(chunk)
        written = WrittenFile(temporary, chunk.digest, chunk.size_bytes, start_index)
        publish = partial(self._changes.publish, written, only_if_lost)
        try:
            self._committer.submit(publish, reply, on_failure=partial(_discard, temporary), yields=yields)
        except TrivetError:
            _discard(temporary)
            raise
        return HANDED_ON

    def _pack(
        self, chunk: Chunk, start_index: int, reply: Reply[bool | None], *, only_if_lost: bool, yields: bool
    ) -> HandedOn:
        pack = restore_packed if only_if_lost else self._changes.add_packed
        operation = partial(pack, digest=chunk.digest, body=chunk.body(), start_index=start_index)
        self._committer.submit(operation, reply, yields=yields)
        return HANDED_ON

    def _write(self, chunk: Chunk) -> Path:
        try:
            return self._files.write_temporary(chunk)
        except OSError as error:
            raise error_from_write(error, self.gate) from error

    async def _drop_finished_aside(self) -> None:
        """As `pending_unlinks.drop_finished`, with its fsyncs in another thread, because they take a second together."""
        await self._committer.run(self._pending.begin_dropping)
        finished = await self._writes.ask(self._sync_finished)
        await self._committer.run(partial(self._pending.end_dropping, finished=finished))

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
            return await self._committer.run(partial(self._changes.take_out_of_service, digest))
        except TrivetError:
            # The node takes no changes any more. The replica stays, and is found bad again at every read.
            logger.exception("a bad replica could not be quarantined", digest=digest)
            return True

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


def _discard(temporary: Path) -> None:
    """A file that nothing refers to; one that cannot be removed now is at the next start."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("a temporary file could not be removed", name=temporary.name, error=str(error))
