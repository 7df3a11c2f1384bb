"""One chunk from its replicas: the first right answer wins, a wrong byte never does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from services.gateway.ports import FileChunk
from services.gateway.replicas.confirmations import Confirmations
from services.gateway.replicas.health import NodeHealth
from services.gateway.replicas.reader import FetchedChunk, ReadOutcomes, ReplicaReader
from shared.background_tasks import BackgroundTasks
from shared.errors import ChunkCorruptError, DataUnavailableError
from tests.unit.gateway.fakes import FakeNodes, node, unreachable

pytestmark = pytest.mark.virtual_time

CHUNK = FileChunk.of(b"some bytes")


class Bench:
    """A reader over fake nodes a, b and c that all hold the chunk."""

    def __init__(self, tasks: BackgroundTasks) -> None:
        self.nodes = FakeNodes()
        for name in "abc":
            self.nodes.of(name)[CHUNK.digest] = CHUNK.data
        self.health = NodeHealth(self.nodes, tasks, reconnect_base_s=5, reconnect_limit_s=60)
        self.reader = ReplicaReader(self.nodes, self.health, Confirmations(max_age_s=60), timeout_s=0.3)

    async def fetch(self, *node_ids: str) -> FetchedChunk:
        return await self.reader.fetch(CHUNK.digest, len(CHUNK.data), [node(node_id) for node_id in node_ids])


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with BackgroundTasks() as tasks:
        yield Bench(tasks)


async def test_one_replica_is_asked_when_it_answers(bench) -> None:
    """No second copy crosses the network for nothing."""
    fetched = await bench.fetch("a", "b", "c")
    assert fetched == FetchedChunk(CHUNK.data, "a", ())
    assert sum(bench.nodes.calls.values()) == 1


FAULTS = {
    "missing": lambda bench: bench.nodes.of("a").clear(),
    "spoiled": lambda bench: bench.nodes.spoiled.add("a"),
    "corrupt": lambda bench: bench.nodes.errors.update(a=ChunkCorruptError("x")),
    "unreachable": lambda bench: bench.nodes.errors.update(a=unreachable("a")),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_next_replica_is_asked_at_once_after_a_failure(bench, fault) -> None:
    """Right bytes come from another node, and a faulty replica is reported for repair, an unreachable one is not."""
    FAULTS[fault](bench)
    began = time.monotonic()
    fetched = await bench.fetch("a", "b", "c")
    assert time.monotonic() == began
    assert fetched.data == CHUNK.data
    assert fetched.node_id == "b"
    assert [faulty.id for faulty in fetched.faulty_nodes] == ([] if fault == "unreachable" else ["a"])


ROTTEN = {
    "one bit of the first byte": bytes([CHUNK.data[0] ^ 1]) + CHUNK.data[1:],
    "one bit of the last byte": CHUNK.data[:-1] + bytes([CHUNK.data[-1] ^ 1]),
    "zeros": bytes(len(CHUNK.data)),
    "the last byte is missing": CHUNK.data[:-1],
    "one byte more": CHUNK.data + b"s",
}


@pytest.mark.parametrize("data", ROTTEN.values(), ids=ROTTEN.keys())
@pytest.mark.parametrize("place", ["first", "hedged", "last"])
async def test_wrong_bytes_are_never_handed_on_whoever_sends_them(bench, place, data) -> None:
    """Also of the right length, and from a replica that was asked because another one hung, or as the last."""
    order = {"first": "abc", "hedged": "bac", "last": "bca"}[place]
    bench.nodes.of("a")[CHUNK.digest] = data
    if place == "hedged":
        bench.nodes.hanging.add("b")
    if place == "last":
        bench.nodes.errors["b"] = unreachable("b")
        bench.nodes.of("c").clear()
        with pytest.raises(DataUnavailableError) as caught:
            await bench.fetch(*order)
        assert caught.value.facts["outcomes"]["a"] == "chunk_corrupt"
        return
    fetched = await bench.fetch(*order)
    assert fetched.data == CHUNK.data
    assert [faulty.id for faulty in fetched.faulty_nodes] == ["a"]


async def test_a_hung_replica_is_overtaken_after_the_hedge_delay(bench) -> None:
    """The reader waits for the usual time and no longer, and the loser is cancelled."""
    bench.nodes.hanging.add("a")
    began = time.monotonic()
    fetched = await bench.fetch("a", "b", "c")
    assert 0.04 < time.monotonic() - began < 0.25
    assert fetched.node_id == "b"
    assert bench.nodes.calls["get", "c"] == 0


async def test_every_node_is_tried_before_giving_up(bench) -> None:
    """One good replica, last in the list, behind a hung, a lying and a dead one."""
    bench.nodes.hanging.add("a")
    bench.nodes.spoiled.add("b")
    bench.nodes.errors["d"] = unreachable("d")
    fetched = await bench.fetch("a", "b", "d", "c")
    assert fetched.data == CHUNK.data
    assert fetched.node_id == "c"


async def test_an_avoided_node_is_asked_last_but_asked(bench) -> None:
    """Its replica may be the only good one."""
    bench.health.failed(node("a"), unreachable("a"))
    assert (await bench.fetch("a", "b")).node_id == "b"
    bench.nodes.of("b").clear()
    assert (await bench.fetch("a", "b")).node_id == "a"


async def test_without_a_good_replica_the_error_says_why_node_by_node(bench) -> None:
    """Explicit, and never a wrong byte."""
    bench.nodes.spoiled.add("a")
    bench.nodes.of("b").clear()
    bench.nodes.errors["c"] = unreachable("c")
    with pytest.raises(DataUnavailableError) as caught:
        await bench.fetch("a", "b", "c")
    assert caught.value.facts["outcomes"] == {"a": "chunk_corrupt", "b": "chunk_not_found", "c": "peer_unreachable"}


async def test_hung_replicas_are_given_up_within_the_timeout(bench) -> None:
    """All hang: the error comes after the hedges and one timeout."""
    bench.nodes.hanging |= {"a", "b", "c"}
    began = time.monotonic()
    with pytest.raises(DataUnavailableError):
        await bench.fetch("a", "b", "c")
    assert time.monotonic() - began < 1.5


async def test_without_nodes_there_is_no_data(bench) -> None:
    """An empty map is an answer, not a hang."""
    with pytest.raises(DataUnavailableError):
        await bench.fetch()


async def test_chunks_that_came_and_those_that_no_node_gave_are_counted(bench) -> None:
    """And each node that had to be asked after the first."""
    await bench.fetch("a", "b", "c")
    bench.nodes.errors["a"] = ChunkCorruptError("x")
    await bench.fetch("a", "b", "c")
    bench.nodes.errors |= {"b": unreachable("b"), "c": unreachable("c")}
    with pytest.raises(DataUnavailableError):
        await bench.fetch("a", "b", "c")
    assert bench.reader.outcomes == ReadOutcomes(fetched=2, failed=1, further_attempts=1)
