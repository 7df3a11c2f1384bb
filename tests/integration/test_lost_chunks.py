"""A node that finds its own replica bad takes it back from its peers, by itself, as real processes."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx
import pytest
from blake3 import blake3

from local_cluster.cluster import Cluster
from shared.errors import ChunkCorruptError, ChunkNotFoundError
from shared.peer_calls.http_client import PeerClient, proved_by_name
from shared.units import KIB, MIB
from tests.integration.storage.support import poll

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

DEADLINE_S = 60.0
NODES = ("storage-1", "storage-2", "storage-3")


def large_file_of(cluster: Cluster, node: str, digest: str) -> Path:
    return cluster.layout.data_dir(node) / "chunks" / digest[:2] / digest


async def read(cluster: Cluster, client: PeerClient, node: str, digest: str) -> bytes | None:
    """The node's own replica; None when it has none."""
    try:
        answer = await client.request(
            cluster.peer(node), "GET", f"/v1/chunks/{digest}", timeout_s=10, covered=proved_by_name
        )
    except ChunkNotFoundError:
        return None
    return bytes(answer.content)


async def until_back(cluster: Cluster, client: PeerClient, node: str, chunks: dict[str, bytes]) -> None:
    for digest, body in chunks.items():

        async def is_back(digest: str = digest, body: bytes = body) -> bool:
            found = await read(cluster, client, node, digest)
            assert found in {None, body}
            return found is not None

        await poll(is_back, DEADLINE_S)


async def status_of(cluster: Cluster, client: PeerClient, node: str) -> dict:
    return (await client.request(cluster.peer(node), "GET", "/v1/status", timeout_s=10)).json()


async def test_a_damaged_and_a_vanished_chunk_come_back_from_the_peers(
    cluster: Cluster, gateway: httpx.Client, bucket: str, seed: int
) -> None:
    """Flipped bytes are refused, and a little later the same node serves the right ones; likewise after a restart."""
    source = random.Random(seed)
    bodies = [source.randbytes(size) for size in (MIB, 300 * KIB)]
    for number, body in enumerate(bodies):
        stored = await asyncio.to_thread(gateway.put, f"/v1/files/{bucket}/{number}", content=body)
        assert stored.status_code == 201
    chunks = {blake3(body).hexdigest(): body for body in bodies}
    flipped, vanished = chunks
    async with PeerClient(cluster.keys) as client:
        # N = 3 and three nodes: each of them gets every chunk, the third maybe after the answer.
        for node in NODES:
            await until_back(cluster, client, node, chunks)
        path = large_file_of(cluster, "storage-2", flipped)
        path.write_bytes(bytes([bodies[0][0] ^ 1]) + bodies[0][1:])
        with pytest.raises(ChunkCorruptError):
            await read(cluster, client, "storage-2", flipped)
        await until_back(cluster, client, "storage-2", {flipped: bodies[0]})
        await cluster.stop(["storage-2"])
        large_file_of(cluster, "storage-2", vanished).unlink()
        await cluster.start()
        await until_back(cluster, client, "storage-2", chunks)
        status = await status_of(cluster, client, "storage-2")
        assert status["refetch"]["lost_chunks"] == 0
        # By the loop for lost chunks or by that for missing ones, whichever came first.
        assert status["refetch"]["fetched_chunks"] <= 1
        assert 0 <= status["scrub"]["progress"] <= 1
