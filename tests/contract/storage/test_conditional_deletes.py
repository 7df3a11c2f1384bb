"""`Tier.delete_if` and `Tier.start_indexes`: a deletion overlooks no acknowledged start index, in any interleaving."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading

import pytest
from redis import Redis

from services.storage.disk.tier import prepare_folder
from services.storage.ports import ConditionalDelete, LostChunk
from shared.errors import ChunkCorruptError, ChunkNotFoundError
from shared.partitions import SetSum
from tests.chance import draw_seed, random_bytes
from tests.contract.storage.conftest import build
from tests.contract.storage.test_tier_contract import make_chunk
from tests.integration.storage.support import REDIS_PASSWORD

SIZES = [3000, 200_000]


def below(digest: str, index: int) -> ConditionalDelete:
    """What a node asks for a chunk that is condemned at `index`."""
    return ConditionalDelete(digest, lambda recorded: recorded < index)


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_the_condition_sees_the_largest_start_index(size_bytes, bench):
    """One index short of the condition the chunk stays, whether put or has recorded it; then it goes, for good."""
    chunks = [make_chunk(random_bytes(size_bytes)) for _ in range(3)]
    digests = [chunk.digest for chunk in chunks]
    for chunk in chunks:
        await bench.tier.put(chunk, 5)
    await bench.tier.put(chunks[1], 8)
    await bench.tier.has([digests[2]], 9)
    assert await bench.tier.start_indexes([*digests, "ab" * 32]) == dict(zip(digests, (5, 8, 9), strict=True))
    seen: list[int] = []
    assert await bench.tier.delete_if([ConditionalDelete(digests[1], lambda index: bool(seen.append(index)))]) == set()
    assert set(seen) == {8}
    assert await bench.tier.delete_if([below(digest, 5) for digest in [*digests, "ab" * 32]]) == set()
    assert await bench.tier.delete_if([below(digest, 9) for digest in [*digests, "ab" * 32]]) == set(digests[:2])
    for is_reopened in (False, True):
        tier = await bench.reopen() if is_reopened else bench.tier
        assert await tier.start_indexes(digests) == {digests[2]: 9}
        assert await tier.has(digests, None) == {digests[2]}
        with pytest.raises(ChunkNotFoundError):
            await tier.get(digests[0])
    assert (await bench.tier.put(chunks[0], 1)).created
    assert await bench.tier.start_indexes(digests[:1]) == {digests[0]: 1}
    assert not bench.tier.is_verified(digests[1])


async def test_nothing_is_asked_of_nothing(bench):
    """Empty questions have empty answers."""
    assert await bench.tier.delete_if([]) == set()
    assert await bench.tier.start_indexes([]) == {}
    assert await bench.tier.record_start_indexes({}) == set()


async def test_each_chunk_gets_a_start_index_of_its_own(bench):
    """Recorded as the maximum, on those that are held, and still there after a reopen."""
    chunks = [make_chunk(random_bytes(size)) for size in (10, 3000, 200_000)]
    for chunk in chunks:
        await bench.tier.put(chunk, 5)
    digests = [chunk.digest for chunk in chunks]
    wanted = dict(zip([*digests, "ab" * 32], (3, 6, 7, 8), strict=True))
    assert await bench.tier.record_start_indexes(wanted) == set(digests)
    tier = await bench.reopen()
    assert await tier.start_indexes(digests) == dict(zip(digests, (5, 6, 7), strict=True))


async def test_many_are_deleted_together(bench):
    """Half of several hundred go; sums, counts and inventory are those of the other half, before and after a reopen."""
    chunks = [make_chunk(random_bytes(size)) for size in [900] * 300 + [100_000] * 12]
    await asyncio.gather(*(bench.tier.put(chunk, index % 2) for index, chunk in enumerate(chunks)))
    deleted = await bench.tier.delete_if([below(chunk.digest, 1) for chunk in chunks])
    assert deleted == {chunk.digest for chunk in chunks[::2]}
    held = {chunk.digest: chunk for chunk in chunks[1::2]}
    for is_reopened in (False, True):
        tier = await bench.reopen() if is_reopened else bench.tier
        assert [chunk.digest for chunk in await tier.list_chunks("", "", 1000)] == sorted(held)
        total = sum(await tier.sums(None), SetSum())
        assert (total.chunk_count, total.used_bytes) == (len(held), sum(chunk.size_bytes for chunk in held.values()))
        assert await tier.get(chunks[-1].digest) == chunks[-1].body()


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_a_lost_chunk_that_is_condemned_is_forgotten(size_bytes, bench):
    """By the start index that it had; then it is neither listed nor restored. The others stay lost."""
    chunks = [make_chunk(random_bytes(size_bytes)) for _ in range(2)]
    for index, chunk in enumerate(chunks, 6):
        await bench.tier.put(chunk, index)
    tier = await bench.reopen()
    for chunk in chunks:
        bench.damage(chunk.digest)
        with pytest.raises(ChunkCorruptError):
            await tier.get(chunk.digest)
    assert await tier.start_indexes([chunk.digest for chunk in chunks]) == {}
    assert await tier.delete_if([below(chunk.digest, 7) for chunk in chunks]) == {chunks[0].digest}
    assert await tier.list_lost("", 10) == [LostChunk(chunks[1].digest, 7)]
    assert not await tier.restore(chunks[0])
    tier = await bench.reopen()
    assert await tier.list_lost("", 10) == [LostChunk(chunks[1].digest, 7)]
    assert await tier.restore(chunks[1])
    assert bench.start_index_of(chunks[1].digest) == 7


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_an_acknowledged_higher_start_index_outlives_a_deletion(size_bytes, bench):
    """Puts, has and deletions of the same chunks at once: what was acknowledged with an index that is not below the
    condemned one is held afterwards, with at least that index, whoever came first."""
    seed = draw_seed()
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(12):
        chunks = [make_chunk(source.randbytes(size_bytes)) for _ in range(4)]
        for chunk in source.sample(chunks, 2):
            await bench.tier.put(chunk, 1)
        promised: dict[str, int] = {}

        async def put(chunk, index, promised=promised):
            await bench.tier.put(chunk, index)
            promised[chunk.digest] = max(index, promised.get(chunk.digest, 0))

        async def has(chunks, index, promised=promised):
            for digest in await bench.tier.has([chunk.digest for chunk in chunks], index):
                promised[digest] = max(index, promised.get(digest, 0))

        async def delete(chunks, index):
            await bench.tier.delete_if([below(chunk.digest, index) for chunk in chunks])

        steps = [put(chunk, source.choice([5, 15, 25])) for chunk in chunks for _ in range(2)]
        steps += [has(source.sample(chunks, 3), index) for index in (12, 22)]
        steps += [delete(chunks, 10), delete(chunks, 20), delete(chunks, 20)]
        source.shuffle(steps)
        await asyncio.gather(*steps)
        safe = {digest: index for digest, index in promised.items() if index >= 20}
        found = await bench.tier.start_indexes([chunk.digest for chunk in chunks])
        for digest, index in safe.items():
            assert found.get(digest, -1) >= index
        for chunk in chunks:
            if chunk.digest in found:
                assert await bench.tier.get(chunk.digest) == chunk.body()
    tier = await bench.reopen()
    assert found.items() <= (await tier.start_indexes(list(found))).items()


@pytest.mark.parametrize("size_bytes", SIZES)
async def test_a_put_that_comes_while_the_condition_is_asked_is_not_lost(size_bytes, bench):
    """Another thread puts the chunk with a higher start index between the question and the end of the deletion."""
    if bench.kind == "fake":
        pytest.skip("the fake has one thread")
    chunk = make_chunk(random_bytes(size_bytes))
    await bench.tier.put(chunk, 5)
    is_asked = asyncio.Event()
    is_sent = threading.Event()
    loop = asyncio.get_running_loop()

    def condition(recorded: int) -> bool:
        if threading.current_thread() is threading.main_thread():
            return recorded < 10
        loop.call_soon_threadsafe(is_asked.set)
        is_sent.wait(10)
        return recorded < 10

    async def put() -> None:
        if bench.kind != "redis":  # whose conditions are asked in the loop
            await is_asked.wait()
        putting = asyncio.ensure_future(bench.tier.put(chunk, 25))
        await asyncio.sleep(0)
        is_sent.set()
        await putting

    await asyncio.gather(bench.tier.delete_if([ConditionalDelete(chunk.digest, condition)]), put())
    assert await bench.tier.start_indexes([chunk.digest]) == {chunk.digest: 25}
    assert await bench.tier.get(chunk.digest) == chunk.body()
    tier = await bench.reopen()
    assert await tier.start_indexes([chunk.digest]) == {chunk.digest: 25}


async def test_a_start_index_that_redis_records_after_the_question_is_seen(tmp_path, shared_redis):
    """Between the answer with the score and the step that deletes, another client raises the score: the condition is asked
    again, and the chunk stays."""
    prepare_folder(tmp_path)
    chunk = make_chunk(random_bytes(3000))
    seen: list[int] = []
    with Redis.from_url(shared_redis.url, password=REDIS_PASSWORD) as server:
        server.flushall()

        def condition(recorded: int) -> bool:
            seen.append(recorded)
            server.zadd("trivet:record", {chunk.digest: 25}, gt=True)
            return recorded < 10

        async with build("redis", tmp_path, shared_redis) as tier:
            await tier.put(chunk, 5)
            assert await tier.delete_if([ConditionalDelete(chunk.digest, condition)]) == set()
            assert seen == [5, 25]
            assert await tier.start_indexes([chunk.digest]) == {chunk.digest: 25}
            assert await tier.get(chunk.digest) == chunk.body()


@pytest.mark.parametrize("column", ["start_index", "size_bytes", "packed_id"])
async def test_a_chunk_whose_record_is_damaged_is_left_alone(column, tmp_path, shared_redis):
    """Its start index may be what was damaged. A put puts the record right; then the condition is asked."""
    prepare_folder(tmp_path)
    chunk = make_chunk(random_bytes(3000))
    async with build("disk", tmp_path, shared_redis) as tier:
        await tier.put(chunk, 5)
        with sqlite3.connect(tmp_path / "catalog.sqlite") as sql:
            sql.execute(f"UPDATE chunks SET {column} = 'x'")
        sql.close()
        asked: list[int] = []
        assert await tier.delete_if([ConditionalDelete(chunk.digest, lambda index: not asked.append(index))]) == set()
        assert asked == []
        await tier.put(chunk, 7)
        assert await tier.get(chunk.digest) == chunk.body()
        assert await tier.delete_if([below(chunk.digest, 8)]) == {chunk.digest}
