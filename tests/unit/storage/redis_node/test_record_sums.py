from __future__ import annotations

import random

import pytest

from services.storage.redis_node import record_sums
from services.storage.redis_node.record_sums import RecordSums
from shared.contracts.chunks import HeldChunk
from shared.partitions import PartitionTable


class Index:
    """Chunks in order of digests, page by page."""

    def __init__(self, chunks: list[HeldChunk]) -> None:
        self.chunks = sorted(chunks, key=lambda chunk: chunk.digest)
        self.questions = 0

    async def list_chunks(self, prefix: str, after: str, limit: int) -> list[HeldChunk]:
        self.questions += 1
        found = [chunk for chunk in self.chunks if chunk.digest.startswith(prefix) and chunk.digest > after]
        return found[:limit]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 7])
async def test_a_group_is_summed_to_its_last_page(count, monkeypatch):
    """Whether the last page is full, short or empty."""
    monkeypatch.setattr(record_sums, "_PAGE", 3)
    source = random.Random(count)
    chunks = [
        HeldChunk(digest="ab" + source.randbytes(31).hex(), size_bytes=source.randrange(9), start_index=0)
        for _ in range(count)
    ]
    table = PartitionTable()
    table.fill((bytes.fromhex(chunk.digest), chunk.size_bytes) for chunk in chunks)
    index = Index(chunks)
    sums = RecordSums(index.list_chunks)
    assert await sums.sums(None) == list(table.groups())
    assert await sums.sums(0xAB) == table.group(0xAB)
    asked = index.questions
    assert await sums.sums(0xAB) == table.group(0xAB)
    assert index.questions == asked
    with sums.changing(["ab" * 32]):
        pass
    await sums.sums(None)
    assert index.questions > asked
