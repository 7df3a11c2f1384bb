"""What `services.storage.ports.Tier` promises, asked of every implementation."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from blake3 import blake3

from services.storage.ports import Chunk
from shared.errors import ChunkCorruptError, ChunkNotFoundError
from shared.units import KIB

SIZES = [1, 4096, 64 * KIB, 64 * KIB + 1, 700_000]


def make_chunk(body: bytes, pieces: int = 1) -> Chunk:
    step = max(1, -(-len(body) // pieces))
    parts = tuple(body[at : at + step] for at in range(0, len(body), step))
    return Chunk(blake3(body).hexdigest(), len(body), parts)


async def test_a_chunk_comes_back_whole_after_a_reopen(bench):
    """Every size, in one piece or many, is held, measured and read back, before and after the tier is opened again."""
    chunks = [make_chunk(os.urandom(size), pieces) for size in SIZES for pieces in (1, 7)] + [make_chunk(b"")]
    for chunk in chunks:
        assert (await bench.tier.put(chunk, 1)).created
    for is_reopened in (False, True):
        tier = await bench.reopen() if is_reopened else bench.tier
        for chunk in chunks:
            assert await tier.get_size_bytes(chunk.digest) == chunk.size_bytes
            assert await tier.get(chunk.digest) == b"".join(chunk.pieces)
        assert await tier.has([chunk.digest for chunk in chunks], None) == {chunk.digest for chunk in chunks}


async def test_what_is_not_held_is_not_found(bench):
    """Reads of an unknown digest say so, and deleting one says that nothing was there."""
    with pytest.raises(ChunkNotFoundError):
        await bench.tier.get("ab" * 32)
    with pytest.raises(ChunkNotFoundError):
        await bench.tier.get_size_bytes("ab" * 32)
    assert await bench.tier.has(["ab" * 32], None) == set()
    assert await bench.tier.has(["ab" * 32], 7) == set()
    assert await bench.tier.has([], 7) == set()
    assert await bench.tier.delete("ab" * 32) is False


@pytest.mark.parametrize("size_bytes", [3000, 200_000])
async def test_the_largest_start_index_is_kept(size_bytes, bench):
    """Put and has record the maximum, never less than was recorded before."""
    chunk = make_chunk(os.urandom(size_bytes))
    for start_index, expected in ((5, 5), (3, 5), (8, 8)):
        outcome = await bench.tier.put(chunk, start_index)
        assert outcome.created is (start_index == 5)
        assert bench.start_index_of(chunk.digest) == expected
    for start_index, expected in ((2, 8), (20, 20)):
        assert await bench.tier.has([chunk.digest, "cd" * 32], start_index) == {chunk.digest}
        assert bench.start_index_of(chunk.digest) == expected
    await bench.tier.has([chunk.digest], None)
    assert bench.start_index_of(chunk.digest) == 20


@pytest.mark.parametrize("size_bytes", [3000, 200_000])
async def test_a_deleted_chunk_is_gone_and_may_come_back(size_bytes, bench):
    """A delete holds at once and after a reopen; the same chunk can be stored again."""
    chunk = make_chunk(os.urandom(size_bytes))
    await bench.tier.put(chunk, 1)
    assert await bench.tier.delete(chunk.digest)
    for is_reopened in (False, True):
        tier = await bench.reopen() if is_reopened else bench.tier
        assert await tier.has([chunk.digest], None) == set()
        with pytest.raises(ChunkNotFoundError):
            await tier.get(chunk.digest)
    assert (await bench.tier.put(chunk, 1)).created
    assert await bench.tier.get(chunk.digest) == b"".join(chunk.pieces)


@pytest.mark.parametrize("size_bytes", [3000, 200_000])
async def test_a_damaged_chunk_is_refused_once_and_then_not_held(size_bytes, bench):
    """Bytes that do not match are never handed out; the replica makes room for a good one."""
    chunk = make_chunk(os.urandom(size_bytes))
    await bench.tier.put(chunk, 1)
    tier = await bench.reopen()  # what was kept in memory is gone, so that the damaged replica is what is left
    bench.damage(chunk.digest)
    with pytest.raises(ChunkCorruptError):
        await tier.get(chunk.digest)
    with pytest.raises(ChunkNotFoundError):
        await tier.get(chunk.digest)
    assert await tier.has([chunk.digest], None) == set()
    assert (await tier.put(chunk, 1)).created
    assert await tier.get(chunk.digest) == b"".join(chunk.pieces)


async def test_many_puts_of_one_chunk_create_it_once(bench):
    """Concurrent puts of equal bytes all succeed; one of them brought the chunk."""
    for size_bytes in (2000, 150_000):
        chunk = make_chunk(os.urandom(size_bytes))
        outcomes = await asyncio.gather(*(bench.tier.put(chunk, index) for index in range(12)))
        assert sum(outcome.created for outcome in outcomes) == 1
        assert bench.start_index_of(chunk.digest) == 11
        assert await bench.tier.get(chunk.digest) == b"".join(chunk.pieces)


async def test_a_random_history_agrees_with_a_model(bench):
    """Random concurrent puts, reads and deletes of few chunks end in the state that each chunk's last call says."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    chunks = [make_chunk(source.randbytes(source.choice([10, 5000, 90_000]))) for _ in range(12)]

    async def live(chunk: Chunk, steps: list[str]) -> bool:
        is_held = False
        for step in steps:
            if step == "put":
                assert (await bench.tier.put(chunk, 1)).created is not is_held
                is_held = True
            elif step == "delete":
                assert await bench.tier.delete(chunk.digest) is is_held
                is_held = False
            elif is_held:
                assert await bench.tier.get(chunk.digest) == b"".join(chunk.pieces)
            else:
                assert await bench.tier.has([chunk.digest], source.choice([None, 3])) == set()
        return is_held

    plans = [source.choices(["put", "delete", "read"], k=25) for _ in chunks]
    held = await asyncio.gather(*(live(chunk, plan) for chunk, plan in zip(chunks, plans, strict=True)))
    expected = {chunk.digest for chunk, is_held in zip(chunks, held, strict=True) if is_held}
    tier = await bench.reopen()
    assert await tier.has([chunk.digest for chunk in chunks], None) == expected


async def test_counts_follow_puts_and_deletes(bench):
    """The status of the tier that holds the weight counts chunks and bytes, also after a reopen."""
    chunks = [make_chunk(os.urandom(size)) for size in (500, 5000, 100_000)]
    for chunk in chunks:
        await bench.tier.put(chunk, 1)
    await bench.tier.delete(chunks[0].digest)
    await bench.tier.has([chunk.digest for chunk in chunks], 2)  # in tiered: moves what is not on disk yet
    for is_reopened in (False, True):
        tier = await bench.reopen() if is_reopened else bench.tier
        status = (await tier.statuses())[0]
        assert status.is_available
        assert status.chunk_count == 2
        # Redis tells the memory of the whole server, which is more.
        assert status.used_bytes == 105_000 or (bench.kind == "redis" and status.used_bytes > 105_000)
    assert bench.tier.reasons_against_writes() == []
