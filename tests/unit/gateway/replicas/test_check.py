"""A check of many chunks: complete, in few requests, without holding up the event loop."""

from __future__ import annotations

import asyncio
import time

from blake3 import blake3

from services.gateway.replicas.check import ReplicaChecker
from services.gateway.replicas.confirmations import Confirmations
from services.gateway.replicas.health import NodeHealth
from shared.background_tasks import BackgroundTasks
from tests.unit.gateway.fakes import FakeNodes, node, node_map, unreachable
from tests.waiting import wait_until

CHUNK_COUNT = 20_000
DIGEST = "d" * 64


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
        check = await ReplicaChecker(nodes, health, Confirmations(max_age_s=60), replica_count=3).check(
            digests, node_map("a", "b", "c"), wanted=3, presumed={}
        )
        other.cancel()
    assert all(check.holders[digest] == {"a", "b", "c"} for digest in digests)
    assert sum(nodes.calls.values()) == 3, "one request per node"
    assert steps >= CHUNK_COUNT / 128


async def test_what_a_node_with_an_open_circuit_confirmed_does_not_count() -> None:
    """A probe that was answered since closes no circuit: the node is asked, and an answer does."""
    nodes, memory = FakeNodes(), Confirmations(max_age_s=60)
    nodes.fences = dict.fromkeys("abc", 3)
    for node_id in "abc":
        nodes.of(node_id)[DIGEST] = b"x"
        memory.confirm(node_id, [DIGEST], 3, time.monotonic())
    async with BackgroundTasks() as tasks:
        health = NodeHealth(nodes, tasks, reconnect_base_s=0.001, reconnect_limit_s=0.001)
        checker = ReplicaChecker(nodes, health, memory, replica_count=3)
        nodes.errors["b"] = unreachable("b")
        health.failed(node("b"), nodes.errors["b"])
        first = await checker.check([DIGEST], node_map("a", "b", "c"), wanted=3, presumed={})
        del nodes.errors["b"]
        await wait_until(lambda: not health.statistics()["b"], "the circuit is half-open")
        second = await checker.check([DIGEST], node_map("a", "b", "c"), wanted=3, presumed={})
        third = await checker.check([DIGEST], node_map("a", "b", "c"), wanted=3, presumed={})
    assert first.holders[DIGEST] == {"a", "c"}
    assert second.holders[DIGEST] == third.holders[DIGEST] == {"a", "b", "c"}
    assert [len(check.remembered) for check in (first, second, third)] == [2, 2, 3]
    assert nodes.calls["has", "b"] == 2
    assert checker.statistics() == {"remembered": 7, "asked": 2}
