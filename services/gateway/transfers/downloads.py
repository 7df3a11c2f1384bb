"""One download: find the version in the log, prove its replicas, fetch with read-ahead, send what was verified.

Memory is bounded by the byte budget: a chunk is reserved before it is fetched and released when the client has taken it,
so a slow client makes the gateway fetch slowly and never makes it buffer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from services.gateway.ports import Metadata
from services.gateway.replicas.check import Census, ReplicaCensus
from services.gateway.replicas.node_directory import NodeDirectory
from services.gateway.replicas.quorum import Quorums, replicas_confirmed, require_read_quorum
from services.gateway.replicas.reader import FetchedChunk, ReplicaReader
from services.gateway.replicas.repair import ReadRepair, Repair
from services.gateway.semantics.byte_ranges import ByteSpan
from services.gateway.semantics.raw_names import FileName
from services.gateway.transfers.admission import TransferSlots, Turns
from services.gateway.transfers.chunking import ReservationWaits
from shared.byte_budget import ByteBudget, ByteLease
from shared.consensus_calls.client import ReadContext
from shared.contracts.cluster import NodeMap
from shared.contracts.metadata import Answer, FileAnswer, FileVersion, GetFile
from shared.errors import BucketNotFoundError, FileNotFoundInBucketError, InternalError, TrivetError
from shared.placement import read_order
from shared.units import KIB

CENSUS_WINDOW_CHUNKS: Final = 64
"""How many chunks a download proves at a time; the first window's result stands in the headers."""

MAX_FINDS: Final = 16
"""Chunk lists being fetched at one time: the longest is a few megabytes. As many again share the next batch."""

_SLICE_BYTES: Final = 256 * KIB
"""What goes to the server at once: as much as its socket takes, so that little lies between budget and client."""

Start = Callable[[int], Awaitable[None]]
Sink = Callable[[memoryview], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """See `GatewaySettings`."""

    read_ahead_chunks: int
    waits: ReservationWaits
    find_wait_s: float


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A version, where its chunks should be, and the log index at which this was so."""

    version: FileVersion
    node_map: NodeMap
    log_index: int


@dataclass(frozen=True, slots=True)
class ChunkPart:
    """Bytes `start` to `stop` of one chunk."""

    digest: str
    size_bytes: int
    start: int
    stop: int


class Downloads:
    """All downloads of a gateway."""

    def __init__(
        self,
        *,
        metadata: Metadata,
        directory: NodeDirectory,
        reader: ReplicaReader,
        census: ReplicaCensus,
        repair: ReadRepair,
        budget: ByteBudget,
        slots: TransferSlots,
        limits: DownloadLimits,
    ) -> None:
        self._metadata = metadata
        self._directory = directory
        self._reader = reader
        self._census = census
        self._repair = repair
        self._budget = budget
        self._slots = slots
        self._limits = limits
        self._finds = Turns(MAX_FINDS, wait_s=limits.find_wait_s)

    async def find(self, name: FileName) -> FoundFile:
        """The current version of a file, read linearizably. Takes a transfer slot while it does.

        Raises:
            BucketNotFoundError, FileNotFoundInBucketError: with the fact `version`, the index that last changed the key.
            OverloadedError: no slot, or no turn in time.
        """
        # Before the question and not after: what a refused transfer would have fetched is the load to be refused.
        with self._slots.take():
            async with self._finds.take():
                answer, context = await self._metadata.read(GetFile(bucket=name.bucket, key=name.key))
            return await self._found(name, answer, context)

    async def _found(self, name: FileName, answer: Answer, context: ReadContext) -> FoundFile:
        if not isinstance(answer, FileAnswer):
            raise InternalError("Consensus answered another question than was asked.")
        if not answer.has_bucket:
            raise BucketNotFoundError("There is no such bucket.", bucket=name.bucket, version=answer.version)
        if answer.file is None:
            raise FileNotFoundInBucketError(
                "There is no such file.", bucket=name.bucket, version=answer.version, horizon=answer.horizon
            )
        return FoundFile(answer.file, await self._directory.at(context.epoch), context.log_index)

    async def confirm(self, found: FoundFile, quorums: Quorums) -> int:
        """How many replicas of every chunk are proved, up to N: what HEAD shows.

        Raises:
            QuorumNotReachedError: fewer than R, and R is a condition.
            OverloadedError: no transfer slot.
        """
        with self._slots.take():
            parts = list(parts_of(found.version, None))
            census = await self._prove(found, parts, quorums.replica_count, {})
        confirmed = replicas_confirmed(census.holders.values(), quorums.replica_count)
        require_read_quorum(confirmed, quorums)
        return confirmed

    async def send(
        self,
        found: FoundFile,
        spans: Sequence[ByteSpan] | None,
        quorums: Quorums,
        *,
        start: Start,
        sink: Sink,
        group: asyncio.TaskGroup,
    ) -> None:
        """Send the file, or `spans` of it one after the other.

        Calls `start` once with the number of proved replicas, then `sink` for the bytes, no piece across two spans.

        `start` is only called once the first bytes are at hand and verified, so what fails before is a clean error; what
        fails after it must break the connection off.

        Raises:
            DataUnavailableError: no good replica of a chunk is left.
            QuorumNotReachedError: fewer than R replicas, and R is a condition.
            OverloadedError: no budget.
        """
        with self._slots.take():
            pipeline = _Pipeline(
                found,
                parts=parts_of(found.version, spans),
                reader=self._reader,
                budget=self._budget,
                limits=self._limits,
                group=group,
            )
            try:
                await pipeline.require_next()
                await start(await self._prove_first(found, spans, quorums, pipeline, group))
                await self._pump(found, quorums, pipeline, sink, group)
            finally:
                pipeline.close()

    async def _prove_first(
        self,
        found: FoundFile,
        spans: Sequence[ByteSpan] | None,
        quorums: Quorums,
        pipeline: _Pipeline,
        group: asyncio.TaskGroup,
    ) -> int:
        """The number of proved replicas, weakest chunk, of the first window, or of everything when R is a condition."""
        parts = list(parts_of(found.version, spans))
        if not quorums.is_read_strict:
            parts = parts[:CENSUS_WINDOW_CHUNKS]
        if not parts:
            return quorums.replica_count
        first = parts[0].digest
        presumed = self._reader.first_choice(read_order(first, found.node_map))
        proving = group.create_task(self._prove(found, parts, quorums.read_quorum, {first: presumed}))
        fetched = await pipeline.first()
        census = await proving
        census.holders[first].add(fetched.node_id)
        if fetched.node_id != presumed and len(census.holders[first]) < quorums.read_quorum:
            census.holders[first] |= (await self._prove(found, parts[:1], quorums.read_quorum, {})).holders[first]
        confirmed = replicas_confirmed(census.holders.values(), quorums.replica_count)
        require_read_quorum(confirmed, quorums)
        return confirmed

    async def _prove(self, found: FoundFile, parts: list[ChunkPart], wanted: int, presumed: dict[str, str]) -> Census:
        sizes = {part.digest: part.size_bytes for part in parts}
        census = await self._census.take(sizes, found.node_map, wanted=wanted, presumed=presumed)
        for digest, node in census.missing:
            self._repair.ask(Repair(digest, sizes[digest], node, found.node_map, found.log_index))
        return census

    async def _pump(
        self, found: FoundFile, quorums: Quorums, pipeline: _Pipeline, sink: Sink, group: asyncio.TaskGroup
    ) -> None:
        """Send what is fetched. Each further window is proved as it is reached, for the sake of repair."""
        sent_count = 0
        while (taken := await pipeline.take()) is not None:
            part, fetched, lease = taken
            for node in fetched.faulty_nodes:
                self._repair.ask(Repair(part.digest, part.size_bytes, node, found.node_map, found.log_index))
            view = memoryview(fetched.data)[part.start : part.stop]
            for offset in range(0, len(view), _SLICE_BYTES):
                await sink(view[offset : offset + _SLICE_BYTES])
            lease.release()
            await pipeline.require_next()
            sent_count += 1
            if sent_count % CENSUS_WINDOW_CHUNKS == 0 and not quorums.is_read_strict:
                window = pipeline.upcoming(CENSUS_WINDOW_CHUNKS)
                group.create_task(self._prove(found, window, quorums.read_quorum, {}))


class _Pipeline:
    """Chunks being fetched ahead, in file order.

    Invariant: each is covered by a lease. Only the next one waits for budget; others are fetched when it is plentiful,
    so downloads cannot wait for each other in a circle.
    """

    def __init__(
        self,
        found: FoundFile,
        *,
        parts: Iterator[ChunkPart],
        reader: ReplicaReader,
        budget: ByteBudget,
        limits: DownloadLimits,
        group: asyncio.TaskGroup,
    ) -> None:
        self._found = found
        self._parts = deque(parts)
        self._reader = reader
        self._budget = budget
        self._limits = limits
        self._group = group
        self._ahead: deque[tuple[ChunkPart, ByteLease, asyncio.Task[FetchedChunk | TrivetError]]] = deque()
        self._leases: set[ByteLease] = set()
        self._wait_s = limits.waits.first_s

    async def require_next(self) -> None:
        """Have the next chunk under way, if there is one, waiting for its budget; and more while there is plenty."""
        if self._parts and not self._ahead:
            lease = self._new_lease()
            await lease.grow(self._parts[0].size_bytes, wait_s=self._wait_s)
            self._wait_s = self._limits.waits.next_s
            self._begin(lease)
        while self._parts and len(self._ahead) < self._limits.read_ahead_chunks and self._budget.is_plentiful:
            lease = self._new_lease()
            if not lease.try_grow(self._parts[0].size_bytes):
                return
            self._begin(lease)

    async def first(self) -> FetchedChunk:
        """The next chunk, without taking it."""
        return _unwrap(await self._ahead[0][2])

    async def take(self) -> tuple[ChunkPart, FetchedChunk, ByteLease] | None:
        """The next chunk, which the caller releases; None after the last one."""
        if not self._ahead:
            return None
        fetched = _unwrap(await self._ahead[0][2])
        part, lease, _ = self._ahead.popleft()
        return part, fetched, lease

    def upcoming(self, count: int) -> list[ChunkPart]:
        """The next `count` chunks that are not taken yet."""
        return [*(part for part, _, _ in self._ahead), *islice(self._parts, count)][:count]

    def close(self) -> None:
        """Stop fetching and give all budget back."""
        for _, _, task in self._ahead:
            task.cancel()
        for lease in self._leases:
            lease.release()

    def _new_lease(self) -> ByteLease:
        self._leases = {lease for lease in self._leases if lease.size_bytes}
        lease = self._budget.lease()
        self._leases.add(lease)
        return lease

    def _begin(self, lease: ByteLease) -> None:
        part = self._parts.popleft()
        self._ahead.append((part, lease, self._group.create_task(self._fetch(part))))

    async def _fetch(self, part: ChunkPart) -> FetchedChunk | TrivetError:
        """An error is a value here: it belongs to its place in the file, not to the group of tasks."""
        try:
            return await self._reader.fetch(part.digest, part.size_bytes, read_order(part.digest, self._found.node_map))
        except TrivetError as error:
            return error


def parts_of(version: FileVersion, spans: Sequence[ByteSpan] | None) -> Iterator[ChunkPart]:
    """The chunks that each of `spans` touches, or all, each with the bytes of it that are wanted; none crosses a span."""
    for span in [ByteSpan(0, version.content.size_bytes)] if spans is None else spans:
        offset = 0
        for digest, size_bytes in version.content.chunks():
            if offset < span.stop and offset + size_bytes > span.start:
                yield ChunkPart(digest, size_bytes, max(0, span.start - offset), min(size_bytes, span.stop - offset))
            offset += size_bytes


def _unwrap(outcome: FetchedChunk | TrivetError) -> FetchedChunk:
    if isinstance(outcome, TrivetError):
        raise outcome
    return outcome
