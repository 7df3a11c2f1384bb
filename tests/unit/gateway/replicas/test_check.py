"""A check of many chunks: complete, in few requests, without holding up the event loop."""

from __future__ import annotations

import asyncio

from blake3 import blake3

from services.gateway.replicas.check import ReplicaChecker
from services.gateway.replicas.health import NodeHealth
from shared.background_tasks import BackgroundTasks
from tests.unit.gateway.fakes import FakeNodes, node_map

CHUNK_COUNT = 20_000


async def test_a_check_of_the_longest_files_lets_other_requests_run() -> None:
    """While it is planned, at most 128 chunks are placed per step of the loop."""
    nodes = FakeNodes()
    digests = [blake3(number.to_bytes(8)).hexdigest() for number in range(CHUNK_COUNT)]
    for node_id in ("a", "b", "c"):
        nodes.chunks[node_id] = dict.fromkeys(digests, b"")
    steps = 0

    async def count_steps() -> None:
        nonlocal steps
        while True:
            steps += 1
            await asyncio.sleep(0)

    async with BackgroundTasks() as tasks:
        health = NodeHealth(nodes, tasks, reconnect_base_s=1000, reconnect_limit_s=1000)
        other = tasks.start("another request", count_steps())
        check = await ReplicaChecker(nodes, health).check(digests, node_map("a", "b", "c"), wanted=3, presumed={})
        other.cancel()
    assert all(check.holders[digest] == {"a", "b", "c"} for digest in digests)
    assert sum(nodes.calls.values()) == 3, "one request per node"
    assert steps >= CHUNK_COUNT / 128
