"""What `services.storage.ports.Tier` promises, asked of every implementation."""

from __future__ import annotations

import asyncio
import random

import pytest
from blake3 import blake3

from services.storage.ports import Chunk, LostChunk
from shared.errors import ChunkCorruptError, ChunkNotFoundError
from shared.partitions import PartitionTable, SetSum
from shared.units import KIB
from tests.chance import random_bytes

SIZES = [1, 4096, 64 * KIB, 64 * KIB + 1, 700_000]


def make_chunk(body: bytes, pieces: int = 1) -> Chunk:
    step = max(1, -(-len(body) // pieces))
    parts = tuple(body[at : at + step] for at in range(0, len(body), step))
    return Chunk(blake3(body).hexdigest(), len(body), parts)


async def test_a_chunk_comes_back_whole_after_a_reopen(bench):
    """Every size, in one piece or many, is held, measured and read back, before and after the tier is opened again."""
    # None of them by chance as another: there are only 256 bodies of one byte.
    bodies = [bytes([pieces]) + random_bytes(size - 1) for size in SIZES for pieces in (1, 7)]
    chunks = [make_chunk(body, body[0]) for body in bodies] + [make_chunk(b"")]
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
    chunk = make_chunk(random_bytes(size_bytes))
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
    chunk = make_chunk(random_bytes(size_bytes))
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
    chunk = make_chunk(random_bytes(size_bytes))
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


@pytest.mark.parametrize("size_bytes", [3000, 200_000])
async def test_a_put_of_a_chunk_whose_replica_is_bad_makes_it_whole(size_bytes, bench):
    """A record alone acknowledges nothing: after a restart the same bytes are stored again, and the start index is kept."""
    chunk = make_chunk(random_bytes(size_bytes))
    await bench.tier.put(chunk, 5)
    tier = await bench.reopen()
    sums = await tier.sums(None)
    bench.damage(chunk.digest)
    await tier.put(chunk, 3)
    assert bench.start_index_of(chunk.digest) == 5
    assert await tier.get(chunk.digest) == chunk.body()
    assert await tier.sums(None) == sums
    assert await tier.list_lost("", 10) == []
    tier = await bench.reopen()
    assert await tier.get(chunk.digest) == chunk.body()


@pytest.mark.parametrize("size_bytes", [3000, 200_000])
async def test_a_replica_is_verified_when_it_was_written_or_read_by_this_process(size_bytes, bench):
    """A restart forgets it; a read from the medium brings it back, and a deletion ends it."""
    chunk = make_chunk(random_bytes(size_bytes))
    assert not bench.tier.is_verified(chunk.digest)
    with pytest.raises(ChunkNotFoundError):
        await bench.tier.verify(chunk.digest)
    await bench.tier.put(chunk, 1)
    assert bench.tier.is_verified(chunk.digest)
    tier = await bench.reopen()
    if bench.kind != "fake":  # which is not opened again
        assert not tier.is_verified(chunk.digest)
    assert await tier.verify(chunk.digest) == size_bytes
    assert tier.is_verified(chunk.digest)
    assert await tier.get(chunk.digest) == chunk.body()
    assert await tier.delete(chunk.digest)
    assert not tier.is_verified(chunk.digest)


@pytest.mark.parametrize("size_bytes", [3000, 200_000])
async def test_a_bad_replica_does_not_become_verified(size_bytes, bench):
    """It is found bad instead, and is not held any more."""
    chunk = make_chunk(random_bytes(size_bytes))
    await bench.tier.put(chunk, 1)
    tier = await bench.reopen()
    bench.damage(chunk.digest)
    with pytest.raises(ChunkCorruptError):
        await tier.verify(chunk.digest)
    assert not tier.is_verified(chunk.digest)
    assert await tier.has([chunk.digest], None) == set()


async def walk(tier, prefix: str, limit: int) -> list:
    """All pages."""
    found: list = []
    while page := await tier.list_chunks(prefix, found[-1].digest if found else "", limit):
        found += page
        if len(page) < limit:
            break
    return found


def sums_of(chunks: list[Chunk], group: int | None) -> list[SetSum]:
    table = PartitionTable()
    table.fill((bytes.fromhex(chunk.digest), chunk.size_bytes) for chunk in chunks)
    return list(table.groups()) if group is None else table.group(group)


async def test_the_inventory_lists_every_chunk_once_in_order(bench):
    """Pages of any size, of all chunks or of those with one prefix, before and after a reopen; ends where chunks end."""
    chunks = [make_chunk(random_bytes(size)) for size in [3000] * 40 + [70_000] * 8]
    for index, chunk in enumerate(chunks):
        await bench.tier.put(chunk, index)
    expected = sorted((chunk.digest, chunk.size_bytes, index) for index, chunk in enumerate(chunks))
    for is_reopened in (False, True):
        tier = await bench.reopen() if is_reopened else bench.tier
        for limit in (1, 7, len(chunks), 1000):
            found = await walk(tier, "", limit)
            assert [(chunk.digest, chunk.size_bytes, chunk.start_index) for chunk in found] == expected
        for prefix in (expected[0][0][:1], expected[20][0][:3], expected[30][0], "0" * 64):
            found = [chunk.digest for chunk in await walk(tier, prefix, 2)]
            assert found == [digest for digest, _, _ in expected if digest.startswith(prefix)]
        assert await tier.list_chunks("", expected[-1][0], 10) == []
        assert [chunk.digest for chunk in await tier.list_chunks("", expected[5][0], 2)] == [
            digest for digest, _, _ in expected[6:8]
        ]


async def test_a_walk_during_changes_lists_what_stays_exactly_once(bench):
    """Chunks come and go between the pages; those that were there throughout are on exactly one page."""
    staying = [make_chunk(random_bytes(2000)) for _ in range(30)]
    leaving = [make_chunk(random_bytes(2000)) for _ in range(30)]
    for chunk in staying + leaving:
        await bench.tier.put(chunk, 0)
    found: list[str] = []
    while page := await bench.tier.list_chunks("", found[-1] if found else "", 4):
        found += [chunk.digest for chunk in page]
        if leaving:
            await bench.tier.delete(leaving.pop().digest)
            await bench.tier.put(make_chunk(random_bytes(2000)), 0)
    assert len(set(found)) == len(found)
    assert {chunk.digest for chunk in staying} <= set(found)


async def test_the_sums_follow_every_change(bench):
    """After puts, repeated puts, deletes and a found damage the sums are those of what is held, also after a reopen."""
    chunks = [make_chunk(random_bytes(size)) for size in [1500] * 25 + [80_000] * 5]
    assert await bench.tier.sums(None) == [SetSum()] * 256
    await asyncio.gather(*(bench.tier.put(chunk, 1) for chunk in chunks))
    await bench.tier.put(chunks[0], 2)
    for chunk in chunks[:7]:
        assert await bench.tier.sums(int(chunk.digest[:2], 16)) == sums_of(chunks, int(chunk.digest[:2], 16))
    assert await bench.tier.sums(None) == sums_of(chunks, None)
    for chunk in chunks[10:15]:
        await bench.tier.delete(chunk.digest)
    held = chunks[:10] + chunks[15:]
    assert await bench.tier.sums(None) == sums_of(held, None)
    tier = await bench.reopen()
    assert await tier.sums(None) == sums_of(held, None)
    bench.damage(held[0].digest)
    with pytest.raises(ChunkCorruptError):
        await tier.get(held[0].digest)
    assert await tier.sums(None) == sums_of(held[1:], None)
    group = int(held[-1].digest[:2], 16)
    assert await tier.sums(group) == sums_of(held[1:], group)


@pytest.mark.parametrize("size_bytes", [3000, 200_000])
async def test_a_chunk_found_bad_is_lost_until_it_is_restored(size_bytes, bench):
    """It is listed as lost, also after a reopen, and comes back with the start index that it had."""
    chunks = [make_chunk(random_bytes(size_bytes)) for _ in range(3)]
    for chunk in chunks:
        await bench.tier.put(chunk, 7)
    assert await bench.tier.list_lost("", 10) == []
    assert not await bench.tier.restore(chunks[0])
    tier = await bench.reopen()
    for chunk in chunks:
        bench.damage(chunk.digest)
        with pytest.raises(ChunkCorruptError):
            await tier.get(chunk.digest)
    tier = await bench.reopen()
    lost = sorted(chunk.digest for chunk in chunks)
    assert await tier.list_lost("", 10) == [LostChunk(digest, 7) for digest in lost]
    assert await tier.list_lost("", 1) == [LostChunk(lost[0], 7)]
    assert await tier.list_lost(lost[0], 10) == [LostChunk(digest, 7) for digest in lost[1:]]
    assert (await tier.statuses())[0].lost_chunk_count == 3
    assert await tier.restore(chunks[0])
    assert await tier.get(chunks[0].digest) == b"".join(chunks[0].pieces)
    assert bench.start_index_of(chunks[0].digest) == 7
    assert not await tier.restore(chunks[0])
    # A put brings it back too, and neither way loses the larger start index.
    await tier.put(chunks[1], 3)
    assert await tier.get(chunks[1].digest) == b"".join(chunks[1].pieces)
    await tier.has([chunk.digest for chunk in chunks], 0)  # in tiered: moves what is not on disk yet
    assert bench.start_index_of(chunks[1].digest) == 7
    assert await tier.delete(chunks[2].digest) is False
    assert not await tier.restore(chunks[2])
    assert await tier.list_lost("", 10) == []
    assert await tier.has([chunk.digest for chunk in chunks], None) == {chunk.digest for chunk in chunks[:2]}


async def test_many_puts_of_one_chunk_create_it_once(bench):
    """Concurrent puts of equal bytes all succeed; one of them brought the chunk."""
    for size_bytes in (2000, 150_000):
        chunk = make_chunk(random_bytes(size_bytes))
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
    assert await tier.sums(None) == sums_of([chunk for chunk in chunks if chunk.digest in expected], None)
    assert {chunk.digest for chunk in await walk(tier, "", 5)} == expected


async def test_counts_follow_puts_and_deletes(bench):
    """The status of the tier that holds the weight counts chunks and bytes, also after a reopen."""
    chunks = [make_chunk(random_bytes(size)) for size in (500, 5000, 100_000)]
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
