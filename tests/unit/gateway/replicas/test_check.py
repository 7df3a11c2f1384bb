"""A census of many chunks: complete, in few questions, and never at the cost of everybody else."""

from __future__ import annotations

import asyncio

from blake3 import blake3

from services.gateway.replicas.check import ReplicaCensus
from services.gateway.replicas.health import NodeHealth
from shared.background_tasks import BackgroundTasks
from tests.unit.gateway.fakes import FakeNodes, node_map

CHUNK_COUNT = 20_000


async def test_a_census_of_the_longest_files_lets_others_have_their_turn() -> None:
    """While it is planned, at most 128 chunks are placed per turn of the loop."""
    nodes = FakeNodes()
    digests = [blake3(number.to_bytes(8)).hexdigest() for number in range(CHUNK_COUNT)]
    for node_id in ("a", "b", "c"):
        nodes.chunks[node_id] = dict.fromkeys(digests, b"")
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with BackgroundTasks() as tasks:
        health = NodeHealth(nodes, tasks, reconnect_base_s=1000, reconnect_limit_s=1000)
        other = tasks.start("another request", count_turns())
        census = await ReplicaCensus(nodes, health).take(digests, node_map("a", "b", "c"), wanted=3, presumed={})
        other.cancel()
    assert all(census.holders[digest] == {"a", "b", "c"} for digest in digests)
    assert sum(nodes.calls.values()) == 3, "one question per node"
    assert turns >= CHUNK_COUNT / 128
