"""D1: a storage node loses power under load, again and again, and has every chunk that it ever acknowledged."""

from __future__ import annotations

import random

import pytest

from shared.units import GIB
from tests.chance import random_bytes
from tests.faults.disk.chunk_load import ChunkLoad
from tests.faults.disk.node_on_disk import NodeOnDisk
from tests.integration.storage.support import ChunkClient, digest_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("mode", ["tiered", "disk"])
async def test_a_node_that_loses_power_has_every_chunk_that_it_acknowledged(mode, mounts, seed, repetitions):
    """Cut in mid-load; after each return every acknowledged chunk is claimed, and is right when it is read."""
    draw = random.Random(seed)
    machine = NodeOnDisk(mounts, mounts.loop_disk(2 * GIB), mode, TRIVET_FLUSH_INTERVAL_S="0.3")
    load = ChunkLoad(seed)
    cuts = repetitions(4, 100)
    for _ in range(cuts):
        async with load.running(machine.node):
            await load.wait_for_more(draw.randrange(5, 80))
            await machine.lose_power()
        machine.start()
        await load.check(machine.node, sample=50)
        await load.check_deleted(machine.node)
    await load.check(machine.node)
    print(f"{cuts} cuts, {len(load.held)} chunks held, {len(load.deleted)} deleted, {len(load.refusals)} refused")


@pytest.mark.parametrize("size_bytes", [4096, 300_000], ids=["packed", "file"])
async def test_a_chunk_deleted_just_before_a_power_cut_stays_deleted(size_bytes, mounts):
    """The acknowledgement of a deletion is as durable as that of a put."""
    machine = NodeOnDisk(mounts, mounts.loop_disk(GIB), "disk")
    client = ChunkClient(machine.node)
    try:
        bodies = [random_bytes(size_bytes) for _ in range(5)]
        for body in bodies:
            await client.put(body)
        for body in bodies:
            await client.delete(digest_of(body))
        await machine.lose_power()
    finally:
        await client.peers.aclose()
    machine.start()
    client = ChunkClient(machine.node)
    try:
        assert await client.has([digest_of(body) for body in bodies]) == []
    finally:
        await client.peers.aclose()
