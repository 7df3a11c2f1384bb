"""Confirmations that age are asked for again: in batches, once, within bounds, and what is missing is put back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from blake3 import blake3

from services.gateway.replicas.confirmations import Confirmations
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.reader import ReplicaReader
from services.gateway.replicas.refresh import MAX_BATCH, MAX_QUEUED, ConfirmationRefresh
from services.gateway.replicas.repair import ReadRepair, Repair
from shared.background_tasks import BackgroundTasks
from shared.byte_budget import ByteBudget
from shared.units import MIB
from tests.unit.gateway.fakes import FakeNodes, node_map, unreachable
from tests.waiting import wait_until

NODE_MAP = node_map("a", "b", "c")
NODE_A, NODE_B, _ = NODE_MAP.nodes


class Bench:
    """A refresh over fake nodes a, b and c that all hold the chunks, under the fence 3."""

    def __init__(self, tasks: BackgroundTasks) -> None:
        self.nodes = FakeNodes()
        self.nodes.fences = dict.fromkeys("abc", 3)
        self.memory = Confirmations(max_age_s=60)
        self.health = NodeHealth(self.nodes, tasks, reconnect_base_s=1000, reconnect_limit_s=1000)
        reader = ReplicaReader(self.nodes, self.health, self.memory, timeout_s=1)
        self.repair = ReadRepair(self.nodes, reader, ByteBudget(MIB), tasks, replica_count=3, timeout_s=1)
        self.refresh = ConfirmationRefresh(
            self.nodes, self.health, self.memory, self.repair, tasks, timeout_s=0.3, gather_s=0.01
        )

    def chunks(self, count: int) -> list[str]:
        """Digests of that many chunks, held by every node and confirmed half a minute ago."""
        bodies = {blake3(body).hexdigest(): body for body in (number.to_bytes(8) for number in range(count))}
        for name in "abc":
            self.nodes.of(name).update(bodies)
            self.memory.confirm(name, bodies, 3, time.monotonic())
        return list(bodies)

    def ask(self, digest: str, node=NODE_A) -> None:
        self.refresh.ask(Repair(digest, 8, node, NODE_MAP, start_index=1))

    async def until_done(self) -> None:
        await wait_until(lambda: self.refresh.statistics()["queued"] == 0, "all asked", 10)

    def age_s(self, digest: str, node=NODE_A) -> float | None:
        found = self.memory.holders(digest, [node])
        return found[0].age_s if found else None


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with BackgroundTasks() as tasks:
        yield Bench(tasks)


async def test_many_chunks_are_asked_about_in_few_requests(bench) -> None:
    """Of each node on its own; a confirmation is as old as the question."""
    digests = bench.chunks(MAX_BATCH + 1)
    began_s = time.monotonic()
    for digest in digests:
        bench.ask(digest)
        bench.ask(digest)
        bench.ask(digest, NODE_B)
    await bench.until_done()
    assert dict(bench.nodes.calls) == {("has", "a"): 2, ("has", "b"): 2}
    assert bench.nodes.most_under_way == 1
    assert bench.refresh.statistics()["asked"] == 2 * len(digests)
    limit_s = time.monotonic() - began_s
    assert all((bench.age_s(digest, node) or 0) <= limit_s for digest in digests for node in (NODE_A, NODE_B))


async def test_one_that_is_missing_is_forgotten_and_put_back(bench) -> None:
    """The others of the same batch are confirmed."""
    missing, held = bench.chunks(2)
    del bench.nodes.of("a")[missing]
    bench.nodes.hanging.add("b")  # so that the repair waits, and what is remembered before it can be seen
    bench.ask(missing)
    bench.ask(held)
    await bench.until_done()
    assert bench.age_s(missing) is None
    assert bench.age_s(held) is not None
    await wait_until(lambda: missing in bench.nodes.of("a"), "put back", 10)


async def test_more_than_the_limit_are_dropped(bench) -> None:
    """They grow too old, and then a read asks itself."""
    digests = bench.chunks(MAX_QUEUED + 1)
    for digest in digests:
        bench.ask(digest)
    assert bench.refresh.statistics()["queued"] == MAX_QUEUED
    await bench.until_done()
    assert bench.refresh.statistics()["asked"] == MAX_QUEUED


@pytest.mark.parametrize("is_hanging", [False, True])
async def test_a_node_that_does_not_answer_holds_up_no_other(bench, is_hanging) -> None:
    """Nothing of it is confirmed, and its failure counts for its circuit."""
    first, second = bench.chunks(2)
    if is_hanging:
        bench.nodes.hanging.add("a")
    else:
        bench.nodes.errors["a"] = unreachable("a")
    bench.ask(first)
    bench.ask(second, NODE_B)
    await bench.until_done()
    assert bench.nodes.calls["has", "b"] == 1
    assert is_hanging or not bench.health.is_circuit_closed("a")


async def test_it_begins_anew_after_it_has_ended(bench) -> None:
    """One worker, for as long as there is something to do."""
    first, second = bench.chunks(2)
    bench.ask(first)
    await bench.until_done()
    await asyncio.sleep(0)
    bench.ask(second)
    await bench.until_done()
    assert bench.nodes.calls["has", "a"] == 2
