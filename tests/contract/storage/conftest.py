"""Every implementation of the tier Protocol, made ready for the same tests."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis import Redis

from services.storage.disk.free_space import FreeSpace
from services.storage.disk.tier import DiskTier, prepare_folder
from services.storage.metrics import StorageMetrics
from services.storage.ports import Tier
from services.storage.redis_node.link import RedisAddress, RedisLink
from services.storage.redis_node.server_config import USERNAME
from services.storage.redis_node.tier import RedisTier
from services.storage.tiered.tier import TieredTier
from shared.units import KIB, MIB
from tests.integration.storage.support import REDIS_PASSWORD, RedisServer
from tests.unit.storage.fake_tier import FakeTier

KINDS = ["disk", "redis", "tiered", "tiered-without-redis", "fake"]
SMALL_LIMIT_BYTES = 64 * KIB


@dataclass
class Bench:
    """A tier under test; `reopen` closes it and opens another on the same data (the fake only lives on)."""

    kind: str
    tier: Tier
    reopen: Callable[[], Awaitable[Tier]]
    damage: Callable[[str], Any]
    start_index_of: Callable[[str], int]


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def bench(kind: str, tmp_path: Path, shared_redis: RedisServer) -> AsyncIterator[Bench]:
    with Redis.from_url(shared_redis.url, password=REDIS_PASSWORD) as server:
        server.flushall()
        stacks: list[AsyncExitStack] = []
        prepare_folder(tmp_path)

        async def reopen() -> Tier:
            if bench.kind == "fake":
                return bench.tier
            await stacks.pop().aclose()
            bench.tier = await enter(build(kind, tmp_path, shared_redis))
            return bench.tier

        async def enter(tier: Any) -> Any:
            stacks.append(AsyncExitStack())
            return tier if kind == "fake" else await stacks[-1].enter_async_context(tier)

        bench = Bench(kind, await enter(build(kind, tmp_path, shared_redis)), reopen, lambda _: None, lambda _: 0)
        bench.damage = lambda digest: damage(bench, tmp_path, server, digest)
        bench.start_index_of = lambda digest: start_index_of(bench, tmp_path, server, digest)
        yield bench
        for stack in stacks:
            await stack.aclose()


def build(kind: str, root: Path, redis: RedisServer) -> Any:
    if kind == "fake":
        return FakeTier()
    metrics = StorageMetrics(CollectorRegistry())
    space = FreeSpace(root, None, 99)
    disk = DiskTier(root, space=space, metrics=metrics, small_limit_bytes=SMALL_LIMIT_BYTES)
    if kind == "disk":
        return disk
    url = "redis://127.0.0.1:1/0" if kind == "tiered-without-redis" else redis.url
    address = RedisAddress(url, REDIS_PASSWORD, "contract/test", root / "redis-claimed", root / "redis-limit", USERNAME)
    # A busy test machine is no hung Redis.
    link = RedisLink(address, deadline_s=2.0, metrics=metrics)
    if kind == "redis":
        return RedisTier(link, metrics=metrics, unlimited_bytes=8 * MIB)
    return TieredTier(
        disk, link, metrics=metrics, read_cache_bytes=8 * MIB, write_behind_bytes=4 * MIB, flush_interval_s=0.05
    )


def damage(bench: Bench, root: Path, server: Redis, digest: str) -> None:
    """Change a byte of every replica that the tier may have."""
    if bench.kind == "fake":
        body = bench.tier.bodies[digest]
        bench.tier.verified.discard(digest)
        bench.tier.bodies[digest] = bytes([body[0] ^ 1]) + body[1:]
        return
    if server.exists(f"trivet:chunk:{digest}"):
        server.setrange(f"trivet:chunk:{digest}", 0, b"\x00\x01\x02")
    path = root / "chunks" / digest[:2] / digest
    if path.exists():
        path.write_bytes(b"\x00\x01\x02" + path.read_bytes()[3:])
    if (root / "catalog.sqlite").exists():
        with sqlite3.connect(root / "catalog.sqlite") as sql:
            # Not a fixed byte: one chunk in 256 begins with it, and would not be damaged.
            rows = sql.execute(
                "SELECT id, body FROM packed WHERE id = (SELECT packed_id FROM chunks WHERE digest = ?)",
                (bytes.fromhex(digest),),
            ).fetchall()
            for packed_id, body in rows:
                sql.execute("UPDATE packed SET body = ? WHERE id = ?", (bytes([body[0] ^ 1]) + body[1:], packed_id))
        sql.close()


def start_index_of(bench: Bench, root: Path, server: Redis, digest: str) -> int:
    """The largest start index that is durable for the chunk."""
    if bench.kind == "fake":
        return bench.tier.recorded[digest]
    found = [int(server.zscore("trivet:record", digest) or -1)]
    with sqlite3.connect(root / "catalog.sqlite") as sql:
        rows = sql.execute("SELECT start_index FROM chunks WHERE digest = ?", (bytes.fromhex(digest),))
        found.extend(index for (index,) in rows)
    sql.close()
    return max(found)
