"""The service layer over the tier: bounds memory, checks the digest of a put, counts.

The tier checks what it returns (see `ports.Tier`), because only the tier knows another copy to fall back on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from services.storage.body_buffers import BUFFER_BYTES, BodyBuffers, make_body_buffers
from services.storage.digests import digest_of, is_whole
from services.storage.incarnation import Incarnation
from services.storage.metrics import StorageMetrics
from services.storage.outcomes import too_large_for_a_batch
from services.storage.ports import Body, Chunk, ChunkPut, HolderView, PutOutcome, Tier
from shared.byte_budget import ByteBudget, ByteLease
from shared.contracts.chunks import (
    ChunkStored,
    ConfirmRequest,
    ConfirmResponse,
    HasResponse,
    InventoryPage,
    PartitionSum,
    PartitionSums,
    TierStatus,
)
from shared.contracts.names import check_digest
from shared.errors import ChunkCorruptError, ChunkNotFoundError, DigestMismatchError, PayloadTooLargeError, TrivetError
from shared.partitions import PARTITIONS_PER_GROUP, prefix_of
from shared.units import KIB, MIB

_MIN_FILLED_BYTES: Final = 64 * KIB

Fill = Callable[[memoryview], Awaitable[None]]
"""Receives a body of announced length into a buffer of that length."""


@dataclass(frozen=True, slots=True)
class ReceivedChunk:
    """Bytes that came under the name of `digest`, unchecked."""

    digest: str
    body: bytes
    start_index: int


@dataclass(frozen=True, slots=True)
class LeasedBody:
    """A chunk's bytes and the share of the byte budget that they occupy; the sender releases it."""

    body: Body
    lease: ByteLease


class ChunkStore:
    """Chunks by digest.

    Invariant: no more than the budget's bytes of bodies are in memory, and no unverified byte enters or leaves.
    """

    def __init__(
        self,
        tier: Tier,
        budget: ByteBudget,
        metrics: StorageMetrics,
        *,
        incarnation: Incarnation,
        max_chunk_bytes: int,
        typical_chunk_bytes: int,
        max_verify_bytes: int = 32 * MIB,
        holders: HolderView | None = None,
        buffers: BodyBuffers | None = None,
    ) -> None:
        """Over `tier`; without `holders` nothing is confirmed."""
        self._tier = tier
        self._holders = holders
        self._budget = budget
        self._incarnation = incarnation
        self._metrics = metrics
        self._max_chunk_bytes = max_chunk_bytes
        self._typical_chunk_bytes = typical_chunk_bytes
        self._max_verify_bytes = max_verify_bytes
        self._buffers = make_body_buffers() if buffers is None else buffers
        metrics.in_flight_bytes.set_function(lambda: budget.used_bytes)
        metrics.in_flight_limit_bytes.set(budget.limit_bytes)
        metrics.is_full.set_function(lambda: tier.shortage() is not None)

    @property
    def fence(self) -> int | None:
        """The fence in force; None while nothing may be acknowledged."""
        return self._incarnation.fence

    def require_fence(self) -> int:
        """The fence under which a put that begins now is acknowledged. Raises NotReadyError."""
        return self._incarnation.require_fence()

    async def put(
        self,
        digest: str,
        pieces: AsyncIterator[bytes],
        announced_bytes: int | None,
        start_index: int,
        *,
        fill: Fill | None = None,
    ) -> ChunkStored:
        """Receive one chunk and store it durably, with max(`start_index`).

        Args:
            announced_bytes: Content-Length, or None when the sender did not say; then the largest chunk is assumed.
            fill: used in place of `pieces` for a large chunk.

        Raises:
            InvalidNameError: `digest` is none.
            DigestMismatchError: the bytes do not hash to it; nothing is stored.
            PayloadTooLargeError: larger than a chunk may be.
            OverloadedError: no room in memory.
            DiskFullError, UnavailableError: from the tier.
        """
        check_digest(digest)
        if announced_bytes is not None and announced_bytes > self._max_chunk_bytes:
            raise self._too_large()
        lease = await self._budget.acquire(self._max_chunk_bytes if announced_bytes is None else announced_bytes)
        try:
            size_bytes = announced_bytes or 0
            if fill is None or not _MIN_FILLED_BYTES <= size_bytes <= BUFFER_BYTES:
                chunk = await self._receive(digest, pieces)
            else:
                chunk = await self._receive_into_buffer(digest, fill, memoryview(self._buffers.take()), size_bytes)
            outcome = await self._store(chunk, start_index)
        finally:
            lease.release()
        return ChunkStored(digest=digest, size_bytes=chunk.size_bytes, tier=outcome.tier, created=outcome.created)

    async def get(self, digest: str) -> LeasedBody:
        """The whole chunk, verified. The caller releases the lease when the bytes are sent.

        Raises:
            InvalidNameError: `digest` is none.
            ChunkNotFoundError, ChunkCorruptError, UnavailableError: from the tier.
            OverloadedError: no room in memory.
        """
        check_digest(digest)
        lease = await self._budget.acquire(self._typical_chunk_bytes)
        try:
            body = await self._tier.get(digest)
        except BaseException as error:
            lease.release()
            self._metrics.gets.labels(outcome=_outcome_of(error)).inc()
            raise
        lease.resize(len(body))
        self._metrics.gets.labels(outcome="ok").inc()
        self._metrics.bytes_out.inc(len(body))
        return LeasedBody(body, lease)

    async def put_many(self, items: Sequence[ReceivedChunk], max_bytes: int) -> list[PutOutcome | TrivetError]:
        """As `put` of each, together; the caller holds the lease of their bytes.

        What concerns one item stands in its place: what `put` raises, and PayloadTooLargeError above `max_bytes`.
        """
        refusals = [self._refusal_of(item, max_bytes) for item in items]
        wanted: dict[str, ChunkPut] = {}
        for item, refusal in zip(items, refusals, strict=True):
            if refusal is None:
                known = wanted.get(item.digest)
                start_index = item.start_index if known is None else max(item.start_index, known.start_index)
                chunk = Chunk(item.digest, len(item.body), (item.body,)) if known is None else known.chunk
                wanted[item.digest] = ChunkPut(chunk, start_index)
        stored = await self._store_many(list(wanted.values())) if wanted else {}
        outcomes: list[PutOutcome | TrivetError] = []
        for item, refusal in zip(items, refusals, strict=True):
            outcome = stored[item.digest] if refusal is None else refusal
            outcomes.append(outcome)
            if refusal is None and isinstance(outcome, PutOutcome):  # one that is named again finds it there
                stored[item.digest] = PutOutcome(outcome.tier, created=False)
        return outcomes

    async def get_many(self, digests: Sequence[str], max_bytes: int) -> list[Body | TrivetError]:
        """As `get` of each, together; the caller holds the lease of their bytes.

        What concerns one stands in its place: what `get` raises, and PayloadTooLargeError above `max_bytes`.
        """
        unique = list(dict.fromkeys(digests))
        try:
            bodies = await self._tier.get_many(unique, max_bytes)
        except TrivetError as error:
            bodies = [error] * len(unique)
        found: dict[str, Body | TrivetError] = {}
        for digest, body in zip(unique, bodies, strict=True):
            is_too_large = not isinstance(body, TrivetError) and len(body) > max_bytes
            found[digest] = too_large_for_a_batch(max_bytes) if is_too_large else body
        outcomes = [found[digest] for digest in digests]
        for outcome in outcomes:
            label = _outcome_of(outcome) if isinstance(outcome, TrivetError) else "ok"
            self._metrics.gets.labels(outcome=label).inc()
        self._metrics.bytes_out.inc(sum(len(body) for body in outcomes if not isinstance(body, TrivetError)))
        return outcomes

    async def get_start_index(self, digest: str) -> int:
        """What uploads recorded on the chunk. Raises ChunkNotFoundError, UnavailableError."""
        found = await self._tier.start_indexes([digest])
        if digest not in found:
            raise _not_held(digest)
        return found[digest]

    async def get_start_indexes(self, digests: Sequence[str]) -> dict[str, int | TrivetError]:
        """As `get_start_index` of each, together; what it raises stands in its place."""
        try:
            found = await self._tier.start_indexes(digests)
        except TrivetError as error:
            return dict.fromkeys(digests, error)
        return {digest: found[digest] if digest in found else _not_held(digest) for digest in digests}

    async def get_size_bytes(self, digest: str) -> int:
        """Length of the chunk. Raises ChunkNotFoundError, InvalidNameError, UnavailableError."""
        return await self._tier.get_size_bytes(check_digest(digest))

    async def has(self, digests: Sequence[str], start_index: int | None, *, verify: bool = False) -> HasResponse:
        """Those of `digests` that are held, and those that are verified, in the order asked; see `ports.Tier.has`.

        Args:
            verify: read those that are not verified first, up to the setting `max_verify_bytes`. A bad one is quarantined.

        Raises:
            InvalidNameError: one of `digests` is none.
            OverloadedError: no room in memory to read them.
            DiskFullError, UnavailableError: from the tier.
        """
        for digest in digests:
            check_digest(digest)
        held = await self.find(digests, start_index, verify=verify)
        present = [digest for digest in digests if digest in held]
        return HasResponse(present=present, verified=[digest for digest in present if held[digest]])

    async def find(self, digests: Sequence[str], start_index: int | None, *, verify: bool) -> dict[str, bool]:
        """As `has`, of digests that are such: for each that is held, whether it is verified."""
        if verify:
            await self._verify(digests)
        return {digest: self._tier.is_verified(digest) for digest in await self._tier.has(digests, start_index)}

    async def confirm(self, question: ConfirmRequest) -> ConfirmResponse:
        """Those of the chunks that another node may drop as far as this one is concerned: see `ConfirmRequest`.

        Raises:
            NotReadyError: nothing may be acknowledged yet.
            InvalidNameError: a digest is none.
            OverloadedError: no room in memory to read them.
            DiskFullError, UnavailableError: from the tier.
        """
        self.require_fence()
        start_indexes: dict[str, int] = {}
        for chunk in question.chunks:
            digest = check_digest(chunk.digest)
            start_indexes[digest] = max(chunk.start_index, start_indexes.get(digest, 0))
        if self._holders is None or self._holders.epoch != question.epoch:
            return ConfirmResponse(epoch=self._epoch, confirmed=[])
        expected = [digest for digest in start_indexes if self._holders.is_expected(bytes.fromhex(digest))]
        await self._verify(expected)
        verified = {digest: start_indexes[digest] for digest in expected if self._tier.is_verified(digest)}
        held = await self._tier.record_start_indexes(verified)
        if self._epoch != question.epoch:  # it changed meanwhile, and with it maybe who is expected
            return ConfirmResponse(epoch=self._epoch, confirmed=[])
        # Asked again: one may have been found bad, and come back unread, while the start indexes were recorded.
        confirmed = [digest for digest in verified if digest in held and self._tier.is_verified(digest)]
        return ConfirmResponse(epoch=question.epoch, confirmed=confirmed)

    @property
    def _epoch(self) -> int | None:
        return None if self._holders is None else self._holders.epoch

    async def delete(self, digest: str) -> None:
        """Forget a chunk. Raises ChunkNotFoundError, InvalidNameError, DiskFullError, UnavailableError."""
        if not await self._tier.delete(check_digest(digest)):
            raise _not_held(digest)

    async def lease(self, size_bytes: int) -> ByteLease:
        """Memory for a query and its answer. Raises OverloadedError."""
        return await self._budget.acquire(size_bytes)

    async def inventory(self, prefix: str, after: str, limit: int) -> InventoryPage:
        """One page of what is held; `prefix` and `after` are lower-case hex digits. Raises UnavailableError."""
        chunks = await self._tier.list_chunks(prefix, after, limit)
        return InventoryPage(chunks=chunks, next_after=chunks[-1].digest if len(chunks) == limit else None)

    async def partition_sums(self, group: int | None) -> PartitionSums:
        """The sums of all groups, or of the partitions of one. Raises UnavailableError."""
        sums = await self._tier.sums(group)
        first = 0 if group is None else group * PARTITIONS_PER_GROUP
        prefixes = [f"{number:02x}" if group is None else prefix_of(first + number) for number in range(len(sums))]
        return PartitionSums(
            partitions=[
                PartitionSum(
                    prefix=prefix,
                    chunk_count=found.chunk_count,
                    used_bytes=found.used_bytes,
                    checksum=f"{found.checksum:064x}",
                )
                for prefix, found in zip(prefixes, sums, strict=True)
                if found.chunk_count
            ]
        )

    async def statuses(self) -> list[TierStatus]:
        """The tiers, the one that answers for the node first."""
        return await self._tier.statuses()

    def reasons_against_writes(self) -> list[str]:
        """Why puts are refused now; empty when they are not."""
        return self._tier.reasons_against_writes()

    def is_accepting_writes(self) -> bool:
        """Whether a typical chunk would be accepted now."""
        return not self._tier.reasons_against_writes() and not self.is_full()

    def is_full(self) -> bool:
        """Whether a typical chunk found no room when that was last measured."""
        return self._tier.shortage() is not None

    def degradations(self) -> list[str]:
        """What this node has to do without."""
        shortage = self._tier.shortage()
        full = [] if shortage is None else [f"new chunks are refused: {shortage}"]
        return full + self._tier.degradations()

    async def _verify(self, digests: Sequence[str]) -> None:
        read_bytes = 0
        for digest in digests:
            if self._tier.is_verified(digest):
                continue
            if read_bytes >= self._max_verify_bytes:
                return
            lease = await self._budget.acquire(self._typical_chunk_bytes)
            try:
                read_bytes += await self._tier.verify(digest)
            except (ChunkNotFoundError, ChunkCorruptError):
                continue  # not held, or not any more
            finally:
                lease.release()

    async def _receive(self, digest: str, pieces: AsyncIterator[bytes]) -> Chunk:
        hasher = blake3()
        received: list[bytes] = []
        size_bytes = 0
        async for piece in pieces:
            if not piece:
                continue
            size_bytes += len(piece)
            if size_bytes > self._max_chunk_bytes:
                raise self._too_large()
            hasher.update(piece)
            received.append(piece)
        self._check_received(digest, hasher.hexdigest(), size_bytes)
        return Chunk(digest, size_bytes, tuple(received))

    async def _receive_into_buffer(self, digest: str, fill: Fill, blocks: memoryview, size_bytes: int) -> Chunk:
        body = blocks[:size_bytes]
        await fill(body)
        # Not while it comes: parts of odd lengths cost half as much again.
        self._check_received(digest, digest_of(body), size_bytes)
        return Chunk(digest, size_bytes, (body,), blocks)

    def _check_received(self, digest: str, found: str, size_bytes: int) -> None:
        if found != digest:
            raise _mismatch(digest)
        self._metrics.bytes_in.inc(size_bytes)

    async def _store(self, chunk: Chunk, start_index: int) -> PutOutcome:
        try:
            outcome = await self._tier.put(chunk, start_index)
        except TrivetError as error:
            self._count_put(error)
            raise
        self._count_put(outcome)
        return outcome

    def _refusal_of(self, item: ReceivedChunk, max_bytes: int) -> TrivetError | None:
        if len(item.body) > self._max_chunk_bytes:
            return self._too_large()
        if len(item.body) > max_bytes:
            return too_large_for_a_batch(max_bytes)
        if not is_whole(item.body, item.digest):
            return _mismatch(item.digest)
        self._metrics.bytes_in.inc(len(item.body))
        return None

    async def _store_many(self, puts: Sequence[ChunkPut]) -> dict[str, PutOutcome | TrivetError]:
        try:
            outcomes = await self._tier.put_many(puts)
        except TrivetError as error:
            outcomes = [error] * len(puts)
        for outcome in outcomes:
            self._count_put(outcome)
        return {put.chunk.digest: outcome for put, outcome in zip(puts, outcomes, strict=True)}

    def _count_put(self, outcome: PutOutcome | TrivetError) -> None:
        if isinstance(outcome, TrivetError):
            self._metrics.puts.labels(tier="none", outcome=outcome.code).inc()
        else:
            self._metrics.puts.labels(tier=outcome.tier, outcome="created" if outcome.created else "present").inc()

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError("A chunk is at most this large.", limit_bytes=self._max_chunk_bytes)


def _not_held(digest: str) -> ChunkNotFoundError:
    return ChunkNotFoundError("This node does not hold the chunk.", digest=digest)


def _mismatch(digest: str) -> DigestMismatchError:
    return DigestMismatchError("The body does not hash to the digest in its name.", digest=digest)


def _outcome_of(error: BaseException) -> str:
    if isinstance(error, ChunkNotFoundError):
        return "absent"
    return "corrupt" if isinstance(error, ChunkCorruptError) else "failed"
