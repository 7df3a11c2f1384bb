"""Conditional deletions in the tiered store: none is undone by what Redis recorded, or by a recovery that read it before."""

from __future__ import annotations

import asyncio

import pytest

from services.storage.ports import ConditionalDelete, LostChunk
from shared.errors import ChunkNotFoundError, UnavailableError
from tests.integration.storage.support import make_chunk, poll
from tests.integration.storage.test_redis_recovery import bench, open_store, put_unheard  # noqa: F401 - fixtures


def below(digest: str, index: int) -> ConditionalDelete:
    return ConditionalDelete(digest, lambda recorded: recorded < index)


async def assert_absent(store, digest: str) -> None:
    assert await store.has([digest], None) == set()
    with pytest.raises(ChunkNotFoundError):
        await store.get(digest)


async def test_a_buffered_chunk_is_deleted_everywhere(open_store, stranger):  # noqa: F811
    """From memory, from Redis' record, its copies and the disk; the largest index counts, wherever it was recorded."""
    chunk, raised = make_chunk(), make_chunk()
    async with open_store() as store:
        for each in (chunk, raised):
            assert (await store.put(each, 5)).tier == "redis"
        await store.put(raised, 9)  # to disk, while Redis records 5
        both = [chunk.digest, raised.digest]
        assert await store.start_indexes(both) == {chunk.digest: 5, raised.digest: 9}
        assert await store.delete_if([below(digest, 9) for digest in both]) == {chunk.digest}
        await assert_absent(store, chunk.digest)
        assert await stranger.zscore("trivet:record", chunk.digest) is None
        assert not await stranger.exists(f"trivet:chunk:{chunk.digest}")
    async with open_store() as store:
        await assert_absent(store, chunk.digest)
        assert await store.start_indexes(both) == {raised.digest: 9}


async def test_what_redis_may_have_recorded_is_left_until_its_record_was_read(open_store, proxy, stranger):  # noqa: F811
    """A put that Redis did not confirm would come back from its record: it stays, and goes once that was read."""
    chunk, flushed = make_chunk(), make_chunk()
    async with open_store() as store:
        await put_unheard(store, proxy, chunk)
        await poll(lambda: store._link.is_usable)
        assert (await store.put(flushed, 1)).tier == "redis"
        proxy.swallow = lambda request: b"ZREM" in request  # the end of the flush
        assert len(await store.list_chunks("", "", 10)) == 2
        proxy.swallow = lambda _: False
        assert await stranger.zscore("trivet:record", flushed.digest) == 1
        if left := [d for d in (chunk.digest, flushed.digest) if store._recovery.may_record(d)]:
            assert await store.delete_if([below(digest, 9) for digest in left]) == set()
        store._recovery.request_reconciliation()
        await poll(lambda: not any(store._recovery.may_record(d) for d in (chunk.digest, flushed.digest)))
        candidates = [below(chunk.digest, 9), below(flushed.digest, 9)]
        assert await store.delete_if(candidates) == {chunk.digest, flushed.digest}
    async with open_store() as store:
        for each in (chunk, flushed):
            await assert_absent(store, each.digest)


async def test_a_deletion_while_redis_is_dead_does_not_come_back_from_it(open_store, redis, stranger):  # noqa: F811
    """A flushed chunk goes, though its copy is in Redis; one that Redis still records stays, and goes when Redis is back."""
    copied, recorded = make_chunk(), make_chunk()
    async with open_store() as store:
        assert (await store.put(copied, 1)).tier == "redis"
        assert len(await store.list_chunks("", "", 10)) == 1
        assert (await store.put(recorded, 1)).tier == "redis"
        redis.kill()
        candidates = [below(copied.digest, 9), below(recorded.digest, 9)]
        assert await store.delete_if(candidates) == {copied.digest}
        await assert_absent(store, copied.digest)
        assert await store.get(recorded.digest) == recorded.body()
        redis.start()
        await poll(lambda: store._link.is_usable)
        await assert_absent(store, copied.digest)
        assert not await stranger.exists(f"trivet:chunk:{copied.digest}")
        assert await store.delete_if(candidates) == {recorded.digest}
        assert await stranger.zscore("trivet:record", recorded.digest) is None
    async with open_store() as store:
        for each in (copied, recorded):
            await assert_absent(store, each.digest)


async def test_a_deletion_while_redis_is_dead_and_a_restart_do_not_bring_a_copy_back(open_store, redis, stranger):  # noqa: F811
    """What was to be dropped from Redis is forgotten by the restart; a copy of what the disk does not hold is none."""
    chunk = make_chunk()
    async with open_store() as store:
        assert (await store.put(chunk, 1)).tier == "redis"
        assert len(await store.list_chunks("", "", 10)) == 1
        redis.kill()
        assert await store.delete_if([below(chunk.digest, 9)]) == {chunk.digest}
    redis.start()
    assert await stranger.exists(f"trivet:chunk:{chunk.digest}")
    async with open_store() as store:
        await assert_absent(store, chunk.digest)
        assert not await stranger.exists(f"trivet:chunk:{chunk.digest}")


async def test_nothing_is_deleted_before_the_record_was_read(open_store, redis, monkeypatch):  # noqa: F811
    """An earlier process may have left a higher start index in Redis: refused, definite, until Redis was read."""
    monkeypatch.setattr("services.storage.redis_node.link._START_PATIENCE_S", 0.0)
    chunk = make_chunk(200_000)
    async with open_store() as store:
        await store.put(chunk, 5)
    redis.kill()
    async with open_store() as store:
        for ask in (store.delete_if([below(chunk.digest, 9)]), store.start_indexes([chunk.digest])):
            with pytest.raises(UnavailableError) as caught:
                await ask
            assert caught.value.definite
        redis.start()
        await poll(lambda: not store._recovery.is_record_unknown)
        assert await store.delete_if([below(chunk.digest, 9)]) == {chunk.digest}


async def test_a_deletion_waits_for_a_recovery_that_has_read_the_record(open_store, proxy):  # noqa: F811
    """The recovery has read an entry whose end Redis confirmed since: it would store the chunk again after the deletion."""
    chunk = make_chunk()
    async with open_store() as store:
        assert (await store.put(chunk, 5)).tier == "redis"
        has_asked, may_go_on = asyncio.Event(), asyncio.Event()
        scan = store._recovery._scan_record

        async def scan_slowly(cursor):
            found = await scan(cursor)
            has_asked.set()
            await may_go_on.wait()
            return found

        store._recovery._scan_record = scan_slowly
        recovering = asyncio.ensure_future(store._recovery.run())
        await has_asked.wait()
        await store.sums(None)  # flushes, and takes the chunk out of the record
        assert not store._recovery.may_record(chunk.digest)
        deleting = asyncio.ensure_future(store.delete_if([below(chunk.digest, 9)]))
        await asyncio.sleep(0)
        may_go_on.set()
        await recovering
        assert await deleting == {chunk.digest}
        await assert_absent(store, chunk.digest)
    async with open_store() as store:
        await assert_absent(store, chunk.digest)


async def test_a_condemned_chunk_that_the_disk_lost_is_not_restored_from_redis(bench):  # noqa: F811
    """Its copy in Redis is good, but nobody is owed it any more; one that is not condemned is restored from there."""
    digest = bench.chunk.digest
    assert await bench.store.delete_if([below(digest, 7)]) == set()
    assert await bench.disk.list_lost("", 10) == [LostChunk(digest, 7)]
    assert await bench.store.delete_if([below(digest, 8)]) == {digest}
    assert await bench.disk.list_lost("", 10) == []
    await assert_absent(bench.store, digest)


async def test_a_put_waits_for_a_deletion_of_its_chunk(open_store, stranger, monkeypatch):  # noqa: F811
    """Redis acknowledges nothing of a chunk between the decision on disk and the end of the deletion."""
    chunk = make_chunk()
    async with open_store() as store:
        await store.put(chunk, 5)
        await store.sums(None)
        is_deciding, may_delete = asyncio.Event(), asyncio.Event()
        delete_if = store._disk.delete_if

        async def delete_slowly(candidates):
            is_deciding.set()
            await may_delete.wait()
            return await delete_if(candidates)

        monkeypatch.setattr(store._disk, "delete_if", delete_slowly)
        deleting = asyncio.ensure_future(store.delete_if([below(chunk.digest, 9)]))
        await is_deciding.wait()
        putting = asyncio.ensure_future(store.put(chunk, 25))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not putting.done()
        may_delete.set()
        assert await deleting == {chunk.digest}
        assert (await putting).created
        assert await store.start_indexes([chunk.digest]) == {chunk.digest: 25}
    async with open_store() as store:
        assert await store.get(chunk.digest) == chunk.body()
        assert await store.start_indexes([chunk.digest]) == {chunk.digest: 25}
