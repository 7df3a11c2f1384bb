"""What the gateway expects of storage nodes, held against real processes and against the fake that its unit tests use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.gateway.ports import ChunkNodes, FileChunk, HeldChunks, ReadChunk
from services.gateway.replicas.storage_client import StorageClient
from shared.cluster_keys import derive_peer_keys
from shared.contracts.cluster import NodeState, StorageNode
from shared.errors import ChunkNotFoundError, DigestMismatchError, PeerUnreachableError
from shared.peer_calls.http_client import PeerClient
from shared.roles import Role
from shared.units import GIB, MIB
from tests.integration.storage.support import SECRET, StorageProcess
from tests.unit.gateway.fakes import FakeNodes, node, unreachable


@dataclass
class Subject:
    """Nodes under test: one that lives and one that does not."""

    nodes: ChunkNodes
    alive: StorageNode
    dead: StorageNode


@pytest.fixture(params=["fake", "real"])
async def subject(request, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        fake = FakeNodes()
        fake.fences["storage-1"] = 4
        fake.errors["storage-2"] = unreachable("storage-2")
        yield Subject(fake, node("storage-1"), node("storage-2"))
        return
    process = StorageProcess(tmp_path / "node", mode="disk")
    process.start()
    try:
        async with PeerClient(derive_peer_keys(SECRET, Role.GATEWAY)) as client:
            yield Subject(
                StorageClient(client, timeout_s=10),
                at(process.peer.id, process.peer.url),
                at("storage-2", "http://127.0.0.1:1"),
            )
    finally:
        process.kill()


def at(node_id: str, url: str) -> StorageNode:
    return StorageNode(id=node_id, url=url, zone="z", state=NodeState.ACTIVE, capacity_bytes=GIB)


@pytest.mark.parametrize("size_bytes", [1, 100, MIB])
async def test_a_chunk_that_was_put_is_there(subject, size_bytes) -> None:
    """Put, get and has agree, and carry the same fence; putting it again changes nothing."""
    chunk = FileChunk.of(b"x" * size_bytes)
    for _ in range(2):
        fence = await subject.nodes.put_chunk(subject.alive, chunk.digest, chunk.data, start_index=3)
    assert fence is not None
    assert await subject.nodes.get_chunk(subject.alive, chunk.digest, size_bytes) == ReadChunk(chunk.data, fence)
    for verify in (False, True):
        held = await subject.nodes.has_chunks(subject.alive, ["0" * 64, chunk.digest], verify=verify)
        assert held == HeldChunks({chunk.digest}, {chunk.digest}, fence)


async def test_many_calls_at_once_have_each_their_outcome(subject) -> None:
    """Small ones share requests: a bad put, or a chunk that is not there, fails alone, and the bytes of none get mixed up."""
    chunks = [FileChunk.of(b"%d" % number * (number * 97 + 1)) for number in range(100)]
    nodes, alive = subject.nodes, subject.alive
    puts = [nodes.put_chunk(alive, chunk.digest, chunk.data, start_index=3) for chunk in chunks]
    bad = nodes.put_chunk(alive, "1" * 64, b"other bytes", start_index=3)
    outcomes = await asyncio.gather(*puts, bad, return_exceptions=True)
    assert outcomes[:-1] == [outcomes[0]] * len(chunks), "the fence of the node"
    assert isinstance(outcomes[-1], DigestMismatchError)
    gets = [nodes.get_chunk(alive, chunk.digest, len(chunk.data)) for chunk in chunks]
    held = [nodes.has_chunks(alive, [chunk.digest]) for chunk in chunks]
    missing = nodes.get_chunk(alive, "1" * 64, 11)
    got = await asyncio.gather(*gets, missing, *held, return_exceptions=True)
    fence = outcomes[0]
    assert fence is not None
    assert got[: len(chunks)] == [ReadChunk(chunk.data, fence) for chunk in chunks]
    assert isinstance(got[len(chunks)], ChunkNotFoundError)
    assert got[len(chunks) + 1 :] == [HeldChunks({chunk.digest}, {chunk.digest}, fence) for chunk in chunks]


async def test_a_missing_chunk_is_a_typed_error(subject) -> None:
    """And `has` says so without one."""
    with pytest.raises(ChunkNotFoundError):
        await subject.nodes.get_chunk(subject.alive, "0" * 64, 1)
    held = await subject.nodes.has_chunks(subject.alive, ["0" * 64])
    assert (held.present, held.verified) == (set(), set())


async def test_bytes_under_a_wrong_name_are_refused(subject) -> None:
    """Nothing is stored under a digest that it does not have."""
    chunk = FileChunk.of(b"right")
    with pytest.raises(DigestMismatchError):
        await subject.nodes.put_chunk(subject.alive, chunk.digest, b"wrong", start_index=0)
    held = await subject.nodes.has_chunks(subject.alive, [chunk.digest])
    assert (held.present, held.verified) == (set(), set())


async def test_a_dead_node_is_unreachable_for_sure(subject) -> None:
    """A refused connection is definite: nothing can have happened there."""
    chunk = FileChunk.of(b"x")
    with pytest.raises(PeerUnreachableError) as caught:
        await subject.nodes.put_chunk(subject.dead, chunk.digest, chunk.data, start_index=0)
    assert caught.value.definite
    with pytest.raises(PeerUnreachableError):
        await subject.nodes.get_chunk(subject.dead, chunk.digest, 1)
    with pytest.raises(PeerUnreachableError):
        await subject.nodes.probe(subject.dead, timeout_s=1)
