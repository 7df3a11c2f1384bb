"""One chunk to its nodes: counted at W, replaced when slow or failed, never waiting longer than it must."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from services.gateway.ports import FileChunk, LeasedChunk
from services.gateway.replicas import writer as replica_writer
from services.gateway.replicas.confirmations import Confirmations
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.quorum import Quorums
from services.gateway.replicas.writer import ChunkWrite, ReplicaWriter, ReplicaWriterLimits, WriteOutcomes
from shared.background_tasks import BackgroundTasks
from shared.byte_budget import ByteBudget, ByteLease
from shared.errors import DiskFullError, InternalError, OverloadedError, QuorumNotReachedError
from tests.simulation.virtual_loop import VirtualLoop
from tests.unit.gateway.fakes import FakeNodes, node, unreachable
from tests.waiting import wait_until

pytestmark = pytest.mark.virtual_time

CHUNK = FileChunk.of(b"some bytes")
QUORUMS = Quorums(replica_count=3, write_quorum=2, read_quorum=2)


class Bench:
    """A writer over fake nodes."""

    def __init__(self, tasks: BackgroundTasks) -> None:
        self.nodes = FakeNodes()
        self.tasks = tasks
        self.budget = ByteBudget(1000)
        self.health = NodeHealth(self.nodes, tasks, reconnect_base_s=0.01, reconnect_limit_s=0.05)
        self.writer = ReplicaWriter(
            self.nodes, self.health, Confirmations(max_age_s=60), tasks, ReplicaWriterLimits(0.5, 4, slot_wait_s=5)
        )

    def lease(self) -> ByteLease:
        lease = self.budget.lease()
        assert lease.try_grow(len(CHUNK.data))
        return lease

    async def start(self, *node_ids: str, quorums: Quorums = QUORUMS) -> ChunkWrite:
        held = LeasedChunk(CHUNK, self.lease())
        with held:
            return await self.writer.start(held, [node(node_id) for node_id in node_ids], quorums, 7)

    async def settled(self, write: ChunkWrite) -> None:
        """The background part has ended, and with it the reservation."""
        assert write.task is not None
        await asyncio.wait_for(asyncio.wait([write.task]), 5)
        await asyncio.sleep(0)
        assert self.budget.used_bytes == 0


@pytest.fixture
async def bench(monkeypatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(replica_writer, "SLOW_FLOOR_S", 0.05)
    monkeypatch.setattr(replica_writer, "_SLOW_FACTOR", 0.0)
    async with BackgroundTasks() as tasks:
        yield Bench(tasks)


async def test_all_n_replicas_are_made(bench) -> None:
    """With every node well, N nodes have the chunk and the bytes are given back."""
    write = await bench.start("a", "b", "c", "d")
    await write.wait_until_quorum()
    assert write.tally.is_quorum_met
    await bench.settled(write)
    assert write.tally.acknowledged == {"a", "b", "c"}, "the first N of the preference list, and no others"
    assert bench.nodes.holders(CHUNK.digest) == {"a", "b", "c"}


async def test_a_write_counts_nothing_that_is_remembered(bench) -> None:
    """Nodes that acknowledged the same chunk a moment ago acknowledge it again, with the start index of this write."""
    bench.nodes.fences = dict.fromkeys("abc", 3)
    first = await bench.start("a", "b", "c")
    await bench.settled(first)
    bench.nodes.chunks.clear()
    write = await bench.start("a", "b", "c")
    await bench.settled(write)
    assert write.tally.acknowledged == bench.nodes.holders(CHUNK.digest) == {"a", "b", "c"}
    assert bench.nodes.calls["put", "a"] == 2


async def test_the_answer_does_not_wait_for_the_slowest_replica(bench) -> None:
    """W of N is enough; the third is given a grace and its bytes stay reserved until then."""
    bench.nodes.hanging.add("c")
    write = await bench.start("a", "b", "c")
    began = time.monotonic()
    await write.wait_until_quorum()
    assert time.monotonic() == began
    assert bench.budget.used_bytes == len(CHUNK.data), "the straggler still needs the bytes"
    await bench.settled(write)
    assert write.tally.acknowledged == {"a", "b"}
    assert write.tally.refusals.keys() == {"c"}


async def test_a_straggler_that_ends_in_time_still_counts(bench) -> None:
    """Durability grows after the chunk was counted."""
    bench.nodes.hanging.add("c")
    write = await bench.start("a", "b", "c")
    await write.wait_until_quorum()
    bench.nodes.released.set()
    await bench.settled(write)
    assert write.tally.acknowledged == {"a", "b", "c"}


async def test_a_failed_replica_is_replaced_by_the_next_node(bench) -> None:
    """The preference list is walked until N have it."""
    bench.nodes.errors["a"] = unreachable("a")
    write = await bench.start("a", "b", "c", "d")
    await write.wait_until_quorum()
    await bench.settled(write)
    assert write.tally.acknowledged == {"b", "c", "d"}


async def test_a_slow_replica_is_replaced_while_it_may_still_answer(bench) -> None:
    """W nodes hang: after the hedge delay others are asked, long before the hung ones time out."""
    bench.nodes.hanging |= {"a", "b"}
    write = await bench.start("a", "b", "c", "d")
    began = time.monotonic()
    await write.wait_until_quorum()
    assert time.monotonic() - began == pytest.approx(0.05)
    assert write.tally.acknowledged == {"c", "d"}
    await bench.settled(write)


async def test_a_hung_node_costs_later_chunks_nothing(bench) -> None:
    """Once it is avoided, it is not even asked."""
    bench.nodes.hanging.add("a")
    first = await bench.start("a", "b", "c")
    await first.wait_until_quorum()
    await bench.settled(first)
    asked = bench.nodes.calls["put", "a"]
    second = await bench.start("a", "b", "c")
    await second.wait_until_quorum()
    await bench.settled(second)
    assert bench.nodes.calls["put", "a"] == asked


async def test_an_avoided_node_is_used_when_nothing_else_is_left(bench) -> None:
    """The breaker is never the reason of a failure."""
    bench.nodes.errors["probe-only"] = unreachable()
    for name in ("a", "b"):
        bench.health.hung(node(name))
    write = await bench.start("a", "b", "c")
    await write.wait_until_quorum()
    assert len(write.tally.acknowledged) == 2
    await bench.settled(write)


async def test_a_node_that_comes_back_is_used_again(bench) -> None:
    """A probe readmits it within its backoff."""
    bench.nodes.errors["a"] = unreachable("a")
    first = await bench.start("a", "b", "c")
    await first.wait_until_quorum()
    await bench.settled(first)
    assert bench.health.statistics()["a"]
    del bench.nodes.errors["a"]
    await wait_until(lambda: not bench.health.statistics()["a"], "readmitted")
    second = await bench.start("a", "b", "c")
    await second.wait_until_quorum()
    await bench.settled(second)
    assert second.tally.acknowledged == {"a", "b", "c"}


async def test_a_missed_quorum_fails_soon_with_its_counts(bench) -> None:
    """Two of three nodes refuse: after short retries the upload hears why."""
    bench.nodes.errors |= {"a": unreachable("a"), "b": unreachable("b")}
    write = await bench.start("a", "b", "c")
    began = time.monotonic()
    with pytest.raises(QuorumNotReachedError) as caught:
        await write.wait_until_quorum()
    assert time.monotonic() - began < 2
    assert caught.value.facts["needed"] == 2
    assert caught.value.facts["acknowledged"] == 1
    assert caught.value.facts["outcomes"].keys() == {"a", "b"}
    assert bench.nodes.calls["put", "a"] > 1, "a momentary refusal is retried"
    await bench.settled(write)


async def test_a_momentary_refusal_is_ridden_out(bench) -> None:
    """A node that comes back between two rounds makes the quorum."""
    bench.nodes.errors |= {"a": unreachable("a"), "b": unreachable("b")}

    def heal(what: str, node_id: str) -> None:
        if what == "put" and node_id == "b" and bench.nodes.calls["put", "b"] == 2:
            del bench.nodes.errors["b"]

    bench.nodes.on_call = heal
    write = await bench.start("a", "b", "c")
    await write.wait_until_quorum()
    assert write.tally.acknowledged == {"b", "c"}
    await bench.settled(write)


async def test_hung_nodes_miss_the_quorum_within_the_timeout(bench) -> None:
    """No write waits longer than its deadline, and a bit."""
    bench.nodes.hanging |= {"a", "b"}
    write = await bench.start("a", "b", "c")
    began = time.monotonic()
    with pytest.raises(QuorumNotReachedError):
        await write.wait_until_quorum()
    assert 0.4 < time.monotonic() - began < 1.5
    await bench.settled(write)


async def test_time_in_which_we_stood_still_is_no_fault_of_the_nodes(bench) -> None:
    """Their answers are there soon after, and none of them is taken for hung."""
    bench.nodes.hanging |= {"a", "b", "c"}
    write = await bench.start("a", "b", "c")
    await asyncio.sleep(0.3)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.stand_still(60)
    await asyncio.sleep(0.1)
    bench.nodes.released.set()
    await write.wait_until_quorum()
    assert write.tally.acknowledged >= {"a", "b"}
    await bench.settled(write)


async def test_full_nodes_are_a_507_and_not_asked_again_for_a_while(bench) -> None:
    """The next chunk goes to others first."""
    bench.nodes.errors |= {"a": DiskFullError("full"), "b": DiskFullError("full")}
    write = await bench.start("a", "b", "c")
    with pytest.raises(DiskFullError):
        await write.wait_until_quorum()
    await bench.settled(write)
    asked = bench.nodes.calls["put", "a"]
    second = await bench.start("a", "c", "d", "e")
    await second.wait_until_quorum()
    await bench.settled(second)
    assert bench.nodes.calls["put", "a"] == asked


async def test_a_full_node_is_not_asked_again_for_the_same_chunk(bench) -> None:
    """Unlike one that may come back in a moment: room does not."""
    bench.nodes.errors |= {"a": DiskFullError("full"), "b": unreachable("b")}
    write = await bench.start("a", "b", "c")
    with pytest.raises(QuorumNotReachedError):
        await write.wait_until_quorum()
    await bench.settled(write)
    assert bench.nodes.calls["put", "a"] == 1
    assert bench.nodes.calls["put", "b"] > 1


async def test_an_abandoned_write_stops_and_gives_its_bytes_back(bench) -> None:
    """The client has gone: so have the attempts."""
    bench.nodes.hanging |= {"a", "b", "c"}
    write = await bench.start("a", "b", "c")
    await wait_until(lambda: bench.nodes.under_way == 3, "three attempts")
    write.abandon()
    await bench.settled(write)
    assert bench.nodes.under_way == 0
    with pytest.raises(asyncio.CancelledError):
        await write.wait_until_quorum()


async def test_a_write_abandoned_before_its_first_step_leaks_nothing(bench) -> None:
    """The task never ran, and still its slot and bytes come back."""
    for _ in range(20):
        write = await asyncio.wait_for(bench.start("a", "b", "c"), 5)
        write.abandon()
        await bench.settled(write)


async def test_a_chunk_waits_no_longer_than_it_may_for_its_turn(bench) -> None:
    """While nodes hang, those in front of it take their whole time: it is refused, and not queued for a minute."""
    bench.writer = ReplicaWriter(
        bench.nodes,
        bench.health,
        Confirmations(max_age_s=60),
        bench.tasks,
        ReplicaWriterLimits(1000, 4, slot_wait_s=0.01),
    )
    bench.nodes.hanging |= {"a", "b", "c"}
    writes = [await bench.start("a", "b", "c") for _ in range(4)]
    with pytest.raises(OverloadedError):
        await asyncio.wait_for(bench.start("a", "b", "c"), 5)
    assert bench.budget.used_bytes == 4 * len(CHUNK.data), "its bytes are given back"
    bench.nodes.released.set()
    for write in writes:
        await write.wait_until_quorum()
        await asyncio.wait([write.task])
    fifth = await bench.start("a", "b", "c")
    await fifth.wait_until_quorum()
    await bench.settled(fifth)


async def test_a_defect_of_ours_fails_the_chunk_at_once(bench) -> None:
    """Its upload hears of it, and the slot and the bytes come back."""

    def break_down(what: str, node_id: str) -> None:
        raise RuntimeError("a defect")

    bench.nodes.on_call = break_down
    write = await bench.start("a", "b", "c")
    with pytest.raises(InternalError):
        await write.wait_until_quorum()
    await bench.settled(write)


async def test_no_more_chunks_than_allowed_are_on_their_way(bench) -> None:
    """The fifth waits for one of the four."""
    bench.nodes.hanging |= {"a", "b", "c"}
    writes = [await bench.start("a", "b", "c") for _ in range(4)]
    fifth = asyncio.ensure_future(bench.start("a", "b", "c"))
    await asyncio.sleep(0.02)
    assert not fifth.done()
    bench.nodes.released.set()
    writes.append(await asyncio.wait_for(fifth, 5))
    for write in writes:
        await write.wait_until_quorum()
    for write in writes:
        await asyncio.wait([write.task])
    await asyncio.sleep(0)
    assert bench.budget.used_bytes == 0


async def test_every_way_in_which_a_write_ends_is_counted(bench) -> None:
    """All replicas, the quorum alone, not even that, and an upload that ended first: each once."""
    await bench.settled(await bench.start("a", "b", "c"))
    bench.nodes.errors["c"] = unreachable("c")
    await bench.settled(await bench.start("a", "b", "c"))
    bench.nodes.errors |= {name: unreachable(name) for name in "ab"}
    await bench.settled(await bench.start("a", "b", "c"))
    bench.nodes.hanging |= set("def")
    left = await bench.start("d", "e", "f")
    await asyncio.sleep(0)
    left.abandon()
    await bench.settled(left)
    assert bench.writer.outcomes == WriteOutcomes(complete=1, short=1, failed=1, abandoned=1)
