"""One download: find the version in the log, check its replicas, fetch with read-ahead, send what was verified.

Memory is bounded by the byte budget: a chunk is reserved before it is fetched and released when the client has taken it,
so a slow client makes the gateway fetch slowly and never makes it buffer. A chunk out of the cache is reserved as well: while
it is being sent it may be evicted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from services.gateway.replicas.check import ReplicaCheck, ReplicaChecker
from services.gateway.replicas.confirmations import Confirmations
from services.gateway.replicas.node_directory import NodeDirectory
from services.gateway.replicas.quorum import Quorums, replicas_confirmed, require_read_quorum
from services.gateway.replicas.reader import ReplicaReader
from services.gateway.replicas.refresh import ConfirmationRefresh
from services.gateway.replicas.repair import ReadRepair, Repair
from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.admission import SMALL_BYTES, Admission, Client, ConcurrencyLimit, Transfer
from services.gateway.transfers.chunk_cache import MAX_CHUNK_BYTES, ChunkCache
from services.gateway.transfers.chunk_lists import (
    ChunkMap,
    ChunkSlice,
    InlineChunks,
    SharedChunkLists,
    SliceCursor,
    is_counted,
    whole,
)
from services.gateway.transfers.download_source import DownloadSource, EarlyFetch
from services.gateway.transfers.piece_pages import HELD_BYTES, PAGE_CHUNKS, PagedChunks, PiecePages
from services.gateway.transfers.read_ahead import DownloadLimits, FetchedSlice, ReadAhead
from services.gateway.transfers.records import Records
from shared.contracts.cluster import NodeMap
from shared.contracts.files import FileVersion
from shared.contracts.names import DIGEST_BYTES
from shared.errors import TrivetError
from shared.placement import read_order
from shared.units import KIB

CHECK_WINDOW_CHUNKS: Final = 64
"""How many chunks a download checks at a time; the first window's result stands in the headers."""

STRICT_WINDOW_CHUNKS: Final = 64
"""How many are asked about at a time where every chunk of a file must be confirmed: the nodes read them from their disks."""

MAX_LOOKUPS: Final = 16
"""Chunk lists being fetched at one time: the longest is a few megabytes. As many again share the next batch."""

_SLICE_BYTES: Final = 256 * KIB
"""What goes to the server at once: as much as its socket takes, so that little lies between budget and client."""

_NOTHING: Final = memoryview(b"")


@dataclass(frozen=True, slots=True)
class ConfirmedReplicas:
    """How many replicas of the weakest chunk are confirmed, and the age of the oldest confirmation that was counted.

    `age_s` is 0 when all of them were asked for this request.
    """

    count: int
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FileReading:
    """A file that is being sent, its first bytes at hand and verified.

    Attributes:
        pieces: of the bytes, none across two spans. The next one is asked for when the connection has taken what was sent
            before; an empty one only waits for that.
    """

    confirmed: ConfirmedReplicas
    pieces: AsyncIterator[memoryview]


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A version, where its chunks should be, and the log index at which this was so; held by `transfer`.

    `early`: its only chunk, which was fetched beside the read that found the version. `keeps_versions`: the bucket does or did.
    """

    version: FileVersion
    chunks: ChunkMap
    node_map: NodeMap
    log_index: int
    transfer: Transfer
    early: EarlyFetch | None = None
    keeps_versions: bool = False

    def cursor(self, spans: Sequence[ByteSpan] | None = None) -> SliceCursor:
        """At the first chunk of `spans`, or of the file."""
        return SliceCursor(self.chunks, whole(self.version.content) if spans is None else spans)


class Downloads:
    """All downloads of a gateway."""

    def __init__(
        self,
        *,
        records: Records,
        directory: NodeDirectory,
        reader: ReplicaReader,
        chunk_cache: ChunkCache,
        pages: PiecePages,
        checker: ReplicaChecker,
        confirmations: Confirmations,
        refresh: ConfirmationRefresh,
        repair: ReadRepair,
        admission: Admission,
        limits: DownloadLimits,
    ) -> None:
        self._records = records
        self._directory = directory
        self._source = DownloadSource(reader, chunk_cache)
        self._pages = pages
        self._reader = reader
        self._checker = checker
        self._confirmations = confirmations
        self._refresh = refresh
        self._repair = repair
        self._admission = admission
        self._limits = limits
        self._lookups = ConcurrencyLimit(MAX_LOOKUPS, wait_s=limits.lookup_wait_s)
        self._chunk_lists = SharedChunkLists()

    @asynccontextmanager
    async def open(
        self, name: FileName, client: Client, *, version: int | None = None, is_body_wanted: bool = False
    ) -> AsyncIterator[FoundFile]:
        """The current version of a file, or the one of that number, read linearizably, and the slot to send it in.

        Where `is_body_wanted` and a record of a small file is known, its chunk is fetched meanwhile. It is of use only if the
        read gives the same record.

        Raises:
            BucketNotFoundError, FileNotFoundInBucketError: with the fact `version`, the index that last changed the key.
            VersionNotFoundError, DeleteMarkerError: see `Records.read`.
            OverloadedError: no transfer slot, no look-up place in time, or no room for the list of chunks.
        """
        # The slot is acquired before the metadata read, so that a rejected request never loads a chunk list.
        async with self._admission.transfer(client) as transfer:
            early = self._begin_early(name, transfer) if is_body_wanted and version is None else None
            try:
                found = await self._look_up(name, version, transfer, early)
                size_bytes = found.version.content.size_bytes
                transfer.size_known(size_bytes)
                if is_counted(found.version):
                    async with self._chunk_lists.hold(
                        found.version, transfer, wait_s=self._limits.waits.first_s
                    ) as held:
                        found = replace(found, version=held, chunks=InlineChunks(held.content))
                        yield found
                elif size_bytes > SMALL_BYTES and isinstance(found.chunks, PagedChunks):
                    with transfer.lease() as pages:
                        await transfer.grow(pages, HELD_BYTES, wait_s=self._limits.waits.first_s)
                        yield found
                else:
                    yield found
            finally:
                if early is not None:
                    await early.end()

    def published(self, version: FileVersion) -> None:
        """An upload made `version` the current one: it is likely to be read."""
        self._records.published(version)

    def _begin_early(self, name: FileName, transfer: Transfer) -> EarlyFetch | None:
        version, node_map = self._records.known(name), self._directory.latest
        if version is None or node_map is None or len(version.content.chunk_digests) != DIGEST_BYTES:
            return None
        if not version.content.has_chunk_list:
            return None
        chunk = SliceCursor(InlineChunks(version.content), whole(version.content)).peek()
        if chunk is None or chunk.size_bytes > MAX_CHUNK_BYTES or self._source.has(chunk):
            return None
        lease = transfer.lease()
        if not lease.try_grow(chunk.size_bytes):
            return None
        return EarlyFetch(chunk.digest, node_map, lease, asyncio.ensure_future(self._source.fetch(chunk, node_map)))

    async def _look_up(
        self, name: FileName, number: int | None, transfer: Transfer, early: EarlyFetch | None
    ) -> FoundFile:
        async with self._lookups:
            version, context, keeps_versions = await self._records.read(name, number)
        node_map = await self._directory.at(context.epoch)
        chunks = self._chunks_of(version, context.cluster_id)
        return FoundFile(version, chunks, node_map, context.log_index, transfer, early, keeps_versions)

    def _chunks_of(self, version: FileVersion, cluster_id: str | None) -> ChunkMap:
        content = version.content
        if content.has_chunk_list:
            return InlineChunks(content)
        stride_bytes = PAGE_CHUNKS * content.chunk_size_bytes
        return PagedChunks(self._pages, cluster_id, version.version, stride_bytes=stride_bytes)

    async def confirm(self, found: FoundFile, quorums: Quorums) -> int:
        """How many replicas of every chunk are confirmed, up to N: what HEAD shows.

        Raises:
            QuorumNotReachedError: fewer than R, and R is a condition.
        """
        confirmed = await self._confirm(found, found.cursor(), quorums.replica_count, quorums)
        require_read_quorum(confirmed, quorums)
        return confirmed

    @asynccontextmanager
    async def read(
        self, found: FoundFile, spans: Sequence[ByteSpan] | None, quorums: Quorums, group: asyncio.TaskGroup
    ) -> AsyncIterator[FileReading]:
        """The file, or `spans` of it one after the other; fetching stops when the block is left.

        What fails before the block begins is a clean error; what fails in it must break the connection off.

        Raises:
            DataUnavailableError: no good replica of a chunk is left.
            QuorumNotReachedError: fewer than R replicas, and R is a condition.
            OverloadedError: no budget.
            RequestTimeoutError: it takes longer than its chunks are kept for it.
        """
        read_ahead = ReadAhead(
            found.cursor(spans),
            found.node_map,
            found.transfer,
            early=found.early,
            source=self._source,
            limits=self._limits,
            group=group,
        )
        try:
            await read_ahead.require_next()
            confirmed = await self._check_first(found, found.cursor(spans), quorums, read_ahead)
            async with aclosing(self._pieces(found, quorums, read_ahead, group)) as pieces:
                yield FileReading(confirmed, pieces)
        finally:
            read_ahead.close()

    async def _check_first(
        self,
        found: FoundFile,
        cursor: SliceCursor,
        quorums: Quorums,
        read_ahead: ReadAhead,
    ) -> ConfirmedReplicas:
        """The confirmed replicas, weakest chunk, of the first window, or of everything when R is a condition."""
        window = await cursor.take(CHECK_WINDOW_CHUNKS)
        if not window:
            return ConfirmedReplicas(quorums.replica_count)
        first = window[0].digest
        presumed: dict[str, str] = {}
        if not read_ahead.is_first_cached:
            presumed[first] = self._reader.first_choice(read_order(first, found.node_map))
        is_strict = quorums.is_read_strict
        # The chunk is being fetched meanwhile, unless it is here.
        check = await self._check(found, window, quorums.read_quorum, presumed, is_verified=is_strict)
        fetched = await read_ahead.first()
        # What they confirmed before, or listed, says less than what they sent.
        faulty = {node.id for node in fetched.faulty_nodes}
        check.holders[first] -= faulty
        sender = fetched.node_id
        if sender is not None:
            check.holders[first].add(sender)
        age_s = check.age_s
        is_other = sender != presumed.get(first) or bool(faulty)
        if is_other and len(check.holders[first]) < quorums.read_quorum:
            again = await self._check(found, window[:1], quorums.read_quorum, {}, is_verified=is_strict)
            check.holders[first] |= again.holders[first] - faulty
            age_s = max(age_s, again.age_s)
        confirmed = replicas_confirmed(check.holders.values(), quorums.replica_count)
        if quorums.is_read_strict:
            rest = await self._confirm(found, cursor, quorums.read_quorum, quorums)
            confirmed = min(confirmed, rest)
        require_read_quorum(confirmed, quorums)
        return ConfirmedReplicas(confirmed, age_s)

    async def _confirm(self, found: FoundFile, cursor: SliceCursor, wanted: int, quorums: Quorums) -> int:
        """The weakest chunk's number of confirmed replicas, asked window by window so that memory does not depend on size."""
        confirmed = quorums.replica_count
        while window := await cursor.take(STRICT_WINDOW_CHUNKS):
            check = await self._check(found, window, min(wanted, confirmed), {}, is_verified=quorums.is_read_strict)
            confirmed = min(confirmed, replicas_confirmed(check.holders.values(), quorums.replica_count))
            if quorums.is_read_strict and confirmed < quorums.read_quorum:
                break
        return confirmed

    async def _check(
        self,
        found: FoundFile,
        slices: Sequence[ChunkSlice],
        wanted: int,
        presumed: dict[str, str],
        *,
        is_verified: bool = False,
    ) -> ReplicaCheck:
        """Where R is a condition, a replica `is_verified` or does not count: a row in a node's catalog proves no bytes."""
        sizes = {chunk.digest: chunk.size_bytes for chunk in slices}
        check = await self._checker.check(
            sizes, found.node_map, wanted=wanted, presumed=presumed, is_verified=is_verified
        )
        for digest, node in check.missing:
            self._repair.ask(Repair(digest, sizes[digest], node, found.node_map, found.log_index))
        for digest, confirmation in check.remembered:
            if self._confirmations.is_aging(confirmation):
                replica = Repair(digest, sizes[digest], confirmation.node, found.node_map, found.log_index)
                self._refresh.ask(replica)
        return check

    async def _pieces(
        self, found: FoundFile, quorums: Quorums, read_ahead: ReadAhead, group: asyncio.TaskGroup
    ) -> AsyncGenerator[memoryview, None]:
        """What is fetched. Each further window is checked as it is reached, for the sake of repair."""
        transfer, sent_count = found.transfer, 0
        step = min(_SLICE_BYTES, transfer.piece_bytes or _SLICE_BYTES)
        while (fetched := await read_ahead.next()) is not None:
            with fetched:
                self._repair_faulty(found, fetched)
                view = fetched.view()
                for offset in range(0, len(view), step):
                    size_bytes = min(step, len(view) - offset)
                    await transfer.take_turn(size_bytes)
                    with transfer.waiting_for_client():
                        yield view[offset : offset + size_bytes]
                    transfer.moved(size_bytes)
                del view, fetched  # nothing here holds its bytes, which no lease covers from here on
                if found.version.content.size_bytes > SMALL_BYTES:
                    with transfer.waiting_for_client():
                        yield _NOTHING  # until the connection has taken all of it: the lease covers what is unsent
            await read_ahead.require_next()
            sent_count += 1
            if sent_count % CHECK_WINDOW_CHUNKS == 0 and not quorums.is_read_strict:
                group.create_task(self._check_window(found, *read_ahead.unsent(), quorums))

    def _repair_faulty(self, found: FoundFile, fetched: FetchedSlice) -> None:
        chunk = fetched.chunk
        for node in fetched.found.faulty_nodes:
            self._repair.ask(Repair(chunk.digest, chunk.size_bytes, node, found.node_map, found.log_index))

    async def _check_window(
        self, found: FoundFile, window: list[ChunkSlice], rest: SliceCursor, quorums: Quorums
    ) -> None:
        try:
            window += await rest.take(CHECK_WINDOW_CHUNKS - len(window))
        except TrivetError:
            return  # the download meets it as well, when it is there
        await self._check(found, window, quorums.read_quorum, {})
