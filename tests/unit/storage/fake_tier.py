"""A tier in memory, for tests of what stands above tiers. It passes tests/contract/storage like the real ones."""

from __future__ import annotations

from collections.abc import Sequence

from services.storage.digests import is_whole
from services.storage.ports import Chunk, PutOutcome
from shared.contracts.chunks import TierStatus
from shared.errors import ChunkCorruptError, ChunkNotFoundError, TrivetError


class FakeTier:
    """Keeps chunks in a dict; `put_error` makes the next puts fail."""

    name = "fake"

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.start_indexes: dict[str, int] = {}
        self.put_error: TrivetError | None = None

    async def put(self, chunk: Chunk, start_index: int) -> PutOutcome:
        if self.put_error is not None:
            raise self.put_error
        created = chunk.digest not in self.bodies
        self.bodies.setdefault(chunk.digest, chunk.body())
        self.start_indexes[chunk.digest] = max(start_index, self.start_indexes.get(chunk.digest, 0))
        return PutOutcome(self.name, created)

    async def get(self, digest: str) -> bytes:
        body = self.bodies.get(digest)
        if body is None:
            raise ChunkNotFoundError("absent", digest=digest)
        if not is_whole(body, digest):
            del self.bodies[digest]
            raise ChunkCorruptError("corrupt", digest=digest)
        return body

    async def get_size_bytes(self, digest: str) -> int:
        if digest not in self.bodies:
            raise ChunkNotFoundError("absent", digest=digest)
        return len(self.bodies[digest])

    async def has(self, digests: Sequence[str], start_index: int | None) -> set[str]:
        held = {digest for digest in digests if digest in self.bodies}
        for digest in held:
            self.start_indexes[digest] = max(self.start_indexes[digest], start_index or 0)
        return held

    async def delete(self, digest: str) -> bool:
        self.start_indexes.pop(digest, None)
        return self.bodies.pop(digest, None) is not None

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
            )
        ]

    def reasons_against_writes(self) -> list[str]:
        return [] if self.put_error is None else [self.put_error.message]

    def degradations(self) -> list[str]:
        return []
