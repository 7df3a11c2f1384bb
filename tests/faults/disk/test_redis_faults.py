"""D19 to D21: this node's Redis dies, hangs, is full or is emptied. It costs speed, and what was lost with it is said."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from redis.asyncio import Redis

from shared.units import MIB
from tests.chance import random_bytes
from tests.faults.disk.node_on_disk import PATIENT
from tests.integration.storage.support import REDIS_PASSWORD, ChunkClient, RedisServer, digest_of, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

_REQUESTS = 200


async def small_requests(client: ChunkClient) -> list[float]:
    """Seconds of each of many small puts and reads, four at a time; sorted."""
    took: list[float] = []

    async def some() -> None:
        for _ in range(_REQUESTS // 8):
            body = random_bytes(4096)
            for request in (client.put(body), client.get(digest_of(body))):
                began = time.monotonic()
                await request
                took.append(time.monotonic() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(some())
    return sorted(took)


def p99(took: list[float]) -> float:
    return took[len(took) * 99 // 100]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
async def test_a_redis_that_is_gone_costs_speed_and_no_request(number, start_node, redis, client_of):
    """Not one failure; the breaker opens after at most five deadlines of 50 ms, and then the disk is as quick as a disk is."""
    node = start_node(mode="tiered", redis=redis)
    client = client_of(node)
    wait_until(lambda: not any("redis" in reason for reason in node.reasons()), "redis is used")
    healthy = await small_requests(client)
    redis.signal(number)
    first = await small_requests(client)
    later = await small_requests(client)
    timeouts = await client.metric('trivet_storage_redis_failures_total{reason="timeout"}')
    others = await client.metric('trivet_storage_redis_failures_total{reason="connection"}')
    figures = [f"{1000 * seconds:.1f}" for seconds in (p99(healthy), first[-1], p99(later))]
    print(
        f"p99 before {figures[0]} ms, slowest at once {figures[1]} ms, p99 later {figures[2]} ms, {timeouts} timeouts"
    )
    assert timeouts <= 5
    assert timeouts + others >= 1
    # What a disk takes for a small chunk is some milliseconds; the floor is what a busy test machine adds.
    assert p99(later) <= max(3 * p99(healthy), 0.25)


async def test_a_redis_of_three_megabytes_takes_what_it_can_and_the_disk_the_rest(tmp_path, start_node, client_of):
    """Every put succeeds while Redis answers OOM, and the counter says that it did."""
    redis = RedisServer(tmp_path / "tiny", maxmemory="3mb")
    redis.start()
    try:
        node = start_node(mode="tiered", redis=redis, extra=PATIENT | {"TRIVET_FLUSH_INTERVAL_S": "0.2"})
        client = client_of(node)
        bodies = [random_bytes(30_000) for _ in range(300)]
        for start in range(0, len(bodies), 6):
            await asyncio.gather(*(client.put(body) for body in bodies[start : start + 6]))
        assert len(await client.has([digest_of(body) for body in bodies])) == len(bodies)
        for body in bodies:
            assert await client.get(digest_of(body)) == body
        assert await client.metric('trivet_storage_redis_failures_total{reason="full"}') > 0
        async with Redis.from_url(redis.url, password=REDIS_PASSWORD) as stranger:
            assert (await stranger.info("memory"))["used_memory"] < 3.5 * MIB
    finally:
        redis.kill()


async def test_what_was_lost_with_an_emptied_redis_is_not_claimed(start_node, redis, client_of):
    """Emptied, and the node crashed before its flush: then a node has lost what it acknowledged, and it says so."""
    node = start_node(mode="tiered", redis=redis, extra=PATIENT | {"TRIVET_FLUSH_INTERVAL_S": "3600"})
    client = client_of(node)
    kept, lost = random_bytes(200_000), random_bytes(4096)
    await client.put(kept)
    stored = await client.put(lost)
    assert stored["tier"] == "redis"
    async with Redis.from_url(redis.url, password=REDIS_PASSWORD) as stranger:
        await stranger.flushall()
    node.kill()
    node.start()
    client = client_of(node)
    assert await client.has([digest_of(kept), digest_of(lost)]) == [digest_of(kept)]
    assert await client.metric("trivet_storage_redis_emptied_total") == 1
    assert "redis was emptied" in node.log.read_text()
