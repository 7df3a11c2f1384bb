"""The link to a real Redis that answers nonsense, hangs in the middle or has its settings changed while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from services.storage.digests import is_whole
from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.redis_node import chunk_keys, inspection
from services.storage.redis_node import link as link_module
from services.storage.redis_node.link import RedisAddress, RedisLink
from services.storage.redis_node.server_config import USERNAME
from services.storage.redis_node.tier import RedisTier
from services.storage.tiered.tier import TieredTier
from shared.errors import ChunkCorruptError, ChunkNotFoundError, UnavailableError
from shared.units import KIB, MIB
from tests.integration.storage.redis_proxy import RedisProxy
from tests.integration.storage.support import REDIS_PASSWORD, make_chunk, poll
from tests.synced import Synced

SIZE_BYTES = 3000


@pytest.fixture
def link(tmp_path: Path, proxy: RedisProxy) -> RedisLink:
    address = RedisAddress(
        proxy.url, REDIS_PASSWORD, "link/test", tmp_path / "redis-claimed", tmp_path / "redis-limit", USERNAME
    )
    # A busy disk is no hung Redis.
    return RedisLink(address, deadline_s=1.5, metrics=StorageMetrics(CollectorRegistry()))


@pytest.fixture
async def store(tmp_path: Path, link: RedisLink) -> AsyncIterator[TieredTier]:
    prepare_folder(tmp_path)
    metrics = StorageMetrics(CollectorRegistry())
    disk = DiskTier(tmp_path, space=FreeSpace(tmp_path, None, 99), metrics=metrics, small_limit_bytes=64 * KIB)
    sizes = {"read_cache_bytes": 8 * MIB, "write_behind_bytes": 4 * MIB}
    async with TieredTier(disk, link, metrics=metrics, **sizes, flush_interval_s=3600) as found:
        yield found


@pytest.fixture
async def record(link: RedisLink) -> AsyncIterator[RedisTier]:
    async with RedisTier(link, metrics=StorageMetrics(CollectorRegistry()), unlimited_bytes=MIB) as found:
        yield found


RIGHT = b"*5\r\n$%d\r\n" % SIZE_BYTES
"""How the answer to a question for five bodies begins."""
NONSENSE = {
    "an integer for an array": RIGHT.replace(b"*", b":"),
    "an array that is too short": RIGHT.replace(b"5", b"4"),
    "an array that is too long": RIGHT.replace(b"5", b"7"),
    "an integer for a body": RIGHT.replace(b"$", b":"),
}


@pytest.mark.parametrize("answer", NONSENSE)
async def test_a_read_that_redis_answers_with_nonsense_is_answered_by_the_disk(answer, store, link, proxy):
    """One changed byte in an answer costs nothing but the use of Redis, until that was looked at again."""
    chunk = make_chunk(SIZE_BYTES)
    await store.put(chunk, 1)
    assert len(await store.list_chunks("", "", 10)) == 1  # flushed, and a copy stays in Redis
    answers = []
    proxy.rewrite = lambda found: answers.append(found) or found.replace(RIGHT, NONSENSE[answer])
    read = await asyncio.gather(*(store.get(chunk.digest) for _ in range(5)))
    assert read == [chunk.body()] * 5
    assert any(RIGHT in found for found in answers)
    proxy.rewrite = lambda found: found
    await poll(lambda: link.is_usable)
    for _ in range(20):
        assert await store.get(chunk.digest) == chunk.body()


async def test_a_put_that_redis_answers_with_nonsense_goes_to_disk(store, link, proxy):
    """Nobody's put fails for it, and what it left in Redis is put in order."""
    chunks = [make_chunk(SIZE_BYTES) for _ in range(5)]
    proxy.rewrite = lambda found: found.replace(b"*2\r\n+OK\r\n", b":2\r\n+OK\r\n")
    outcomes = await asyncio.gather(*(store.put(chunk, 1) for chunk in chunks))
    assert {outcome.tier for outcome in outcomes} == {"disk"}
    proxy.rewrite = lambda found: found
    await poll(lambda: link.is_usable)
    assert [await store.get(chunk.digest) for chunk in chunks] == [chunk.body() for chunk in chunks]
    assert (await store.put(make_chunk(SIZE_BYTES), 1)).tier == "redis"


async def test_a_redis_that_does_not_fsync_while_it_rewrites_its_file_is_not_used(link, stranger):
    """`no-appendfsync-on-rewrite yes` turns `always` into never for as long as a rewrite takes."""
    await stranger.config_set("no-appendfsync-on-rewrite", "yes")
    async with link:
        assert not await link.try_to_close_circuit(lambda: asyncio.sleep(0))
        assert "no-appendfsync-on-rewrite" in link.objection
        await stranger.config_set("no-appendfsync-on-rewrite", "no")
        assert await link.try_to_close_circuit(lambda: asyncio.sleep(0))


async def test_settings_that_change_while_redis_runs_are_noticed(record, link, stranger):
    """Redis stops fsyncing every write: within a moment it acknowledges nothing, and the node's readiness says why."""
    chunk = make_chunk(SIZE_BYTES)
    assert (await record.put(chunk, 1)).created
    await stranger.config_set("appendfsync", "everysec")
    await poll(lambda: not link.is_usable)
    assert any("appendfsync" in reason for reason in record.reasons_against_writes())
    with pytest.raises(UnavailableError) as caught:
        await record.put(make_chunk(SIZE_BYTES), 1)
    assert caught.value.definite
    await stranger.config_set("appendfsync", "always")
    await poll(lambda: link.is_usable)
    assert record.reasons_against_writes() == []
    assert await record.get(chunk.digest) == chunk.body()


async def test_a_redis_that_hangs_while_a_bad_chunk_is_dropped_costs_one_deadline(record, link, proxy):
    """The call ends in time whatever Redis has been sent so far."""
    chunk = make_chunk(SIZE_BYTES)
    await record.put(chunk, 1)
    hung = False

    def hang(request: bytes) -> bool:
        nonlocal hung
        hung = hung or b"\r\nGET\r\n" in request
        return hung

    proxy.swallow = hang
    async with asyncio.timeout(20):
        with pytest.raises(UnavailableError):
            await link.call(lambda client: chunk_keys.lose_unless(client, chunk.digest, lambda _: False), changes=True)


async def test_a_chunk_that_was_replaced_meanwhile_is_not_dropped(record, link, redis):
    """Between the look at bad bytes and their removal somebody stores good ones: those stay, and nothing is lost."""
    chunk = make_chunk(SIZE_BYTES)
    await record.put(chunk, 1)
    key = f"trivet:chunk:{chunk.digest}"
    with BlockingRedis.from_url(redis.url, password=REDIS_PASSWORD) as other:
        other.set(key, b"bad bytes")

        def replace(body: bytes) -> bool:
            other.set(key, chunk.body())
            return is_whole(body, chunk.digest)

        assert not await link.call(lambda client: chunk_keys.lose_unless(client, chunk.digest, replace))
    assert await record.get(chunk.digest) == chunk.body()
    assert await link.call(lambda client: chunk_keys.lose_unless(client, chunk.digest, lambda _: False))
    assert [lost.digest for lost in await record.list_lost("", 10)] == [chunk.digest]


async def test_an_absent_chunk_is_never_called_corrupt(record, proxy):
    """Redis hangs while it is asked whether the chunk should be there: that is unknown, and not a bad replica."""
    proxy.swallow = lambda request: b"EVAL" in request
    with pytest.raises(UnavailableError) as caught:
        await record.get("ab" * 32)
    assert not isinstance(caught.value, ChunkCorruptError)
    proxy.swallow = lambda _: False
    with pytest.raises(ChunkNotFoundError):
        await record.get("ab" * 32)


async def test_the_user_of_a_node_may_do_nothing_but_what_the_node_does(proxy, redis):
    """A stolen password changes no settings, runs no scripts of others and reads no foreign keys."""
    async with Redis.from_url(redis.url, username=USERNAME, password=REDIS_PASSWORD) as user:
        assert await user.set("trivet:chunk:x", b"1")
        for command in (
            ("CONFIG", "SET", "appendfsync", "no"),
            ("FLUSHALL",),
            ("GET", "foreign"),
            ("SET", "foreign", "1"),
            ("KEYS", "*"),
            ("SHUTDOWN", "NOSAVE"),
            ("EVAL", "return redis.call('FLUSHALL')", "0"),
            ("EVAL", "return redis.call('GET', KEYS[1])", "1", "foreign"),
            ("ACL", "LIST"),
            ("CLIENT", "KILL", "TYPE", "normal"),
            ("MONITOR",),
        ):
            with pytest.raises(ResponseError, match=r"permission|ACL failure"):
                await user.execute_command(*command)


async def test_a_client_that_reads_no_answers_is_cut_off(redis):
    """Before it fills the memory of the server."""
    reader, writer = await asyncio.open_connection("127.0.0.1", redis.port)
    writer.write(b"AUTH %s\r\n" % REDIS_PASSWORD.encode())
    assert b"OK" in await reader.readline()
    writer.write(b"SET big %s\r\n" % (b"x" * 60_000))
    assert b"OK" in await reader.readline()
    writer.write(b"GET big\r\n" * 4000)  # 240 MB of answers, of which a stream buffers little
    with BlockingRedis.from_url(redis.url, password=REDIS_PASSWORD) as other:
        await poll(lambda: other.info("stats")["client_output_buffer_limit_disconnections"] > 0)
    writer.transport.abort()


@pytest.fixture
def weakness(monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said of the server's version."""
    monkeypatch.setattr(inspection, "weakness", lambda info: f"{info['tcp_port']} has known security holes")
    return "has known security holes"


async def test_a_server_with_known_holes_is_used_and_named(weakness, store):
    """Distributions mend under old numbers: it is a word to the operator and no refusal."""
    assert (await store.put(make_chunk(SIZE_BYTES), 1)).tier == "redis"
    (found,) = store.degradations()
    assert weakness in found


async def test_a_server_with_known_holes_is_named_where_it_is_all_there_is(weakness, record):
    """In mode `redis`, too."""
    assert (await record.put(make_chunk(SIZE_BYTES), 1)).created
    (found,) = record.degradations()
    assert weakness in found


async def test_that_a_server_was_claimed_is_durable_before_the_server_knows(tmp_path, link, monkeypatch):
    """Else a power cut between the two, and an emptied server would pass for a new one; this process knows it at once, too."""
    synced, kept = Synced(monkeypatch), []
    real = link_module.claim

    async def claim(client, owner):
        kept.append(synced.is_kept(tmp_path / "redis-claimed"))
        return await real(client, owner)

    async def nothing_to_recover() -> None:
        return

    monkeypatch.setattr(link_module, "claim", claim)
    async with link:
        await link.start(nothing_to_recover)
        assert kept == [True]
        assert link.was_used_before


async def test_the_memory_limit_of_redis_is_known_while_it_is_away(tmp_path, redis, link, record):
    """What a node weighs in placement must not follow the crashes of its Redis: a new process reads it from a file."""
    assert link.limit_bytes == 64 * MIB
    address = RedisAddress(
        "redis://127.0.0.1:1/0", None, "link/test", tmp_path / "redis-claimed", tmp_path / "redis-limit"
    )
    again = RedisLink(address, deadline_s=0.5, metrics=StorageMetrics(CollectorRegistry()))
    assert again.limit_bytes == 64 * MIB
    assert again.was_used_before
