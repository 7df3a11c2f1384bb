"""Fixtures that start and stop the real processes of tests/integration/storage/support.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.integration.storage.redis_proxy import RedisProxy
from tests.integration.storage.support import REDIS_PASSWORD, ChunkClient, RedisServer, StorageProcess


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def proxy(redis: RedisServer) -> AsyncIterator[RedisProxy]:
    """Before `redis`: what it holds back or changes is nobody's fault but the wire's."""
    async with RedisProxy(redis) as found:
        yield found


@pytest.fixture
async def stranger(redis: RedisServer) -> AsyncIterator[Redis]:
    """A client of `redis` that knows nothing of the node."""
    async with Redis.from_url(redis.url, password=REDIS_PASSWORD) as client:
        yield client


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., StorageProcess]]:
    nodes: list[StorageProcess] = []

    def start(**facts: object) -> StorageProcess:
        node = StorageProcess(tmp_path / f"node-{len(nodes)}", **facts)
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        node.kill()


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[[StorageProcess], ChunkClient]]:
    async with AsyncExitStack() as stack:

        def make(node: StorageProcess) -> ChunkClient:
            client = ChunkClient(node)
            stack.push_async_callback(client.peers.aclose)
            return client

        yield make
