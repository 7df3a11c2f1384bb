"""Lost chunks come back from the peers: the right bytes, only while they are lost, and with patience."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from services.storage import refetch
from services.storage.metrics import StorageMetrics
from services.storage.ports import Chunk
from services.storage.refetch import Refetcher, RefetchPace
from shared.background_tasks import BackgroundTasks
from shared.byte_budget import ByteBudget
from shared.contracts.cluster import NodeState, StorageNode
from shared.errors import (
    ChunkCorruptError,
    ChunkNotFoundError,
    DiskFullError,
    LeaderUnavailableError,
    PeerUnreachableError,
    TrivetError,
)
from shared.units import MIB
from tests.chance import random_bytes
from tests.integration.storage.support import poll
from tests.unit.storage.fake_tier import FakeTier

PACE = RefetchPace(interval_s=0.01, retry_base_s=0.01, retry_cap_s=0.02, max_bytes_per_s=1000 * MIB)


def node(name: str) -> StorageNode:
    return StorageNode(id=name, url=f"http://{name}", zone="z", state=NodeState.ACTIVE, capacity_bytes=1)


class FakePeers:
    """Two peers, each with chunks or errors by digest; `error` when consensus does not answer."""

    questions = 0

    def __init__(self) -> None:
        self.held: dict[str, dict[str, bytes | TrivetError]] = {"first": {}, "second": {}}
        self.asked: list[tuple[str, str]] = []
        self.error: TrivetError | None = None
        self.on_ask = lambda: None

    async def holders(self, digest: str) -> Sequence[StorageNode]:
        self.questions += 1
        if self.error is not None:
            raise self.error
        return [node("first"), node("second")]

    async def get_chunk(self, peer: StorageNode, digest: str) -> bytes:
        self.asked.append((peer.id, digest))
        self.on_ask()
        found = self.held[peer.id].get(digest, ChunkNotFoundError("absent"))
        if isinstance(found, TrivetError):
            raise found
        return found


class Bench:
    def __init__(self) -> None:
        self.tier = FakeTier()
        self.peers = FakePeers()
        self.registry = CollectorRegistry()
        self.budget = ByteBudget(MIB, max_wait_s=0.01)
        self.refetcher = Refetcher(
            self.tier, self.peers, PACE, self.budget, StorageMetrics(self.registry), typical_chunk_bytes=1000
        )

    def lose(self, start_index: int = 3) -> tuple[str, bytes]:
        body = random_bytes(500)
        digest = blake3(body).hexdigest()
        self.tier.lost[digest] = start_index
        return digest, body

    def outcomes(self, outcome: str) -> float:
        return self.registry.get_sample_value("trivet_storage_refetches_total", {"outcome": outcome}) or 0


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_the_first_peer_that_has_it_whole_gives_it_back(bench):
    """One that lacks it, is away, found it corrupt or sends something else is passed over."""
    wanted: dict[str, bytes] = {}
    for trouble in (None, PeerUnreachableError("away"), ChunkCorruptError("bad"), b"something else"):
        digest, body = bench.lose()
        wanted[digest] = body
        bench.peers.held["second"][digest] = body
        if trouble is not None:
            bench.peers.held["first"][digest] = trouble
    assert await bench.refetcher.walk() == 0
    assert bench.tier.bodies == wanted
    assert set(bench.tier.recorded.values()) == {3}
    assert bench.tier.lost == {}
    assert bench.outcomes("fetched") == 4
    assert bench.refetcher.status(0).fetched_chunks == 4
    assert bench.budget.used_bytes == 0
    # A peer that stands first in placement order is asked first, and nobody is asked twice.
    assert [name for name, digest in bench.peers.asked] == ["first", "second"] * 4


async def test_what_no_peer_has_stays_lost_and_hinders_no_other(bench):
    """It is told apart whether all answered or one could not, and tried again at the next walk."""
    absent, _ = bench.lose()
    unreachable, body = bench.lose()
    available, good = bench.lose()
    bench.peers.held["first"] = {unreachable: PeerUnreachableError("away"), available: good}
    assert await bench.refetcher.walk() == 2
    assert set(bench.tier.lost) == {absent, unreachable}
    assert (bench.outcomes("absent"), bench.outcomes("unreachable"), bench.outcomes("fetched")) == (1, 1, 1)
    assert bench.registry.get_sample_value("trivet_storage_lost_chunks") == 2
    bench.peers.held["first"][unreachable] = body
    assert await bench.refetcher.walk() == 1
    assert bench.tier.bodies[unreachable] == body


async def test_a_chunk_deleted_while_it_is_fetched_stays_deleted(bench):
    """Garbage collection that came in between is not undone."""
    digest, body = bench.lose()
    bench.peers.held["first"][digest] = body
    bench.peers.on_ask = lambda: bench.tier.lost.pop(digest)
    assert await bench.refetcher.walk() == 0
    assert bench.tier.bodies == {}
    assert bench.outcomes("not_lost") == 1


@pytest.mark.parametrize("where", ["consensus", "disk"])
async def test_the_loop_outlives_every_trouble(where, bench):
    """Without a node map, or without room, it waits and goes on; then everything comes back."""
    digest, body = bench.lose()
    bench.peers.held["first"][digest] = body
    if where == "consensus":
        bench.peers.error = LeaderUnavailableError("nobody leads")
    else:
        bench.tier.put_error = DiskFullError("full")
    loop = bench.refetcher.start(BackgroundTasks())
    await poll(lambda: bench.peers.questions >= 3)
    assert bench.tier.bodies == {}
    bench.peers.error = bench.tier.put_error = None
    await poll(lambda: digest in bench.tier.bodies)
    assert not loop.done()
    loop.cancel()


@pytest.mark.parametrize("trouble", ["no consensus", "no memory", "no room"])
async def test_what_is_lost_is_shown_while_no_walk_reaches_its_end(trouble, bench):
    """The gauge tells what the tier knows, not what the last complete walk counted: 0 after a start."""
    for _ in range(3):
        digest, body = bench.lose()
        bench.peers.held["first"][digest] = body
    if trouble == "no consensus":
        bench.peers.error = LeaderUnavailableError("nobody leads")
    elif trouble == "no memory":
        await bench.budget.acquire(MIB)
    else:
        bench.tier.put_error = DiskFullError("full")
    with pytest.raises(TrivetError):
        await bench.refetcher.walk()
    assert bench.registry.get_sample_value("trivet_storage_lost_chunks") == 3


async def test_more_lost_chunks_than_fit_on_a_page_all_come_back(bench):
    """The walk goes on where a page ended, whatever is restored on the way."""
    for number in range(200):
        digest, body = bench.lose()
        if number % 3:
            bench.peers.held["first"][digest] = body
    assert await bench.refetcher.walk() == 67
    assert len(bench.tier.bodies) == 133


async def test_the_pause_grows_with_failures_and_stays_below_the_cap(bench, monkeypatch):
    """While nothing is lost the list is looked at regularly; then failures space the attempts out, with jitter."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds:
            pauses.append(seconds)
        if len(pauses) == 200:
            bench.tier.lost.clear()
        if len(pauses) == 202:
            raise asyncio.CancelledError

    bench.lose()
    bench.peers.error = LeaderUnavailableError("away")
    bench.refetcher._pace = RefetchPace(interval_s=7, retry_base_s=5, retry_cap_s=60, max_bytes_per_s=1)
    monkeypatch.setattr(refetch.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await bench.refetcher.start(BackgroundTasks())
    assert all(0 <= pause <= ceiling_s for pause, ceiling_s in zip(pauses, (5, 10, 20, 40), strict=False))
    assert 0 <= min(pauses[4:200]) < 12
    assert 48 < max(pauses[4:200]) <= 60
    assert pauses[200:] == [7, 7]


async def test_a_chunk_that_a_put_brought_meanwhile_is_not_counted_as_fetched(bench):
    """The first to restore it ends it."""
    digest, body = bench.lose()
    bench.peers.held["first"][digest] = body
    await bench.tier.put(Chunk(digest, len(body), (body,)), 9)
    bench.tier.lost[digest] = 3
    bench.peers.on_ask = bench.tier.lost.clear
    await bench.refetcher.walk()
    assert bench.refetcher.status(0).fetched_chunks == 0
    assert bench.tier.recorded[digest] == 9


async def test_a_walk_tries_every_page_of_lost_chunks(bench, monkeypatch):
    """Those of the last page too, whether it is full or not; the others stay listed."""
    monkeypatch.setattr(refetch, "_PAGE", 3)
    for count in (3, 4, 7):
        bench.tier.lost.clear()
        bench.peers.asked.clear()
        lost = {bench.lose()[0] for _ in range(count)}
        assert await bench.refetcher.walk() == count
        assert {digest for _, digest in bench.peers.asked} == lost
