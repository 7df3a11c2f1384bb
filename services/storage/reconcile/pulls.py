"""Fetches missing chunks from other nodes: small ones many at a time, large ones a few at a time.

Whatever a peer sends is checked against the digest before it is stored, so a peer that is wrong costs time and nothing else.
A pulled replica records the higher of the source's start index and the index of the reference (`rules.pulled_start_index`).
A start index that the log has not reached is no upload's: it is cut to where the log is, or the replica would never be condemned.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from services.storage.digests import is_whole
from services.storage.metrics import StorageMetrics
from services.storage.outcomes import outcomes_of, result_of
from services.storage.peers import PeerReplica
from services.storage.placement_view import PlacementView
from services.storage.ports import Chunk, ChunkPut, PutOutcome
from services.storage.reconcile.expected_chunks import ExpectedChunks, MissingChunk
from services.storage.reconcile.pace import Complaints, Pace, PullPace, Throughput
from services.storage.reconcile.rules import possible_start_index, pulled_start_index
from shared.byte_budget import ByteBudget
from shared.contracts.chunk_batches import MAX_BATCH_BYTES, MAX_BATCH_ITEMS, MAX_BATCHED_CHUNK_BYTES
from shared.contracts.cluster import StorageNode
from shared.errors import ChunkNotFoundError, DiskFullError, PeerUnreachableError, TrivetError
from shared.units import MIB

_PAGE: Final = 256
"""Placing a thousand chunks would hold the event loop for tens of milliseconds."""
_SLICE_BYTES: Final = 4 * MIB
"""Fetched between two rests at most; with the frames they come in, twice as much of the byte budget, which requests need, too."""
_LARGE_AT_ONCE: Final = 4
_STORED_AT_ONCE: Final = 256
"""In one transaction."""
_AVOIDED_S: Final = 30.0
"""A node that did not answer is asked last for this long."""


class PullingTier(Protocol):
    """The part of `ports.Tier` that is used here."""

    async def has(self, digests: Sequence[str], start_index: int | None) -> set[str]:
        """See `ports.Tier`."""

    async def put_many(self, puts: Sequence[ChunkPut], *, yields: bool = False) -> list[PutOutcome | TrivetError]:
        """See `ports.Tier`."""


class ReplicaSource(Protocol):
    """Other nodes; see `peers.Peers`."""

    async def get_replica(self, node: StorageNode, digest: str) -> PeerReplica:
        """See `peers.Peers`."""

    async def get_replicas(self, node: StorageNode, digests: Sequence[bytes]) -> list[PeerReplica | TrivetError]:
        """See `peers.Peers`."""


class LogEnd(Protocol):
    """How far the log is; see `references.References`."""

    async def log_index(self) -> int:
        """See `references.References`."""


@dataclass(slots=True)
class _Wanted:
    """A missing chunk and the nodes that were not asked for it yet."""

    chunk: MissingChunk
    sources: list[StorageNode]
    is_absent: bool = True
    """So far every node answered, and none has it."""


@dataclass(slots=True)
class WalkOutcome:
    """Of one walk over the missing chunks. `absent`: no node has them, although all answered; at most a page of them."""

    left: int = 0
    absent: list[bytes] = field(default_factory=list)


class Puller:
    """Walks over the list of missing chunks."""

    def __init__(
        self,
        tier: PullingTier,
        peers: ReplicaSource,
        *,
        view: PlacementView,
        log: LogEnd,
        expected: ExpectedChunks,
        budget: ByteBudget,
        pace: Pace,
        metrics: StorageMetrics,
    ) -> None:
        self._tier = tier
        self._peers = peers
        self._view = view
        self._log = log
        self._reached_index = 0
        """The log has reached it: an upload may have recorded any start index up to there."""
        self._expected = expected
        self._budget = budget
        self._pace = pace
        self._metrics = metrics
        self._avoided: dict[str, float] = {}
        self._complaints = Complaints()
        self.throughput = Throughput()

    async def walk(self) -> WalkOutcome:
        """Try every missing chunk once.

        Raises:
            DiskFullError: there is no room for more.
            OverloadedError: there is no memory for it now.
            UnavailableError: the tier, or the list, does not answer.
        """
        outcome = WalkOutcome()
        after = b""
        pace = self._pace.pulls()
        while page := await self._expected.missing_page(after, _PAGE):
            after = page[-1].digest
            missing = self._expected.count("missing")
            pace.expect(missing.chunks, missing.size_bytes)
            for part in _slices(page, pace):
                began_s = time.monotonic()
                came = await self._pull(part, outcome)
                await pace.rest(sum(map(pace.cost_bytes, came)), began_s)
        return outcome

    async def _pull(self, chunks: Sequence[MissingChunk], outcome: WalkOutcome) -> list[int]:
        """Bytes of each that came."""
        held = await self._tier.has([chunk.digest.hex() for chunk in chunks], None)
        avoided = self._avoided_now()
        wanted = [
            _Wanted(chunk, self._view.sources(chunk.digest, avoided))
            for chunk in chunks
            if chunk.digest.hex() not in held
        ]
        stored = {chunk.digest for chunk in chunks if chunk.digest.hex() in held}
        before = len(stored)
        small = [want for want in wanted if want.chunk.size_bytes <= MAX_BATCHED_CHUNK_BYTES]
        large = [want for want in wanted if want.chunk.size_bytes > MAX_BATCHED_CHUNK_BYTES]
        try:
            await self._pull_small(small, stored)
            await self._pull_large(large, stored)
        finally:
            # Also of a walk that breaks off: what was stored is not missing.
            if stored:
                await self._expected.drop_missing(stored)
        came = [want.chunk.size_bytes for want in wanted if want.chunk.digest in stored]
        self._record(len(stored) - before, sum(came))
        for want in wanted:
            if want.chunk.digest not in stored:
                outcome.left += 1
                if want.is_absent and len(outcome.absent) < _PAGE:
                    outcome.absent.append(want.chunk.digest)
        return came

    def _record(self, chunks: int, size_bytes: int) -> None:
        if chunks:
            self.throughput.record(size_bytes)
            self._metrics.pulled_chunks.inc(chunks)
            self._metrics.pulled_bytes.inc(size_bytes)

    async def _pull_small(self, wanted: list[_Wanted], stored: set[bytes]) -> None:
        while wanted := [want for want in wanted if want.sources and want.chunk.digest not in stored]:
            by_source: dict[str, list[_Wanted]] = defaultdict(list)
            nodes = {}
            for want in wanted:
                node = want.sources.pop(0)
                nodes[node.id] = node
                by_source[node.id].append(want)
            frames = [(nodes[name], part) for name, wants in by_source.items() for part in _frames(wants)]
            # Twice: the frames, and each body cut out of them.
            with await self._budget.acquire(2 * sum(want.chunk.size_bytes for want in wanted)):
                fetched = await outcomes_of([self._fetch_frame(node, part) for node, part in frames])
                await self._store(
                    [put for puts in fetched if not isinstance(puts, TrivetError) for put in puts], stored
                )
            for puts in fetched:
                result_of(puts)

    async def _fetch_frame(self, node: StorageNode, wanted: Sequence[_Wanted]) -> list[ChunkPut]:
        """What to store of the answer of one node."""
        replicas = await self._ask(node, wanted)
        await self._learn_reached(node, wanted, replicas)
        puts = [self._check(node, want, replica) for want, replica in zip(wanted, replicas, strict=True)]
        return [put for put in puts if put is not None]

    async def _store(self, puts: Sequence[ChunkPut], stored: set[bytes]) -> None:
        for start in range(0, len(puts), _STORED_AT_ONCE):
            part = puts[start : start + _STORED_AT_ONCE]
            for put, outcome in zip(part, await self._tier.put_many(part, yields=True), strict=True):
                if isinstance(outcome, PutOutcome):
                    stored.add(bytes.fromhex(put.chunk.digest))
                elif isinstance(outcome, DiskFullError):
                    raise outcome
                else:
                    self._complaints.warn("a pulled chunk was not stored", outcome.code, error=outcome.message)

    async def _ask(self, node: StorageNode, wanted: Sequence[_Wanted]) -> list[PeerReplica | TrivetError]:
        try:
            return await self._peers.get_replicas(node, [want.chunk.digest for want in wanted])
        except TrivetError as error:
            self._avoid(node, error)
            return [error] * len(wanted)

    async def _pull_large(self, wanted: Sequence[_Wanted], stored: set[bytes]) -> None:
        slots = asyncio.Semaphore(_LARGE_AT_ONCE)

        async def pull(want: _Wanted) -> None:
            async with slots:
                await self._pull_one(want, stored)

        await _all(pull(want) for want in wanted)

    async def _pull_one(self, want: _Wanted, stored: set[bytes]) -> None:
        while want.sources:
            node = want.sources.pop(0)
            with await self._budget.acquire(want.chunk.size_bytes):
                try:
                    replica: PeerReplica | TrivetError = await self._peers.get_replica(node, want.chunk.digest.hex())
                except TrivetError as error:
                    self._avoid(node, error)
                    replica = error
                await self._learn_reached(node, [want], [replica])
                put = self._check(node, want, replica)
                if put is None:
                    continue
                result_of((await self._tier.put_many([put], yields=True))[0])
            stored.add(want.chunk.digest)
            return

    def _check(self, node: StorageNode, want: _Wanted, replica: PeerReplica | TrivetError) -> ChunkPut | None:
        """What to store of an answer, if anything."""
        digest = want.chunk.digest.hex()
        if isinstance(replica, ChunkNotFoundError):
            return None
        if isinstance(replica, TrivetError):
            want.is_absent = False
            return None
        if not is_whole(replica.body, digest):
            want.is_absent = False
            self._metrics.wrong_pulls.inc()
            self._complaints.warn("a peer sent something else than the chunk", node.id, digest=digest)
            return None
        source_start_index = possible_start_index(replica.start_index, self._reached_index)
        start_index = pulled_start_index(source_start_index, want.chunk.reference_index)
        return ChunkPut(Chunk(digest, len(replica.body), (replica.body,)), start_index)

    async def _learn_reached(
        self, node: StorageNode, wanted: Sequence[_Wanted], replicas: Sequence[PeerReplica | TrivetError]
    ) -> None:
        """Have `_reached_index` cover what `replicas` may truly record. Raises what `LogEnd.log_index` raises."""
        self._reached_index = max(self._reached_index, *(want.chunk.reference_index for want in wanted))
        highest = max((replica.start_index for replica in replicas if isinstance(replica, PeerReplica)), default=0)
        if highest > self._reached_index:
            # After the answer, not before: an upload may have begun, and recorded where, in between.
            self._reached_index = max(self._reached_index, await self._log.log_index())
        if highest > self._reached_index:
            self._complaints.warn(
                "a peer sent a start index that the log has not reached", node.id, start_index=highest
            )

    def _avoid(self, node: StorageNode, error: TrivetError) -> None:
        if isinstance(error, ChunkNotFoundError):
            return
        if isinstance(error, PeerUnreachableError):
            self._avoided[node.id] = time.monotonic()
        self._complaints.warn("chunks were not pulled from a peer", node.id, error=error.message)

    def _avoided_now(self) -> set[str]:
        now_s = time.monotonic()
        self._avoided = {name: at_s for name, at_s in self._avoided.items() if now_s - at_s < _AVOIDED_S}
        return set(self._avoided)


async def _all(calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all of them; then raise the error of one."""
    for outcome in await outcomes_of(list(calls)):
        if isinstance(outcome, TrivetError):
            raise outcome


def _slices(chunks: Sequence[MissingChunk], pace: PullPace) -> Iterable[Sequence[MissingChunk]]:
    """In order, each of what may be fetched before a rest, or one chunk."""
    part: list[MissingChunk] = []
    cost_bytes = 0
    for chunk in chunks:
        more_bytes = pace.cost_bytes(chunk.size_bytes)
        if part and cost_bytes + more_bytes > pace.slice_bytes(_SLICE_BYTES):
            yield part
            part, cost_bytes = [], 0
        part.append(chunk)
        cost_bytes += more_bytes
    if part:
        yield part


def _frames(wanted: Sequence[_Wanted]) -> Iterable[Sequence[_Wanted]]:
    """As many as one request may ask for."""
    part: list[_Wanted] = []
    size_bytes = 0
    for want in wanted:
        if len(part) == MAX_BATCH_ITEMS or size_bytes + want.chunk.size_bytes > MAX_BATCH_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(want)
        size_bytes += want.chunk.size_bytes
    if part:
        yield part
