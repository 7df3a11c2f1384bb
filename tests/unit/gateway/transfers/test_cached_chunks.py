"""Small chunks that were read are served from memory, after the log has named them, and count as no replica."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from shared.consensus_calls.client import ReadContext
from shared.contracts.metadata import Answer, AnyQuery, DeleteFile
from shared.errors import FileNotFoundInBucketError, QuorumNotReachedError
from shared.units import MIB
from tests.unit.gateway.conftest import CHUNK_SIZE_BYTES, NODES, World
from tests.unit.gateway.fakes import unreachable
from tests.unit.gateway.transfers.transfer_calls import NAME, get, is_idle, only, put


@pytest.fixture
async def caching(make_world) -> World:
    """A gateway with a cache, whose nodes give no fences: replicas are asked about each time."""
    world: World = await make_world(chunk_cache_bytes=MIB)
    return world


def calls(world: World, what: str) -> int:
    return sum(count for (kind, _), count in world.nodes.calls.items() if kind == what)


async def test_a_chunk_is_fetched_once_and_its_replicas_confirmed_each_time(caching, seed) -> None:
    """R nodes are asked for a chunk that is here, one fewer for one that a node is about to send."""
    body = random.Random(seed).randbytes(3 * CHUNK_SIZE_BYTES + 1)
    await put(caching, body)
    for count in (1, 2, 3):
        received = await get(caching)
        assert (bytes(received.body), received.confirmed) == (body, 2)
        assert calls(caching, "get") == 4, count
    assert caching.metric("trivet_gateway_chunk_cache_hits_total") == 8
    await is_idle(caching)


async def test_a_cached_chunk_is_served_only_where_the_log_names_it(caching) -> None:
    """A file that was overwritten or deleted is what the log says, whatever is remembered."""
    await put(caching, b"first")
    await get(caching)
    await put(caching, b"second")
    assert bytes((await get(caching)).body) == b"second"
    await caching.metadata.propose(DeleteFile(bucket=NAME.bucket, key=NAME.key, stamp=caching.clock.stamp()))
    with pytest.raises(FileNotFoundInBucketError):
        await get(caching)


async def test_a_cached_chunk_is_no_replica(caching) -> None:
    """With no node to confirm one it is served, because its bytes are right, and the answer says 0; a strict read fails."""
    await put(caching, b"body")
    await get(caching)
    caching.nodes.errors.update({node_id: unreachable(node_id) for node_id in NODES})
    received = await get(caching)
    assert (bytes(received.body), received.confirmed) == (b"body", 0)
    with pytest.raises(BaseException) as caught:
        await get(caching, quorums=caching.services.quorums.for_request(None, "1"))
    assert isinstance(only(caught.value), QuorumNotReachedError)


async def test_what_a_node_sent_wrong_is_not_kept(caching) -> None:
    """Only bytes that have the digest go into the cache."""
    await put(caching, b"body")
    caching.nodes.spoiled.update(NODES[:2])
    for _ in range(2):
        assert bytes((await get(caching)).body) == b"body"


async def test_a_replica_that_is_missing_is_put_back_though_the_chunk_is_cached(caching) -> None:
    """Reads from memory still find what the nodes lack."""
    version = (await put(caching, b"body")).version
    digest = version.content.digest
    await get(caching)
    await is_idle(caching)
    asked = next(node_id for (kind, node_id) in caching.nodes.calls if kind == "has")
    del caching.nodes.of(asked)[digest]
    await get(caching)
    await caching.wait_until(lambda: asked in caching.nodes.holders(digest), "read repair")


async def test_a_cache_of_another_cluster_is_not_used(caching) -> None:
    """Its answers carry another id: the chunk is fetched from a node of that cluster."""
    await put(caching, b"body")
    await get(caching)
    read = caching.metadata.read

    async def read_restored(query: AnyQuery, **options: float | None) -> tuple[Answer, ReadContext]:
        answer, context = await read(query, **options)
        return answer, replace(context, cluster_id="restored")

    caching.metadata.read = read_restored
    before = calls(caching, "get")
    await get(caching)
    assert calls(caching, "get") == before + 1


async def test_readers_at_the_same_time_end_well(caching, seed) -> None:
    """Hits, misses and evictions side by side give every reader its bytes, and all budget back."""
    body = random.Random(seed).randbytes(20 * CHUNK_SIZE_BYTES)
    await put(caching, body)
    for received in await asyncio.gather(*[get(caching) for _ in range(8)]):
        assert bytes(received.body) == body
    await is_idle(caching)
