"""The tiered store on a real disk and a real Redis whose answers get lost: what was acknowledged stays so."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis as BlockingRedis

from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk, ChunkPut, LostChunk
from services.storage.redis_node import chunk_keys
from services.storage.redis_node.link import RedisAddress, RedisLink
from services.storage.redis_node.server_config import USERNAME
from services.storage.tiered import recovery
from services.storage.tiered.read_cache import ReadCache
from services.storage.tiered.recovery import Recovery
from services.storage.tiered.tier import TieredTier
from services.storage.tiered.write_behind import BufferedChunk, WriteBehindBuffer
from shared.errors import ChunkCorruptError, ChunkNotFoundError, UnavailableError
from shared.units import KIB, MIB
from tests.chance import random_bytes
from tests.integration.storage.redis_proxy import RedisProxy
from tests.integration.storage.support import REDIS_PASSWORD, make_chunk, poll

DEADLINE_S = 1.5
"""Answers are held back for as long as a call lasts; all others come in time, though a busy disk syncs every one of them."""

OpenStore = Callable[[], AbstractAsyncContextManager[TieredTier]]


def make_parts(root: Path, url: str) -> tuple[DiskTier, RedisLink, StorageMetrics]:
    metrics = StorageMetrics(CollectorRegistry())
    disk = DiskTier(root, space=FreeSpace(root, None, 99), metrics=metrics, small_limit_bytes=64 * KIB)
    address = RedisAddress(url, REDIS_PASSWORD, "recovery/test", root / "redis-claimed", root / "redis-limit", USERNAME)
    return disk, RedisLink(address, deadline_s=DEADLINE_S, metrics=metrics), metrics


@pytest.fixture
def open_store(tmp_path: Path, proxy: RedisProxy) -> OpenStore:
    """Opens the store on the same folder and the same Redis, as a new process would. It flushes only when it is told."""
    prepare_folder(tmp_path)

    @asynccontextmanager
    async def open_it() -> AsyncIterator[TieredTier]:
        disk, link, metrics = make_parts(tmp_path, proxy.url)
        sizes = {"read_cache_bytes": 8 * MIB, "write_behind_bytes": 4 * MIB}
        async with TieredTier(disk, link, metrics=metrics, **sizes, flush_interval_s=3600) as store:
            yield store

    return open_it


async def put_unheard(store: TieredTier, proxy: RedisProxy, chunk: Chunk) -> None:
    """Redis records the chunk, and its answer comes too late."""
    # Over a connection that is there: on a new one nothing is sent before the server has said whose it is.
    before = make_chunk()
    assert (await store.put(before, 1)).tier == "redis"
    assert await store.delete(before.digest)
    proxy.flowing.clear()
    try:
        assert (await store.put(chunk, 1)).tier == "disk"
    finally:
        proxy.flowing.set()


async def test_a_put_that_redis_recorded_too_late_is_deleted_there_too(open_store, proxy, stranger):
    """Redis' answer to a put is lost and the disk takes the chunk; an acknowledged deletion is not undone by the record."""
    chunk = make_chunk()
    async with open_store() as store:
        await put_unheard(store, proxy, chunk)
        assert await stranger.zscore("trivet:record", chunk.digest) == 1
        assert await store.delete(chunk.digest)
        assert await stranger.zscore("trivet:record", chunk.digest) is None
    async with open_store() as store:
        assert await store.has([chunk.digest], None) == set()
        with pytest.raises(ChunkNotFoundError):
            await store.get(chunk.digest)


async def test_a_flushed_chunk_that_redis_still_records_is_deleted_there_too(open_store, proxy, stranger):
    """Redis' answer to the end of a flush is lost: its record goes on naming the chunk until the deletion."""
    chunk = make_chunk()
    async with open_store() as store:
        assert (await store.put(chunk, 1)).tier == "redis"
        proxy.swallow = lambda request: b"ZREM" in request  # the end of the flush
        assert [held.digest for held in await store.list_chunks("", "", 10)] == [chunk.digest]
        proxy.swallow = lambda _: False
        assert await stranger.zscore("trivet:record", chunk.digest) == 1
        assert await store.delete(chunk.digest)
        assert await stranger.zscore("trivet:record", chunk.digest) is None
    async with open_store() as store:
        assert await store.has([chunk.digest], None) == set()


async def test_a_deletion_that_the_disk_refuses_halfway_is_not_definite(tmp_path, proxy):
    """The chunk is gone from memory and Redis when the disk stops taking changes: that is no "certainly not deleted"."""
    prepare_folder(tmp_path)
    disk, link, metrics = make_parts(tmp_path, proxy.url)
    sizes = {"read_cache_bytes": 8 * MIB, "write_behind_bytes": 4 * MIB}
    chunk, other = make_chunk(), make_chunk()
    async with TieredTier(disk, link, metrics=metrics, **sizes, flush_interval_s=3600) as store:
        for each in (chunk, other):
            assert (await store.put(each, 1)).tier == "redis"
        proxy.swallow = lambda request: b"UNLINK" in request and disk.gate.close("a test")
        with pytest.raises(UnavailableError) as caught:
            await store.delete(chunk.digest)
        assert not caught.value.definite
        with pytest.raises(UnavailableError) as caught:  # nothing was tried
            await store.delete(other.digest)
        assert caught.value.definite
        assert await store.get(other.digest) == other.body()


async def test_an_unconfirmed_change_during_a_recovery_outlives_it(tmp_path, proxy, redis):
    """While the record is read another put goes unanswered: this reading does not tell whether that is recorded."""
    before, both, later = (make_chunk().digest for _ in range(3))
    prepare_folder(tmp_path)
    disk, link, metrics = make_parts(tmp_path, proxy.url)
    async with disk, link:
        recovery = Recovery(disk, link, WriteBehindBuffer(MIB), ReadCache(MIB), metrics)
        await link.start(recovery.run)
        recovery.mark_unconfirmed([before, both])
        asked = asyncio.Event()
        proxy.swallow = lambda request: b"ZSCAN" in request and asked.set()
        proxy.flowing.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(recovery._reconcile())
            await asked.wait()
            assert recovery.may_record(before)
            recovery.mark_unconfirmed([both, later])
            proxy.flowing.set()
        assert [recovery.may_record(digest) for digest in (before, both, later)] == [False, True, True]
        await recovery.run()
        assert not any(recovery.may_record(digest) for digest in (before, both, later))


async def test_unconfirmed_changes_are_reconciled_before_redis_is_used_again(tmp_path, proxy, redis):
    """Puts and a flush that fail while copies are listed leave unconfirmed changes, which would open the circuit again."""
    refused = make_chunk().digest
    prepare_folder(tmp_path)
    disk, link, metrics = make_parts(tmp_path, proxy.url)
    async with disk, link:
        recovery = Recovery(disk, link, WriteBehindBuffer(MIB), ReadCache(MIB), metrics)
        await link.start(recovery.run)

        def mark_once(request: bytes) -> None:
            if b"STRLEN" in request or b"trivet:chunk:*" in request:
                recovery.mark_unconfirmed([refused])
                proxy.swallow = lambda _: False

        proxy.swallow = mark_once
        recovery.learn_again()
        await recovery.run()
        assert proxy.swallow is not mark_once
        assert not recovery.may_record(refused)
        recovery.request_reconciliation()
        assert link.is_usable


async def test_names_that_are_no_digests_are_passed_over(open_store, stranger):
    """Somebody's key or a flipped bit costs a warning and not the use of Redis."""
    chunk = make_chunk()
    async with open_store() as store:
        assert (await store.put(chunk, 1)).tier == "redis"
        await stranger.zadd("trivet:record", {"zz": 1, b"\xff" * 64: 2})
        await stranger.set("trivet:chunk:zz", b"1")
        await stranger.set(b"trivet:chunk:" + b"\xff" * 64, b"1")
    async with open_store() as store:
        assert store.degradations() == []
        assert await store.get(chunk.digest) == chunk.body()
        with pytest.raises(ChunkNotFoundError):
            await store.get("0" * 64)


async def test_a_full_redis_leaves_nothing_unconfirmed(open_store, stranger):
    """It certainly did not take the chunk: it is not taken out of use for a comparison, again and again."""
    async with open_store() as store:
        await stranger.config_set("maxmemory", 1)
        try:
            for _ in range(3):
                assert (await store.put(make_chunk(), 1)).tier == "disk"
            store._recovery.request_reconciliation()
            assert store._link.is_usable
        finally:
            await stranger.config_set("maxmemory", 0)


async def test_a_recovery_that_makes_room_keeps_what_the_disk_lost(tmp_path, proxy, stranger):
    """A copy that was known before is the last good replica: it is restored before it leaves."""
    chunk = make_chunk()
    prepare_folder(tmp_path)
    disk, link, metrics = make_parts(tmp_path, proxy.url)
    read_cache = ReadCache(1)
    async with disk, link:
        recovery = Recovery(disk, link, WriteBehindBuffer(MIB), read_cache, metrics)
        await link.start(recovery.run)
        await stranger.set(f"trivet:chunk:{chunk.digest}", chunk.body())
        read_cache.add(chunk.digest, chunk.size_bytes)
        await disk.record_lost(chunk.digest, 5)
        recovery.learn_again()
        await recovery.run()
        assert await disk.get(chunk.digest) == chunk.body()
        assert not await stranger.exists(f"trivet:chunk:{chunk.digest}")


async def test_a_record_that_shrinks_while_it_is_read_is_read_to_the_end(tmp_path, proxy, redis):
    """A flush that is under way takes its chunks out of the record between two steps of a recovery: no other is passed over."""
    prepare_folder(tmp_path)
    disk, link, metrics = make_parts(tmp_path, proxy.url)
    buffer, chunk = WriteBehindBuffer(MIB), make_chunk()
    in_memory = [random_bytes(32).hex() for _ in range(2000)]
    for digest in in_memory:
        buffer.add(BufferedChunk(digest, b"", 1, 0))
    questions = 0

    def flush_between(request: bytes) -> None:
        nonlocal questions
        questions += b"trivet:record" in request
        if questions == 2:
            other.zrem("trivet:record", *in_memory)

    async with disk, link:
        with BlockingRedis.from_url(redis.url, password=REDIS_PASSWORD) as other:
            other.set(f"trivet:chunk:{chunk.digest}", chunk.body())
            other.zadd("trivet:record", {**dict.fromkeys(in_memory, 1), chunk.digest: 2})
            proxy.swallow = flush_between
            await Recovery(disk, link, buffer, ReadCache(MIB), metrics).run()
        assert questions >= 2
        assert await disk.get(chunk.digest) == chunk.body()


async def test_a_large_chunk_of_the_record_keeps_its_start_index(open_store, stranger):
    """Recorded while the node was in mode `redis`, or took larger chunks for small ones."""
    large, small = make_chunk(100 * KIB), make_chunk()
    async with open_store():
        pass
    await stranger.mset({f"trivet:chunk:{chunk.digest}": chunk.body() for chunk in (large, small)})
    await stranger.zadd("trivet:record", {large.digest: 9, small.digest: 4})
    async with open_store() as store:
        held = {chunk.digest: chunk.start_index for chunk in await store.list_chunks("", "", 10)}
        assert held == {large.digest: 9, small.digest: 4}
        assert await store.get(large.digest) == large.body()


async def test_a_recovery_restores_what_stands_on_any_page_of_the_lost(
    open_store, proxy, tmp_path, stranger, monkeypatch
):
    """The disk has lost more chunks than one page holds, and Redis has a copy of each."""
    monkeypatch.setattr("services.storage.tiered.recovery._LOST_PAGE", 2)
    monkeypatch.setattr("services.storage.tiered.recovery._PART", 2)
    chunks = [make_chunk() for _ in range(7)]
    disk, _, _ = make_parts(tmp_path, proxy.url)
    async with disk:
        for chunk in chunks:
            await disk.record_lost(chunk.digest, 5)
    async with open_store():
        pass  # the server is claimed
    await stranger.mset({f"trivet:chunk:{chunk.digest}": chunk.body() for chunk in chunks})
    async with open_store() as store:
        assert await store.list_lost("", 10) == []
        held = await store.list_chunks("", "", 10)
        assert {chunk.digest: 5 for chunk in chunks} == {found.digest: found.start_index for found in held}


async def test_a_recovery_moves_the_record_to_its_last_page(open_store, stranger, monkeypatch):
    """Every chunk that was acknowledged by Redis alone."""
    monkeypatch.setattr(chunk_keys, "_SCAN_COUNT", 10)
    async with open_store():
        pass
    chunks = [make_chunk(100) for _ in range(300)]
    await stranger.mset({f"trivet:chunk:{chunk.digest}": chunk.body() for chunk in chunks})
    await stranger.zadd("trivet:record", {chunk.digest: 5 for chunk in chunks})
    async with open_store() as store:
        held = await store._disk.has([chunk.digest for chunk in chunks], None)
        assert len(held) == len(chunks)
        assert await stranger.zcard("trivet:record") == 0


async def test_a_recovery_reads_redis_to_its_last_page(open_store, stranger, monkeypatch):
    """Copies that nobody knows are dropped, wherever they stand."""
    monkeypatch.setattr(chunk_keys, "_SCAN_COUNT", 10)
    async with open_store():
        pass
    copies = {f"trivet:chunk:{chunk.digest}": chunk.body() for chunk in [make_chunk(100) for _ in range(300)]}
    await stranger.mset(copies)
    async with open_store():
        assert await stranger.exists(*copies) == 0


async def test_the_list_of_the_lost_goes_on_behind_a_page_that_was_restored(tmp_path, proxy, stranger):
    """Who fetches from the peers would take an empty page for the end."""
    prepare_folder(tmp_path)
    disk, link, metrics = make_parts(tmp_path, proxy.url)
    chunks = sorted((make_chunk() for _ in range(4)), key=lambda chunk: chunk.digest)
    sizes = {"read_cache_bytes": MIB, "write_behind_bytes": MIB}
    async with TieredTier(disk, link, metrics=metrics, **sizes, flush_interval_s=3600) as store:
        for chunk in chunks:
            await disk.record_lost(chunk.digest, 3)
        await stranger.mset({f"trivet:chunk:{chunk.digest}": chunk.body() for chunk in chunks[:2]})
        assert await store.list_lost("", 2) == [LostChunk(chunk.digest, 3) for chunk in chunks[2:]]


async def test_a_chunk_deleted_while_redis_was_dead_is_not_served_from_there(open_store, redis, stranger):
    """The pending delete is in memory only and forgotten by a restart: what the disk does not hold is no copy of anything."""
    chunk, kept = make_chunk(), make_chunk()
    async with open_store() as store:
        for each in (chunk, kept):
            assert (await store.put(each, 1)).tier == "redis"
        assert len(await store.list_chunks("", "", 10)) == 2  # both are flushed, and stay in Redis as copies
        redis.kill()
        assert await store.delete(chunk.digest)
    redis.start()
    assert await stranger.exists(f"trivet:chunk:{chunk.digest}")
    async with open_store() as store:
        assert (await store.statuses())[1].chunk_count == 1
        with pytest.raises(ChunkNotFoundError):
            await store.get(chunk.digest)
        assert await store.get(kept.digest) == kept.body()
        assert not await stranger.exists(f"trivet:chunk:{chunk.digest}")
        assert await stranger.exists(f"trivet:chunk:{kept.digest}")


async def test_a_redis_that_dies_or_is_emptied_after_it_was_read_leaves_nothing_unknown(open_store, redis):
    """Memory has what the disk lacks, so absent is absent; and an emptied Redis has been read, too."""
    unknown, chunk = make_chunk().digest, make_chunk()
    async with open_store() as store:
        assert (await store.put(chunk, 1)).tier == "redis"
        redis.kill()
        assert await store.has([unknown, chunk.digest], None) == {chunk.digest}
        await assert_absence_is_certain(store, unknown)
    redis.wipe()
    redis.start()
    async with open_store() as store:
        await assert_absence_is_certain(store, unknown)
        assert await store.get(chunk.digest) == chunk.body()


async def assert_absence_is_certain(store: TieredTier, digest: str) -> None:
    for ask in (store.get, store.get_size_bytes):
        with pytest.raises(ChunkNotFoundError):
            await ask(digest)
    assert len(await store.list_chunks("", "", 10)) == 1
    assert sum(found.chunk_count for found in await store.sums(None)) == 1
    assert not any("not known" in reason for reason in store.degradations())


async def test_a_node_that_has_not_read_its_redis_says_so(open_store, redis, monkeypatch):
    """It is degraded, and does not take for absent what may be in Redis; it knows as soon as Redis answers."""
    monkeypatch.setattr("services.storage.redis_node.link._START_PATIENCE_S", 0.0)
    async with open_store():
        pass
    redis.kill()
    async with open_store() as store:
        assert any("not known" in reason for reason in store.degradations())
        with pytest.raises(UnavailableError):
            await store.get("ab" * 32)
        redis.start()
        await poll(lambda: not any("not known" in reason for reason in store.degradations()))
        with pytest.raises(ChunkNotFoundError):
            await store.get("ab" * 32)


def damage_packed(root: Path, digest: str) -> None:
    """Change the replica on disk."""
    with sqlite3.connect(root / "catalog.sqlite") as sql:
        of_chunk = "WHERE id = (SELECT packed_id FROM chunks WHERE digest = ?)"
        changed = sql.execute(f"UPDATE packed SET body = x'00' {of_chunk}", (bytes.fromhex(digest),))
        assert changed.rowcount == 1
    sql.close()


@dataclass
class Bench:
    """A store, its disk, and a chunk that is flushed, cached in Redis, and bad on disk, which was found out."""

    store: TieredTier
    disk: DiskTier
    chunk: Chunk


@pytest.fixture
async def bench(tmp_path: Path, proxy: RedisProxy) -> AsyncIterator[Bench]:
    prepare_folder(tmp_path)
    disk, link, metrics = make_parts(tmp_path, proxy.url)
    sizes = {"read_cache_bytes": 100 * KIB, "write_behind_bytes": 200 * KIB}
    chunk = make_chunk()
    async with TieredTier(disk, link, metrics=metrics, **sizes, flush_interval_s=3600) as store:
        assert (await store.put(chunk, 7)).tier == "redis"
        assert len(await store.list_chunks("", "", 10)) == 1
        damage_packed(tmp_path, chunk.digest)
        with pytest.raises(ChunkCorruptError):
            await disk.reread(chunk.digest)  # the scrub
        assert await disk.list_lost("", 10) == [LostChunk(chunk.digest, 7)]
        assert await store.get(chunk.digest) == chunk.body()
        yield Bench(store, disk, chunk)


async def assert_restored(bench: Bench) -> None:
    assert await bench.disk.list_lost("", 10) == []
    assert await bench.disk.get(bench.chunk.digest) == bench.chunk.body()
    (held,) = [held for held in await bench.store.list_chunks("", "", 10) if held.digest == bench.chunk.digest]
    assert held.start_index == 7


async def test_a_chunk_that_the_disk_lost_is_restored_from_the_copy_in_redis(bench):
    """The last good replica may be the node's own: whoever would fetch the chunk from a peer is not told that it is lost."""
    assert await bench.store.list_lost("", 10) == []
    await assert_restored(bench)


async def test_the_last_good_replica_does_not_leave_redis(bench):
    """Other chunks need the room: what the disk has lost goes back there before its copy is dropped."""
    for chunk in [make_chunk(30_000) for _ in range(4)]:
        assert (await bench.store.put(chunk, 1)).tier == "redis"
    await bench.store.sums(None)  # flushes them
    await assert_restored(bench)


async def test_the_last_good_replica_is_found_by_a_new_process(open_store, proxy, tmp_path, stranger):
    """What is in Redis and neither held nor recorded is garbage, unless the disk has lost it: then it is restored."""
    chunk = make_chunk()
    async with open_store() as store:
        await store.put(chunk, 7)
    damage_packed(tmp_path, chunk.digest)
    disk, _, _ = make_parts(tmp_path, proxy.url)
    async with disk:
        with pytest.raises(ChunkCorruptError):
            await disk.reread(chunk.digest)
    assert await stranger.exists(f"trivet:chunk:{chunk.digest}")
    async with open_store() as store:
        assert await store.has([chunk.digest], None) == {chunk.digest}
        assert await store.get(chunk.digest) == chunk.body()
        assert await store.list_lost("", 10) == []


@pytest.mark.parametrize("is_hung", [False, True], ids=["failing", "hung"])
async def test_a_flush_keeps_record_and_memory_until_the_disk_has_committed(
    is_hung, open_store, tmp_path, proxy, stranger, monkeypatch
):
    """While the disk has not answered, or has refused, reads go on and another process on the same Redis finds every chunk."""
    chunks = [make_chunk() for _ in range(5)]
    asked, answer = asyncio.Event(), asyncio.Event()
    other = tmp_path / "other"
    other.mkdir()
    prepare_folder(other)

    async def refuse(_: object) -> None:
        asked.set()
        if is_hung:
            await answer.wait()
        raise UnavailableError("the disk failed")

    async with open_store() as store:
        for chunk in chunks:
            assert (await store.put(chunk, 7)).tier == "redis"
        with monkeypatch.context() as broken:
            broken.setattr(store._disk, "put_batch", refuse)
            async with asyncio.TaskGroup() as group:
                flush = group.create_task(failed(store._flush_all()))
                await asked.wait()
                if not is_hung:
                    await flush
                recorded = {name.decode() for name in await stranger.zrange("trivet:record", 0, -1)}
                assert recorded == {chunk.digest for chunk in chunks}
                for chunk in chunks:
                    assert await store.get(chunk.digest) == chunk.body()
                await assert_another_process_finds(chunks, other, proxy.url)
                answer.set()
        for chunk in chunks:
            assert await store.get(chunk.digest) == chunk.body()
        await store._flush_all()
        assert await store._disk.has([chunk.digest for chunk in chunks], None) == {chunk.digest for chunk in chunks}


async def failed(call) -> None:
    with pytest.raises(UnavailableError):
        await call


async def assert_another_process_finds(chunks: list[Chunk], root: Path, url: str) -> None:
    """With the same Redis, and an empty disk."""
    disk, link, metrics = make_parts(root, url)
    async with disk, link:
        await link.start(Recovery(disk, link, WriteBehindBuffer(MIB), ReadCache(MIB), metrics).run)
        for chunk in chunks:
            assert await disk.get(chunk.digest) == chunk.body()
        assert {held.start_index for held in await disk.list_chunks("", "", 10)} == {7}


@pytest.mark.parametrize("damage", ["deleted", "damaged"])
async def test_a_recorded_chunk_whose_body_is_gone_is_lost_counted_and_fetched(damage, open_store, stranger, tmp_path):
    """The record of Redis says that it was acknowledged here: a new process lists it with its start index, and takes it back."""
    gone, kept = make_chunk(), make_chunk()
    await stranger.zadd("trivet:record", {gone.digest: 9, kept.digest: 4})
    await stranger.set(f"trivet:chunk:{kept.digest}", kept.body())
    await stranger.set("trivet:owner", "recovery/test")
    (tmp_path / "redis-claimed").write_text("recovery/test")
    if damage == "damaged":
        await stranger.set(f"trivet:chunk:{gone.digest}", b"rot" + gone.body()[3:])
    async with open_store() as store:
        assert await store.list_lost("", 10) == [LostChunk(gone.digest, 9)]
        assert await store.has([gone.digest, kept.digest], None) == {kept.digest}
        assert (await store.statuses())[0].lost_chunk_count == 1
        assert store._metrics.lost_in_redis._value.get() == 1
        assert await stranger.zcard("trivet:record") == 0
        assert await store.restore(gone)
        assert await store.get(gone.digest) == gone.body()
        (found,) = [held for held in await store.list_chunks("", "", 10) if held.digest == gone.digest]
        assert found.start_index == 9
        assert await store.list_lost("", 10) == []


def count_of_walks(proxy: RedisProxy) -> Callable[[], int]:
    """How often somebody began to look through all bodies, from now on."""
    asked: list[bytes] = []

    def look(request: bytes) -> bool:
        if b"trivet:chunk:*" in request:
            asked.append(request)
        return False

    proxy.swallow = look
    return lambda: len(asked)


def lose_answer(proxy: RedisProxy, answer: bytes, *, to: bytes) -> Callable[[], bool]:
    """Lose the first `answer` after a request with the word `to`: the server has done what it was asked. Whether that happened.

    Not before: the same answer stands in the handshake of a new connection.
    """
    lost: list[bytes] = []

    def rewrite(found: bytes) -> bytes:
        if found != answer or lost:
            return found
        lost.append(found)
        return b""

    def look(request: bytes) -> bool:
        if b"\r\n" + to + b"\r\n" in request:
            proxy.rewrite = rewrite
        return False

    proxy.swallow = look
    return lambda: bool(lost)


async def recover(store: TieredTier) -> None:
    """As after a lost answer, and wait until Redis is used again."""
    store._link.open_circuit("a test")
    await poll(lambda: store._link.is_usable)


async def test_bodies_are_looked_through_once_per_run_of_the_server(open_store, proxy, redis):
    """A busy node has a hundred thousand: after a lost answer the record says what is different."""
    chunk = make_chunk()
    async with open_store() as store:
        assert (await store.put(chunk, 1)).tier == "redis"
        walks = count_of_walks(proxy)
        await recover(store)
        assert walks() == 0
        redis.kill()
        redis.start()
        await recover(store)
        assert walks() == 1
        await recover(store)
        assert walks() == 1
        store._recovery.learn_again()
        await recover(store)
        assert walks() == 2
        assert await store.get(chunk.digest) == chunk.body()


async def test_deletes_that_are_forgotten_have_the_bodies_looked_through(open_store, proxy, stranger, monkeypatch):
    """While Redis is away more copies may become garbage than memory keeps."""
    monkeypatch.setattr(recovery, "_MAX_PENDING_DELETES", 1)
    chunks = [make_chunk(), make_chunk()]
    async with open_store() as store:
        await stranger.mset({f"trivet:chunk:{chunk.digest}": chunk.body() for chunk in chunks})
        walks = count_of_walks(proxy)
        store._recovery.defer_deletes([chunk.digest for chunk in chunks])
        await recover(store)
        assert walks() == 1
        assert not await stranger.exists(*[f"trivet:chunk:{chunk.digest}" for chunk in chunks])


async def test_a_flush_whose_end_was_not_heard_leaves_copies_that_are_known(open_store, proxy, stranger):
    """The record names them no more: a body that nobody names would stay in Redis for ever."""
    chunk = make_chunk()
    async with open_store() as store:
        assert (await store.put(chunk, 1)).tier == "redis"
        is_lost = lose_answer(proxy, b":1\r\n", to=b"ZREM")
        assert [held.digest for held in await store.list_chunks("", "", 10)] == [chunk.digest]
        assert is_lost()
        assert await stranger.zscore("trivet:record", chunk.digest) is None
        walks = count_of_walks(proxy)
        store._recovery.request_reconciliation()
        assert not store._link.is_usable
        await poll(lambda: store._link.is_usable)
        assert walks() == 0
        assert (await store.statuses())[1].chunk_count == 1
        assert await store.delete(chunk.digest)
        assert not await stranger.exists(f"trivet:chunk:{chunk.digest}")


async def test_a_promoted_copy_whose_answer_was_not_heard_is_dropped(open_store, proxy, stranger):
    """It is in Redis, and nobody would ever evict it."""
    chunk = make_chunk()
    async with open_store() as store:
        await store.put_many([ChunkPut(chunk, 1)], yields=True)  # to disk at once
        is_lost = lose_answer(proxy, b"+OK\r\n", to=b"SET")
        for _ in range(2):
            assert await store.get(chunk.digest) == chunk.body()
        await poll(lambda: store._recovery._pending_deletes)
        assert is_lost()
        assert await stranger.exists(f"trivet:chunk:{chunk.digest}")
        store._recovery.request_reconciliation()
        await poll(lambda: store._link.is_usable)
        assert not await stranger.exists(f"trivet:chunk:{chunk.digest}")
