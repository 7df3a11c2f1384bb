"""A tier in memory, for tests of what stands above tiers. It passes tests/contract/storage like the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.storage.digests import is_whole
from services.storage.outcomes import outcomes_of, too_large_for_a_batch
from services.storage.ports import Chunk, ChunkPut, ConditionalDelete, LostChunk, PutOutcome
from shared.contracts.chunks import HeldChunk, TierStatus
from shared.errors import ChunkCorruptError, ChunkNotFoundError, TrivetError
from shared.partitions import PartitionTable, SetSum


class FakeTier:
    """Keeps chunks in a dict; `put_error` makes the next puts fail."""

    name = "fake"

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.recorded: dict[str, int] = {}
        self.lost: dict[str, int] = {}
        self.put_error: TrivetError | None = None
        self.full: str | None = None
        self.verified: set[str] = set()

    async def put(self, chunk: Chunk, start_index: int) -> PutOutcome:
        if self.put_error is not None:
            raise self.put_error
        created = chunk.digest not in self.bodies
        if chunk.digest not in self.verified:
            self.bodies[chunk.digest] = chunk.body()
        self.verified.add(chunk.digest)
        known = max(self.recorded.get(chunk.digest, 0), self.lost.pop(chunk.digest, 0))
        self.recorded[chunk.digest] = max(start_index, known)
        return PutOutcome(self.name, created)

    async def get(self, digest: str) -> bytes:
        body = self.bodies.get(digest)
        if body is None:
            raise ChunkNotFoundError("absent", digest=digest)
        if not is_whole(body, digest):
            del self.bodies[digest]
            self.verified.discard(digest)
            self.lost[digest] = self.recorded.pop(digest)
            raise ChunkCorruptError("corrupt", digest=digest)
        return body

    async def put_many(self, puts: Sequence[ChunkPut], *, yields: bool = False) -> list[PutOutcome | TrivetError]:
        return await outcomes_of([self.put(put.chunk, put.start_index) for put in puts])

    async def get_many(self, digests: Sequence[str], max_bytes: int) -> list[bytes | TrivetError]:
        found = await outcomes_of([self.get(digest) for digest in digests])
        refusal = too_large_for_a_batch(max_bytes)
        return [body if isinstance(body, TrivetError) or len(body) <= max_bytes else refusal for body in found]

    def is_verified(self, digest: str) -> bool:
        return digest in self.verified

    async def verify(self, digest: str) -> int:
        body = await self.get(digest)
        self.verified.add(digest)
        return len(body)

    async def get_size_bytes(self, digest: str) -> int:
        if digest not in self.bodies:
            raise ChunkNotFoundError("absent", digest=digest)
        return len(self.bodies[digest])

    async def has(self, digests: Sequence[str], start_index: int | None) -> set[str]:
        return await self.record_start_indexes(dict.fromkeys(digests, start_index or 0))

    async def record_start_indexes(self, start_indexes: Mapping[str, int]) -> set[str]:
        held = {digest for digest in start_indexes if digest in self.bodies}
        for digest in held:
            self.recorded[digest] = max(self.recorded[digest], start_indexes[digest])
        return held

    async def start_indexes(self, digests: Sequence[str]) -> dict[str, int]:
        return {digest: self.recorded[digest] for digest in digests if digest in self.bodies}

    async def delete_if(self, candidates: Sequence[ConditionalDelete]) -> set[str]:
        known = self.recorded | self.lost
        chosen = {each.digest for each in candidates if each.digest in known and each.condition(known[each.digest])}
        for digest in chosen:
            await self.delete(digest)
        return chosen

    async def delete(self, digest: str) -> bool:
        self.recorded.pop(digest, None)
        self.lost.pop(digest, None)
        self.verified.discard(digest)
        return self.bodies.pop(digest, None) is not None

    async def list_chunks(self, prefix: str, after: str, limit: int) -> list[HeldChunk]:
        found = sorted(digest for digest in self.bodies if digest.startswith(prefix) and digest > after)
        return [
            HeldChunk(digest=digest, size_bytes=len(self.bodies[digest]), start_index=self.recorded[digest])
            for digest in found[:limit]
        ]

    async def sums(self, group: int | None) -> list[SetSum]:
        table = PartitionTable()
        table.fill((bytes.fromhex(digest), len(body)) for digest, body in self.bodies.items())
        return list(table.groups()) if group is None else table.group(group)

    async def list_lost(self, after: str, limit: int) -> list[LostChunk]:
        return [LostChunk(digest, self.lost[digest]) for digest in sorted(self.lost) if digest > after][:limit]

    async def restore(self, chunk: Chunk) -> bool:
        if chunk.digest not in self.lost:
            return False
        await self.put(chunk, 0)
        return True

    async def statuses(self) -> list[TierStatus]:
        used_bytes = sum(map(len, self.bodies.values()))
        return [
            TierStatus(
                name=self.name,
                is_available=True,
                chunk_count=len(self.bodies),
                sole_chunk_count=len(self.bodies),
                used_bytes=used_bytes,
                capacity_bytes=None,
                lost_chunk_count=len(self.lost),
            )
        ]

    def reasons_against_writes(self) -> list[str]:
        return [] if self.put_error is None else [self.put_error.message]

    def shortage(self) -> str | None:
        return self.full

    def degradations(self) -> list[str]:
        return []
